"""A tokenizer in the words of GGUF: pieces, kinds, merges, and llama.cpp's name of the pre-tokenizer.

::

    words = vocabulary(codec, size=model.config.vocab_size)
    words.model, words.pre          # ("gpt2", "qwen2"): byte-level BPE cut by Qwen2's pattern

llama.cpp does not read a pattern from the file, it knows some by name. The usual converter finds the name by
hashing the ids of a probe, which fails for every new vocabulary; here it follows from what the tokenizer is,
and the proof of an export holds the ids against llama.cpp's own. What llama.cpp has no name for is refused.

A vocabulary of characters goes as SentencePiece (``llama``) without merges: its only loss is U+2581, which
stands for the space there.

Reference: llama.cpp's src/llama-vocab.cpp; keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from exnihilo.codec.base import Codec
from exnihilo.errors import ModelError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
SPACE = "\u2581"
_NEVER = "<|never|> <|never|>"  # a merge of what no text holds: llama.cpp demands that there be one
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_HEADS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])")
_WORD = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_PATTERNS = {  # of a split that comes before GPT-2's table of bytes
    **{f"{head}{_WORD}|\\p{{N}}{_TAIL}": "qwen2" for head in _HEADS},
    **{f"{head}{_WORD}|\\p{{N}}{{1,3}}{_TAIL}": "llama3" for head in _HEADS},
}


@dataclass(frozen=True)
class Words:
    """What a file says of a tokenizer.

    Attributes:
        model: "gpt2" (byte-level BPE) or "llama" (SentencePiece).
        pre: llama.cpp's name of the pre-tokenizer.
        pieces, kinds, scores: one of each an id; scores for "llama" only.
        merges: "left right", in order.
        ids: bos, eos, padding and end-of-turn, where there are such.
        begins: texts begin with bos.
        loses: texts that llama.cpp reads differently, in words; "" where there are none.
    """

    model: str
    pre: str
    pieces: list[str]
    kinds: list[int]
    merges: list[str]
    ids: dict[str, int]
    begins: bool
    scores: list[float] = field(default_factory=list)
    loses: str = ""


def vocabulary(codec: Codec, size: int) -> Words:
    """What a file must say so that llama.cpp gives this codec's ids.

    Args:
        codec: of a decoder.
        size: rows of the model's embedding; rows without a token become unused pieces.

    Raises:
        ModelError: a kind of tokenizer, a pattern or an option that llama.cpp has no name for.
    """
    content = json.loads(codec.tokenizer.to_str())
    model = content["model"]
    if codec.kind == "chars":
        kind, pre = "llama", "default"
    elif model.get("type") == "BPE" and _byte_level(content):
        kind, pre = "gpt2", codec.gguf_pre or _pre(content)
    else:
        raise _refused(
            f"a tokenizer of kind {codec.kind!r} ({model.get('type')})", "byte-level BPE, bytes or characters"
        )
    for name, plain in (("dropout", None), ("fuse_unk", False), ("byte_fallback", codec.kind == "chars")):
        if (model.get(name) or plain) != plain:
            raise _refused(f"a tokenizer with {name}={model[name]!r}", f"{name}={plain}")
    pieces, kinds = _pieces(codec, size)
    if kind == "llama":
        turned = {" ": SPACE, "\x00": "<0x00>"}  # a string ends at NUL in llama.cpp
        kinds = [BYTE if piece == "\x00" else kind for piece, kind in zip(pieces, kinds, strict=True)]
        pieces = [turned.get(piece, piece) for piece in pieces]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    begun = codec.tokenizer.encode("", add_special_tokens=True).ids
    known = {"bos": codec.bos_id, "eos": codec.eos_id, "padding": codec.pad_id}
    wanted = {"bos": "bos", "eos": "eos", "padding": "pad"}
    ids = {name: id for name, id in known.items() if wanted[name] in codec.roles or name == "eos"}
    turn = codec.tokenizer.token_to_id("<|im_end|>")
    if turn is not None:
        ids["eot"] = turn
    loses = ""
    if kind == "llama":
        loses = "U+2581 (\u2581), which stands for a space in its vocabulary"
    elif content.get("normalizer"):
        loses = "texts that the tokenizer normalises first, which llama.cpp does not"
    return Words(
        kind,
        pre,
        pieces,
        kinds,
        merges or [_NEVER],
        ids,
        "bos" in codec.roles and begun[:1] == [codec.bos_id],
        [0.0] * size if kind == "llama" else [],
        loses,
    )


def same_text(codec: Codec, words: Words, text: str) -> bool:
    """Whether llama.cpp is to read this text as the codec does: not where `Words.loses` says otherwise."""
    if words.model == "llama":
        return SPACE not in text
    normalizer: Any = codec.tokenizer.normalizer
    return normalizer is None or normalizer.normalize_str(text) == text


def _pieces(codec: Codec, size: int) -> tuple[list[str], list[int]]:
    """Spelling and kind of each id."""
    added = codec.tokenizer.get_added_tokens_decoder()
    spelled = {id: piece for piece, id in codec.tokenizer.get_vocab(with_added_tokens=True).items()}
    pieces, kinds = [], []
    for id in range(size):
        if id in added:
            pieces.append(added[id].content)
            kinds.append(CONTROL if added[id].special else USER_DEFINED)
        elif id in spelled:
            pieces.append(spelled[id])
            kinds.append(BYTE if codec.kind == "chars" and _BYTE.fullmatch(spelled[id]) else NORMAL)
        else:
            pieces.append(f"<|unused_{id}|>")
            kinds.append(UNUSED)
    return pieces, kinds


def _byte_level(content: Mapping[str, Any]) -> bool:
    from exnihilo.codec.pretrained import is_byte_level

    return is_byte_level(content)


def _pre(content: Mapping[str, Any]) -> str:
    """llama.cpp's name for what cuts a text into words."""
    given = content.get("pre_tokenizer") or {}
    parts = given.get("pretokenizers", [given])
    if any(part.get("add_prefix_space") for part in parts if part.get("type") == "ByteLevel"):
        raise _refused("a pre-tokenizer that puts a space before texts", "add_prefix_space=false")
    whole = bool(content["model"].get("ignore_merges"))
    kinds = [part.get("type") for part in parts]
    found = None
    if kinds == ["ByteLevel"] and parts[0].get("use_regex", True):
        found = "gpt-2"
    elif kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits"):
        found = "smollm" if parts[1].get("use_regex", True) else None
    elif kinds == ["Split", "ByteLevel"] and not parts[1].get("use_regex", True):
        plain = parts[0].get("behavior") == "Isolated" and not parts[0].get("invert")
        found = _PATTERNS.get((parts[0].get("pattern") or {}).get("Regex", "")) if plain else None
    if found == "llama3":  # the same pattern under two names
        return "llama-bpe" if whole else "dbrx"
    if found is None or whole:
        said = f"a pre-tokenizer {json.dumps(given, ensure_ascii=False):.300}"
        raise _refused(
            said + (" that ignores merges" if whole else ""), "GPT-2's, Qwen2's, Llama 3's or SmolLM's"
        )
    return found


def _refused(given: str, expected: str) -> ModelError:
    return ModelError(
        f"llama.cpp has no name for {given}",
        expected=expected,
        next="export --to hf instead, or train a decoder with codec.kind=bpe",
    )
