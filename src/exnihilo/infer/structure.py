"""Structured output: text that a JSON schema, a regular expression, a choice or a grammar allows.

::

    shape = constraint({"json_schema": {"type": "object", "properties": {"age": {"type": "integer"}}}}, codec)
    shape = constraint({"regex": r"[0-9]{4}-[0-9]{2}"}, codec)          # the whole text, not a part of it
    shape = constraint({"choice": ["yes", "no"]}, codec)
    shape = constraint({"grammar": 'start: "a" ("b" | "c")+'}, codec)   # Lark's notation
    Engine(model).run([Request(ids, constraint=shape)])

    state = shape.start()           # one a completion
    state.allowed()                 # bool (V): the ids that may come next
    state.take(id)
    state.done, state.accepting     # nothing may follow; the text may end here

A specification is compiled once, before it comes near the engine: first in a process of its own with limits
of time, memory and size (`structure_check`), since a hostile grammar can crash or hang a compiler; then here.
What a step may cost is bounded, too. All of it fails closed: what cannot be compiled is refused with a
`UsageError`, and a text whose state breaks in the middle ends with the reason "failed".

The extra "structured" brings llguidance, which knows which ids a grammar allows, token by token.

References: Willard & Louf 2023 (arXiv:2307.09702); https://github.com/guidance-ai/llguidance

Key: V ids of the codec
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exnihilo.codec.base import ByteCodec, Codec
from exnihilo.codec.pretrained import Pretrained
from exnihilo.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

KINDS = ("json_schema", "regex", "choice", "grammar")
LONGEST = 1 << 18  # characters of a specification
SECONDS = 10  # that compiling it may take
_ROOM = 2 << 30  # bytes of address space for the process that tries it
_LIMITS = {  # of llguidance, in its own units: about 20 ms to begin, 15 ms a step, 40 MB
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_lexer_states": 20_000,
    "max_grammar_size": 200_000,
    "verbose_errors": False,
}
# White space between the parts of a JSON text: bounded, or a small model would write nothing else.
_JSON = {"whitespace_pattern": r"( |\n {0,16}|\n\t{1,6})", "whitespace_flexible": True, "lenient": False}
_KEPT = 256  # compiled specifications

_tokenizers: OrderedDict[str, LLTokenizer] = OrderedDict()
_compiled: OrderedDict[tuple[str, str], LLMatcher] = OrderedDict()
_lock = threading.Lock()


class State:
    """Where one text stands in what is allowed.

    Attributes:
        accepting: the text so far is a whole one: it may end here.
        done: nothing can follow.
        failed: why nothing can be said any more (a step that costs more than its limit); None: all is well.
    """

    def __init__(self, matcher: LLMatcher, size: int, ends: Collection[int] = ()) -> None:
        self._matcher, self._size = matcher, size
        self._ends = np.asarray(sorted(ends), np.int64)
        self.failed: str | None = None
        self._look()

    def _look(self) -> None:
        self.done = self.accepting = False
        self._allowed_V = np.zeros(self._size, np.bool_)
        stopped = self._matcher.is_stopped()
        if not stopped:
            bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
            self._allowed_V[:] = np.unpackbits(bits, bitorder="little", count=self._size)
            stopped = self._matcher.is_stopped()  # computing can find that nothing follows, or fail
        if self._matcher.is_error():
            self.failed, self.done = self._matcher.get_error() or "the limits of a step were met", True
            self._allowed_V[:] = False
            return
        self.accepting = self._matcher.is_accepting()
        self._allowed_V[self._ends] = False  # how a text ends is the engine's matter
        if stopped:
            self._allowed_V[:] = False
        self.done = not self._allowed_V.any()
        if self.done and not self.accepting:
            self.failed = "no id of the vocabulary may follow"

    def allowed(self) -> np.ndarray:
        """Ids that may come next, bool (V); ids that end a text are not among them (see `accepting`)."""
        return self._allowed_V

    def take(self, id: int) -> None:
        """The text goes on with this id; one that is not allowed makes the state `failed`."""
        if self.failed is not None:
            return
        if not (0 <= id < self._size and self._allowed_V[id]):
            self.failed, self.done, self.accepting = f"id {id} is not allowed here", True, False
            self._allowed_V = np.zeros(self._size, np.bool_)
            return
        self._matcher.consume_token(id)
        self._look()


class Constraint:
    """A compiled specification; any number of texts may follow it at once.

    Attributes:
        kind: one of `KINDS`.
        size: ids of the codec, V.
    """

    def __init__(self, kind: str, matcher: LLMatcher, size: int, ends: Collection[int]) -> None:
        self.kind, self.size = kind, size
        self._matcher, self._ends, self._lock = matcher, frozenset(ends), threading.Lock()

    def start(self) -> State:
        """The state of a text that has not begun."""
        with self._lock:
            copy = self._matcher.deep_copy()
        return State(copy, self.size, self._ends)

    def __repr__(self) -> str:
        return f"Constraint({self.kind})"


def constraint(spec: Mapping[str, Any], codec: Codec) -> Constraint:
    """Compile a specification. Takes a tenth of a second the first time; call it outside of event loops.

    Args:
        spec: one of ``{"json_schema": object, boolean or JSON text}``, ``{"regex": text}`` (Rust's notation,
            without look-around; the whole text must match), ``{"choice": [texts]}`` and ``{"grammar": text}``
            (Lark's notation as llguidance reads it, with a rule ``start``).
        codec: of the model whose text is to follow it.

    Raises:
        UsageError: a specification that is malformed, uses what is not supported, is too large or takes too
            long; or a codec whose ids are no bytes.
        MissingExtra: llguidance is not installed.

    >>> constraint({"choice": ["yes", "no"]}, codec).start().accepting  # doctest: +SKIP
    False
    """
    kind, grammar = _grammar(spec)
    tokenizer = _tokenizer(codec)
    key = (codec.hash, grammar)
    with _lock:
        found = _compiled.get(key)
        if found is not None:
            _compiled.move_to_end(key)
    if found is None:
        _try(kind, grammar, codec)
        found = _make(tokenizer, grammar)
        if found.is_error():
            raise _refused(kind, found.get_error())
        with _lock:
            _compiled[key] = found
            while len(_compiled) > _KEPT:
                _compiled.popitem(last=False)
    out = Constraint(kind, found.deep_copy(), codec.vocab_size, {codec.eos_id})
    if reason := out.start().failed:
        raise _refused(kind, reason)
    return out


def _make(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    from llguidance import LLMatcher, LLParserLimits

    return LLMatcher(tokenizer, grammar, log_level=0, limits=LLParserLimits(**_LIMITS))  # type: ignore[arg-type]


def _grammar(spec: Mapping[str, Any]) -> tuple[str, str]:
    """A specification's kind, and llguidance's form of it."""
    if not isinstance(spec, Mapping) or len(spec) != 1 or next(iter(spec)) not in KINDS:
        raise UsageError(
            f"a constraint {_short(spec)}",
            expected=f"an object with one of the keys {', '.join(KINDS)}",
            next='{"choice": ["yes", "no"]}',
        )
    ((kind, value),) = spec.items()
    text = _text(kind, value)
    if len(text) > LONGEST:
        raise UsageError(
            f"a {kind} of {len(text)} characters",
            expected=f"at most {LONGEST}",
            next="a shorter specification",
        )
    try:
        from llguidance import LLMatcher
    except ImportError:
        raise MissingExtra.of("llguidance", "structured") from None
    try:
        if kind == "json_schema":
            return kind, LLMatcher.grammar_from_json_schema(text, overrides=_JSON)  # type: ignore[arg-type]
        if kind == "regex":
            return kind, LLMatcher.grammar_from_regex(text)
        return kind, LLMatcher.grammar_from_lark(text)
    except (ValueError, RecursionError) as error:
        raise _refused(kind, str(error)) from None


def _text(kind: str, value: Any) -> str:
    """The specification as text, with its outer form checked."""
    if kind == "json_schema":
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise _refused(kind, f"it is no JSON: {error}") from None
        if value is True:  # any JSON
            value = {}
        if not isinstance(value, dict):
            raise _refused(kind, f"it is {_short(value)}, which nothing follows")
        try:
            return json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise _refused(kind, f"it is no JSON: {error}") from None
    if kind == "choice":
        whole = isinstance(value, (list, tuple)) and value and all(isinstance(x, str) and x for x in value)
        if not whole:
            raise UsageError(
                f"choice={_short(value)}",
                expected="a list of texts, none empty",
                next='{"choice": ["yes", "no"]}',
            )
        return "start: " + " | ".join(json.dumps(_utf8(kind, x), ensure_ascii=False) for x in value)
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{kind}={_short(value)}", expected="a text that is not empty")
    return _utf8(kind, value)


def _utf8(kind: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _refused(kind, "it holds a lone surrogate, which no UTF-8 can say") from None
    return text


def _try(kind: str, grammar: str, codec: Codec) -> None:
    """Compile in another process; refuse what is wrong, crashes or takes too much there."""
    added = codec.tokenizer.get_added_tokens_decoder()
    asked = {
        "grammar": grammar,
        "specials": [token.content for i, token in sorted(added.items()) if i in codec.special_ids],
        "seconds": SECONDS,
        "bytes": _ROOM,
        "limits": _LIMITS,
    }
    script = Path(__file__).with_name("structure_check.py")
    keep = {k: v for k, v in os.environ.items() if k in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")}
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(script)],
            input=json.dumps(asked).encode(),
            capture_output=True,
            timeout=3 * SECONDS,  # its processor time is limited to SECONDS; it may wait beside others
            env={**keep, "RUST_BACKTRACE": "0"},
        )
    except subprocess.TimeoutExpired:
        raise _refused(kind, f"it was not compiled within {SECONDS} seconds") from None
    if done.returncode:
        raise _refused(
            kind, f"it was not compiled within {SECONDS} seconds and {_ROOM >> 30} GB, or broke the compiler"
        )
    if done.stdout:
        raise _refused(kind, done.stdout.decode("utf-8", "replace"))


def _tokenizer(codec: Codec) -> LLTokenizer:
    """llguidance's form of a codec."""
    with _lock:
        found = _tokenizers.get(codec.hash)
    if found is not None:
        return found
    from llguidance import LLTokenizer, TokenizerWrapper

    if isinstance(codec, ByteCodec):
        found = LLTokenizer(TokenizerWrapper(_Ids(codec)), eos_token=codec.eos_id, slices=[])
    elif isinstance(codec, Pretrained):
        try:
            found = LLTokenizer(codec.tokenizer.to_str(), eos_token=codec.eos_id, slices=[])
        except ValueError as error:
            raise UsageError(f"structured output with this tokenizer: {error}") from None
    else:
        raise UsageError(
            f"structured output with a {codec.kind} tokenizer, whose ids stand for no certain bytes",
            expected="a byte-level tokenizer, as decoders have",
        )
    with _lock:
        _tokenizers[codec.hash] = found
        while len(_tokenizers) > 8:
            _tokenizers.popitem(last=False)
    return found


class _Ids:
    """What llguidance asks of a tokenizer."""

    def __init__(self, codec: ByteCodec) -> None:
        added = codec.tokenizer.get_added_tokens_decoder()
        self.eos_token_id, self.bos_token_id = codec.eos_id, codec.bos_id
        self.special_token_ids = sorted(codec.special_ids)
        self.tokens = [
            added[i].content.encode() if i in codec.special_ids else piece
            for i, piece in enumerate(codec.pieces)
        ]
        self._codec = codec

    def __call__(self, text: str | bytes) -> list[int]:
        return self._codec.encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))


def _refused(kind: str, why: str) -> UsageError:
    lines = [line.strip() for line in why.strip().splitlines() if line.strip()]
    return UsageError(
        f"a {kind} that cannot be followed: {' '.join(lines)[:400]}",
        expected="one that can be compiled",
        next="see docs/structured.md for what is supported",
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
