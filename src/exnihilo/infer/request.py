"""What the engine is asked for, and what it gives back.

::

    request = Request(ids=[1, 5, 9], max_new_tokens=32, sampling=Sampling(temperature=0.8), n=4, seed=7)
    engine.run([request])[0]      # four `Completion`s
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from exnihilo.errors import UsageError
from exnihilo.infer.sampling import Sampling, uniforms

if TYPE_CHECKING:
    from exnihilo.infer.structure import Constraint

Reason = Literal["eos", "length", "failed"]


@dataclass(frozen=True)
class Request:
    """One prompt and how it is to be continued.

    Attributes:
        ids: the prompt, BOS included: at least one id, fewer than the model's context.
        max_new_tokens: at most this many a completion; the end of the context ends it earlier.
        sampling: how tokens are chosen.
        n: completions; the prompt is read once for all of them.
        seed, number: completion j draws with numbers that follow from (seed, number + j, step) alone. So n
            completions are what n requests numbered number .. number + n - 1 would give.
        stop_ids: ids that end a completion (as its last id), beside the engine's own.
        constraint: what the text must be like; its ends are the stop ids, which come only where it may end.
            Where nothing can follow and there are no stop ids, the completion is over.
        top: of so many likeliest ids the log-probabilities are told at each place.
        scored: the prompt's ids are told of, too: it is then read anew, whatever the cache holds of it.
    """

    ids: Sequence[int]
    max_new_tokens: int = 128
    sampling: Sampling = field(default_factory=Sampling)
    n: int = 1
    seed: int = 0
    number: int = 0
    stop_ids: frozenset[int] = frozenset()
    constraint: Constraint | None = None
    top: int = 0
    scored: bool = False

    def check(self, vocabulary: int | None, context: int) -> None:
        """Refuse what cannot be obeyed by a model of this vocabulary and context.

        Raises:
            UsageError: with what was given and what would do.
        """
        for name in ("max_new_tokens", "n"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(
                    f"{name}={value!r}", expected="a whole number, 1 or above", next=f"{name}=1 or more"
                )
        uniforms(self.seed, self.number, 0)  # names the one that is out of range
        if self.number + self.n > 2**64:
            raise UsageError(f"number={self.number!r} with n={self.n}", expected="number + n <= 2**64")
        if not len(self.ids):
            raise UsageError("a request without ids", expected="at least one, such as BOS")
        low, high = min(self.ids), max(self.ids)
        if low < 0 or (vocabulary and high >= vocabulary):
            raise UsageError(
                f"a prompt with id {low if low < 0 else high}, the model's vocabulary has {vocabulary}",
                expected=f"ids from 0 to {(vocabulary or 1) - 1}",
                next="encode the prompt with the codec that this model was trained with",
            )
        if len(self.ids) >= context:
            raise UsageError(
                f"a prompt of {len(self.ids)} tokens, the model's context is {context}",
                expected=f"at most {context - 1} tokens, so that there is room for a new one",
                next="shorten the prompt, or train with a larger model.context",
            )
        self.sampling.fits(vocabulary)
        most = vocabulary or self.top
        if isinstance(self.top, bool) or not isinstance(self.top, int) or not 0 <= self.top <= most:
            raise UsageError(f"top={self.top!r}", expected=f"a whole number from 0 to {most}", next="top=5")
        if self.constraint is not None and vocabulary and self.constraint.size > vocabulary:
            raise UsageError(
                f"a constraint on {self.constraint.size} ids, the model's vocabulary has {vocabulary}",
                expected="a constraint compiled with the model's codec",
            )


@dataclass(frozen=True)
class Scored:
    """An id of a prompt, and how likely the model found it.

    Attributes:
        id: in the vocabulary.
        raw: log-probability under the model itself; None: nothing stands before it.
        top: the likeliest ids of its place, as in `Completion`.
    """

    id: int
    raw: float | None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Completion:
    """One continuation.

    Attributes:
        ids: every drawn id, the stop id included.
        logprobs: of each id under the softmax at the request's temperature, nothing filtered or penalised:
            what a trainer computes that knows the temperature. At temperature 0 as at 1.
        processed: of each id under the distribution it was drawn from; 0 for greedy.
        reason: "eos" (a stop id, or the end of what a constraint allows), "length" (max_new_tokens, or the
            end of the context) or "failed" (a constraint that could not be followed: no valid text).
        raw: of each id under the model itself, at temperature 1.
        top: of each place the likeliest ids and their log-probabilities under the model itself, best first;
            empty where `Request.top` is 0.
        prompt: of each id of the prompt, where it is `Request.scored`.
    """

    ids: list[int]
    logprobs: list[float]
    processed: list[float]
    reason: Reason
    raw: list[float]
    top: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    prompt: tuple[Scored, ...] = ()


@dataclass(frozen=True)
class Token:
    """One drawn token, as `Engine.step` tells of it.

    Attributes:
        handle: what `Engine.add` returned.
        index: which of the request's n completions.
        id, logprob, processed, raw: as in `Completion`.
        top: of this place, as in `Completion`.
        reason: why it was the completion's last; None: more will come.
        prompt: with a completion's first token, as in `Completion`.
    """

    handle: int
    index: int
    id: int
    logprob: float
    processed: float
    raw: float
    reason: Reason | None
    top: tuple[tuple[int, float], ...] = ()
    prompt: tuple[Scored, ...] = ()
