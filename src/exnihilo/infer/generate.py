"""Text from a model: `generate` for batches, `stream` for one text as it grows.

::

    from exnihilo.infer import generate, stream
    generate(model, codec, ["Once", "The old fox"], max_new_tokens=64, temperature=0.8, top_p=0.95)[0].text
    for piece in stream(model, codec, "Once", stop=["\\n\\n"]):
        print(piece, end="", flush=True)

What is promised, and tested: a text does not depend on which others share its batch, sampled ones included;
a stream's pieces join to what `generate` gives; greedy tokens are those of Transformers' `generate` on the
exported model. No global random state is read or changed, and the model's training mode is as it was.

See docs/sampling.md.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from exnihilo.errors import UsageError
from exnihilo.infer.decoder import Frozen
from exnihilo.infer.keep import borrow
from exnihilo.infer.request import Request
from exnihilo.infer.sampling import Sampling, uniforms
from exnihilo.infer.stops import Stops, check

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.infer.structure import Constraint
    from exnihilo.model.model import Model

Prompt = str | Sequence[int]
FinishReason = Literal["eos", "stop", "length", "failed"]


@dataclass(frozen=True)
class Generation:
    """What came after one prompt.

    Attributes:
        text: decoded, without special tokens, cut before the stop string where one was met.
        ids: every drawn id, the final eos and the tokens of a stop string included.
        logprobs: of each id under the model itself (temperature 1, nothing filtered), in nats.
        processed_logprobs: of each id under the distribution it was drawn from; 0 for greedy.
        finish_reason: "eos" (or the end of what a constraint allows), "stop" (a stop string), "length"
            (max_new_tokens, or the end of the context) or "failed" (a constraint that could not be followed).
        prompt_ids: what the model was given, BOS included.
        top: at each place the likeliest ids with their log-probabilities under the model itself, best first;
            empty where none were asked for.
    """

    text: str
    ids: list[int]
    logprobs: list[float]
    processed_logprobs: list[float]
    finish_reason: FinishReason
    prompt_ids: list[int]
    top: list[tuple[tuple[int, float], ...]] = field(default_factory=list)


def generate(
    model: Model,
    codec: Codec | None,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    logit_bias: Mapping[int, float] | None = None,
    seed: int = 0,
    stop: Sequence[str] | str = (),
    eos: Collection[int] | None = None,
    rows: int = 32,
    first: int = 0,
    constraint: Constraint | None = None,
    top: int = 0,
) -> list[Generation]:
    """Continue each prompt.

    Args:
        model: a decoder, any mode; used without gradients.
        codec: its codec. None: prompts must be ids, no text comes back, and `stop` is refused.
        prompts: texts (BOS is put in front, as in training; "" starts from BOS alone) or ids, which are
            used as they are.
        max_new_tokens: at most this many; the model's context ends a text earlier.
        temperature, top_k, top_p, min_p: see `Sampling`. temperature=0 is greedy.
        repetition_penalty, presence_penalty, frequency_penalty, logit_bias: see `Sampling`.
        seed: request i draws with numbers that follow from (seed, first + i, step) alone.
        stop: texts at which to stop; they are found across token boundaries and are not in the result.
        eos: ids that end a text; default: the codec's eos. Empty: none does.
        rows: texts decoded together; changes speed and memory, never the result.
        first: number of the first request, so that a list cut in parts gives what the whole list gives.
        constraint: what each text must be like, compiled by `structure.constraint`.
        top: of so many likeliest ids the log-probabilities are told at each place.

    Returns:
        One `Generation` a prompt, in order.

    Raises:
        UsageError: a value that cannot be obeyed, or a prompt that leaves no room in the context (with both
            counts).

    >>> generate(model, codec, ["Once"], temperature=0, max_new_tokens=3)[0].finish_reason  # doctest: +SKIP
    'length'
    """
    if isinstance(prompts, str):
        raise UsageError(
            "prompts is one string", expected="a sequence of prompts", next=f"[{prompts[:20]!r}]"
        )
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
        raise UsageError(f"rows={rows!r}", expected="a whole number, 1 or above", next="rows=32")
    sampling = Sampling(
        temperature,
        top_k,
        top_p,
        min_p,
        repetition_penalty,
        presence_penalty,
        frequency_penalty,
        logit_bias or {},
    )
    job = _Job.checked(
        model, codec, prompts, max_new_tokens, sampling, seed, stop, eos, first, constraint, top
    )
    if not job.prompts:
        return []
    with Frozen(model)():  # once for all steps: switching every module's mode takes longer than a small step
        return _run(model, job, min(rows, len(job.prompts)))


def stream(
    model: Model,
    codec: Codec | None,
    prompt: Prompt,
    *,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    logit_bias: Mapping[int, float] | None = None,
    seed: int = 0,
    stop: Sequence[str] | str = (),
    eos: Collection[int] | None = None,
    first: int = 0,
    constraint: Constraint | None = None,
    top: int = 0,
) -> Generator[str, None, Generation]:
    """Continue one prompt; yields text as soon as it is certain: whole characters, nothing of a stop string.

    The pieces join to ``generate(model, codec, [prompt], ...)[0].text``; the generator's return value is that
    `Generation`. Arguments as for `generate`, checked at the call rather than at the first piece. Closing
    the generator ends the work.

    >>> "".join(stream(model, codec, "Once", seed=1))  # doctest: +SKIP
    ' there was a fox'
    """
    sampling = Sampling(
        temperature,
        top_k,
        top_p,
        min_p,
        repetition_penalty,
        presence_penalty,
        frequency_penalty,
        logit_bias or {},
    )
    job = _Job.checked(
        model, codec, [prompt], max_new_tokens, sampling, seed, stop, eos, first, constraint, top
    )
    return _stream(model, job)


@dataclass(frozen=True)
class _Job:
    """Checked arguments."""

    codec: Codec | None
    prompts: list[list[int]]
    context: int
    max_new_tokens: int
    sampling: Sampling
    seed: int
    stop: tuple[str, ...]
    eos: frozenset[int]
    first: int
    constraint: Constraint | None
    top: int

    @classmethod
    def checked(
        cls,
        model: Model,
        codec: Codec | None,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        sampling: Sampling,
        seed: int,
        stop: Sequence[str] | str,
        eos: Collection[int] | None,
        first: int,
        constraint: Constraint | None,
        top: int,
    ) -> _Job:
        if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
            raise UsageError(
                f"max_new_tokens={max_new_tokens!r}",
                expected="a whole number, 1 or above",
                next="max_new_tokens=128",
            )
        uniforms(seed, first, 0)  # names the one that is out of range
        strings = check(stop)
        if codec is None and strings:
            raise UsageError(
                "stop strings without a codec", expected="a codec, or eos ids", next="pass the codec"
            )
        if eos is None:
            eos = () if codec is None else (codec.eos_id,)
        vocabulary, context = model.config.vocab_size, model.config.context
        sampling.fits(vocabulary)
        ids = [prompt_ids(codec, p) for p in prompts]
        for number, row in enumerate(ids):
            if not row:
                raise UsageError(
                    f"prompt {number} has no ids", expected="at least one, such as BOS", next='or ""'
                )
            wrong = [i for i in row if not 0 <= i < (vocabulary or i + 1)]
            if wrong:
                raise UsageError(
                    f"prompt {number} holds id {wrong[0]}, the model's vocabulary has {vocabulary}",
                    expected=f"ids from 0 to {(vocabulary or 1) - 1}",
                    next="encode the prompt with the codec that this model was trained with",
                )
            if len(row) >= context:
                raise UsageError(
                    f"prompt {number} has {len(row)} tokens, the model's context is {context}",
                    expected=f"at most {context - 1} tokens, so that there is room for a new one",
                    next="shorten the prompt, or train with a larger model.context",
                )
        stops = frozenset(eos)
        return cls(
            codec, ids, context, max_new_tokens, sampling, seed, strings, stops, first, constraint, top
        )

    def request(self, number: int) -> Request:
        return Request(
            self.prompts[number],
            self.max_new_tokens,
            self.sampling,
            seed=self.seed,
            number=self.first + number,
            stop_ids=self.eos,
            constraint=self.constraint,
            top=self.top,
        )


def prompt_ids(codec: Codec | None, prompt: Prompt) -> list[int]:
    """[BOS] + the text's ids, as a document begins in training; ids are taken as they are."""
    if not isinstance(prompt, str):
        return [int(i) for i in prompt]
    if codec is None:
        raise UsageError(
            "a text prompt without a codec", expected="ids", next="pass the codec, or encode the text"
        )
    return [codec.bos_id, *codec.encode(prompt)]


class _Text:
    """One growing text: its ids, what of it may be shown, and why it ended."""

    def __init__(self, job: _Job, prompt: list[int]) -> None:
        self._job, self._prompt = job, prompt
        self._streamer = None if job.codec is None else job.codec.streamer()
        self._vocabulary = 0 if job.codec is None else job.codec.vocab_size
        self._stops = Stops(job.stop)
        self._pieces: list[str] = []
        self._ids: list[int] = []
        self._raw: list[float] = []
        self._processed: list[float] = []
        self._top: list[tuple[tuple[int, float], ...]] = []
        self.reason: FinishReason | None = None

    def push(
        self,
        token: int,
        raw: float,
        processed: float,
        top: tuple[tuple[int, float], ...] = (),
        last: FinishReason | None = None,
    ) -> str:
        """Add a token; returns the text that is now certain, and sets `reason` if this was the last one."""
        self._ids.append(token)
        self._raw.append(raw)
        self._processed.append(processed)
        if self._job.top:
            self._top.append(top)
        piece = ""
        if token in self._job.eos:
            self.reason = "eos"
        elif self._streamer is not None and token < self._vocabulary:  # an embedding may have spare rows
            piece = self._stops.push(self._streamer.push(token))
        full = len(self._ids) >= self._job.max_new_tokens
        if self.reason is None and (full or len(self._prompt) + len(self._ids) >= self._job.context):
            self.reason = "length"
        if last is not None and (self.reason is None or self._job.constraint is not None):
            self.reason = last
        if self.reason is not None and self._streamer is not None:
            piece += self._stops.push(self._streamer.finish())
        if self._stops.found is not None:
            self.reason = "stop"
        elif self.reason is not None:
            piece += self._stops.finish()
        self._pieces.append(piece)
        return piece

    def result(self) -> Generation:
        assert self.reason is not None
        text = "".join(self._pieces)
        return Generation(text, self._ids, self._raw, self._processed, self.reason, self._prompt, self._top)


def _run(model: Model, job: _Job, slots: int) -> list[Generation]:
    """Decode all requests, so many at a time."""
    texts = [_Text(job, prompt) for prompt in job.prompts]
    with borrow(model, slots) as engine:
        if not job.stop:  # nobody need look at a token before its text is over
            found = engine.run([job.request(i) for i in range(len(texts))])
            for text, (done,) in zip(texts, found, strict=True):
                for i, token in enumerate(zip(done.ids, done.raw, done.processed, strict=True)):
                    last = done.reason if i == len(done.ids) - 1 else None
                    text.push(*token, done.top[i] if done.top else (), last)
            return [text.result() for text in texts]
        handles = {engine.add(job.request(i)): i for i in range(len(texts))}
        while engine.active or engine.waiting:
            for token in engine.step():
                text = texts[handles[token.handle]]
                if text.reason is None:
                    text.push(token.id, token.raw, token.processed, token.top, token.reason)
                if text.reason is not None:
                    engine.cancel(token.handle)
        return [text.result() for text in texts]


def _stream(model: Model, job: _Job) -> Generator[str, None, Generation]:
    text = _Text(job, job.prompts[0])
    with borrow(model, 1) as engine:
        engine.add(job.request(0))
        while text.reason is None:
            for token in engine.step():
                piece = text.push(token.id, token.raw, token.processed, token.top, token.reason)
                if piece:
                    yield piece
    return text.result()
