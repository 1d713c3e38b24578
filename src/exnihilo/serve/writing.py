"""What requests to decoders have in common: limits, prompts, structure, and tokens as they are told of.

::

    job = await job_of(served, settings, asked, prompts=[ids], most=64, top=5)
    ticket = submit(shelf, served, job)

Each limit that a request exceeds is named with both numbers. What takes time (long texts, compiling a schema)
is done in another thread.
"""

from __future__ import annotations

import asyncio
import functools
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from exnihilo.codec.base import ByteCodec
from exnihilo.errors import ExNihiloError
from exnihilo.infer import stops
from exnihilo.infer.request import Request
from exnihilo.infer.sampling import Sampling
from exnihilo.serve import schemas
from exnihilo.serve.errors import ApiError
from exnihilo.serve.texts import Fact
from exnihilo.serve.tickets import Job, Ticket

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.serve.models import Served, Shelf
    from exnihilo.serve.settings import Settings

T = TypeVar("T")
_LONG = 4096  # characters: more are tokenized in another thread
_STOPS = 16
_COMPILE = 16  # structures that may wait to be compiled


class _Listed(Protocol):
    @property
    def top(self) -> Sequence[tuple[int, float]]: ...


class _Compiling:
    """One thread that compiles structures, apart from those that tokenize: a hostile one takes seconds."""

    def __init__(self) -> None:
        self.waiting = 0
        self._pool: ThreadPoolExecutor | None = None

    def pool(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="structures")
        return self._pool


_compiling = _Compiling()


def find(shelf: Shelf, name: str, kind: str | None = None) -> Served:
    """A model by its name.

    Args:
        kind: that it must be of: decoder or encoder.

    Raises:
        ApiError: 404 there is none, 400 it is of the other kind.
    """
    try:
        served = shelf.get(name)
    except KeyError:
        known = ", ".join(each.name for each in shelf.all())
        raise ApiError(
            f"there is no model {name!r}; there are: {known}",
            status=404,
            param="model",
            code="model_not_found",
        ) from None
    if kind is not None and served.kind != kind:
        does = "it writes no text" if kind == "decoder" else "it only writes text"
        raise ApiError(
            f"{name} is a model that was trained for {served.task or 'another task'}: {does}", param="model"
        )
    return served


async def aside(characters: int, work: Callable[[], T]) -> T:
    """The result of `work` on so many characters, in another thread where it would hold up the loop."""
    return await asyncio.to_thread(work) if characters > _LONG else work()


async def job_of(
    served: Served,
    settings: Settings,
    asked: schemas.Sampled,
    *,
    prompts: Sequence[Sequence[int]],
    param: str,
    most: int | None,
    default: int | None,
    top: int | None,
    structure: Mapping[str, Any] | None = None,
    scored: bool = False,
) -> Job:
    """A request to a decoder, checked in full.

    Args:
        prompts: ids of each; `param` is the parameter they came from.
        most: tokens of a text that were asked for; None: `default`, or as many as there is room for.
        top: likeliest tokens to tell of at each place; None: tokens are not told of.
        structure: what texts must look like, as `infer.structure.constraint` takes it.
        scored: where tokens are told of, those of the prompts are, too.

    Raises:
        ApiError: 400 with the parameter's name.
    """
    n = asked.n or 1
    texts, limit = n * len(prompts), min(settings.max_n, settings.slots + settings.queue)
    if texts > limit:
        raise ApiError(
            f"{len(prompts)} prompts with n={n} are {texts} texts, at most {limit} may be asked for at once",
            param="n" if n > 1 else param,
        )
    context = served.context
    for ids in prompts:
        if len(ids) >= context:
            raise ApiError(
                f"the prompt has {len(ids)} tokens, and the context of {served.name} is {context}: at most "
                f"{context - 1} leave room for an answer",
                param=param,
                code="context_length_exceeded",
            )
    if most is not None and most > settings.max_new_tokens:
        raise ApiError(
            f"max_tokens is {most}, and at most {settings.max_new_tokens} tokens a text are written here",
            param="max_tokens",
        )
    most = most or min(settings.max_new_tokens, default or context)
    compiled = None if structure is None else await compile_structure(served, structure)
    ends = frozenset({served.codec.eos_id, *(served.chat.stop_ids if served.chat is not None else ())})
    try:
        sampling = sampling_of(asked)
        sampling.fits(served.loaded.model.config.vocab_size)
        strings = stops.check(() if asked.stop is None else asked.stop)
        seed = int.from_bytes(os.urandom(7)) if asked.seed is None else asked.seed % 2**64
        requests = [
            Request(
                ids, most, sampling, n=n, seed=seed, number=i * n, stop_ids=ends,
                scored=scored and top is not None, **_extras(top, compiled),
            )
            for i, ids in enumerate(prompts)
        ]  # fmt: skip
        for request in requests:
            request.check(served.loaded.model.config.vocab_size, context)
    except ExNihiloError as error:
        found = ApiError.of(error)
        found.param = found.param or param
        raise found from None
    if len(strings) > _STOPS:
        raise ApiError(f"{len(strings)} stop texts; at most {_STOPS}", param="stop")
    return Job(requests, strings, facts=top is not None, seconds=settings.timeout)


def _extras(top: int | None, compiled: Any) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if top:
        out["top"] = top
    if compiled is not None:
        out["constraint"] = compiled
    return out


def sampling_of(asked: schemas.Sampled) -> Sampling:
    """How tokens are chosen.

    Raises:
        UsageError: a value that cannot be obeyed.
    """
    bias: dict[int, float] = {}
    for name, value in (asked.logit_bias or {}).items():
        if not (name.isascii() and name.isdigit() and len(name) < 10):
            raise ApiError(f"logit_bias has the key {name!r:.40}; expected: a token id", param="logit_bias")
        bias[int(name)] = value
    return Sampling(
        temperature=1.0 if asked.temperature is None else asked.temperature,
        top_k=asked.top_k,
        top_p=asked.top_p,
        min_p=asked.min_p,
        repetition_penalty=1.0 if asked.repetition_penalty is None else asked.repetition_penalty,
        presence_penalty=asked.presence_penalty or 0.0,
        frequency_penalty=asked.frequency_penalty or 0.0,
        logit_bias=bias,
    )


def structure_of(asked: schemas.Sampled) -> dict[str, Any] | None:
    """What ``response_format`` asks for, as `infer.structure.constraint` takes it; None: any text."""
    form = asked.response_format
    if form is None or isinstance(form, schemas.TextFormat):
        return None
    if isinstance(form, schemas.JsonFormat):
        return {"json_schema": {"type": "object"}}
    if isinstance(form, schemas.SchemaFormat):
        return {"json_schema": form.json_schema.schema_}
    if isinstance(form, schemas.RegexFormat):
        return {"regex": form.regex}
    if isinstance(form, schemas.ChoiceFormat):
        return {"choice": form.choice}
    return {"grammar": form.grammar}


async def compile_structure(served: Served, spec: Mapping[str, Any]) -> Any:
    """A constraint, compiled in another thread under limits.

    Raises:
        ApiError: 400: it cannot be compiled, or the package for it is not installed here.
    """
    from exnihilo.infer.structure import constraint

    if _compiling.waiting >= _COMPILE:
        raise ApiError(
            "too many schemas, expressions or grammars wait to be compiled; ask again in 5 s",
            status=429, code="queue_full", retry=5,
        )  # fmt: skip
    _compiling.waiting += 1
    try:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(_compiling.pool(), constraint, spec, served.codec)
    except ExNihiloError as error:
        raise ApiError.of(error, param="response_format") from None
    finally:
        _compiling.waiting -= 1


def check_open(shelf: Shelf) -> None:
    """Raises ApiError (503) where the server is going down."""
    if shelf.draining:
        raise ApiError("the server is going down", status=503, code="shutting_down", retry=5)


def submit(shelf: Shelf, served: Served, job: Job) -> Ticket:
    """Put a job before its model.

    Raises:
        ApiError: 429 too many wait; 503 the server is going down.
    """
    check_open(shelf)
    assert served.worker is not None
    ticket = served.worker.submit(job)
    if shelf.metrics is not None:
        shelf.metrics.prompt_tokens.labels(served.name).inc(ticket.prompt_tokens)
    return ticket


def usage(job: Job, made: int) -> dict[str, int]:
    """Counts of tokens: each prompt once, as it is read once for all of its texts."""
    prompt = sum(len(r.ids) for r in job.requests)
    return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}


@functools.lru_cache(maxsize=1 << 15)
def _token(codec: Codec, id: int) -> tuple[str, tuple[int, ...]]:
    if id >= codec.vocab_size:  # an embedding may have spare rows
        return f"<|{id}|>", ()
    text = codec.decode([id], skip_special=False)
    raw = codec.pieces[id] if isinstance(codec, ByteCodec) else b""
    if raw and "\ufffd" in text:  # a part of a character: as OpenAI writes it, so that two parts differ
        text = "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
    return text, tuple(raw or text.encode())


def token_text(codec: Codec, id: int) -> str:
    """A token's text; ``bytes:\\xe2`` where it is a part of a character."""
    return _token(codec, id)[0]


def token(codec: Codec, id: int, logprob: float) -> dict[str, Any]:
    """A token as chats tell of it: text, bytes, log-probability."""
    text, raw = _token(codec, id)
    return {"token": text, "logprob": finite(logprob), "bytes": list(raw)}


def facts_of(codec: Codec, facts: Sequence[Fact]) -> list[dict[str, Any]]:
    """Tokens as chats tell of them."""
    return [
        {
            **token(codec, fact.id, fact.logprob),
            "processed_logprob": finite(fact.processed),
            "top_logprobs": [token(codec, id, logprob) for id, logprob in fact.top],
        }
        for fact in facts
    ]


def fingerprint(served: Served) -> str:
    """Tells answers of different weights apart: the checkpoint and when it was written."""
    return f"{served.path.name}-{served.created}"


def told(facts: Sequence[Sequence[_Listed]]) -> int:
    """How much there is to tell of tokens, as `aside` counts: about 20 characters each."""
    return sum(20 * (1 + len(mine[-1].top)) * len(mine) for mine in facts if mine)


def encoded(answer: Mapping[str, Any]) -> bytes:
    """An answer as JSON."""
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def finite(value: float) -> float | None:
    """JSON has no infinity: null."""
    return value if math.isfinite(value) else None
