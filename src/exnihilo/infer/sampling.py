"""From logits to the next token: pure functions, no global random state, fp32 in and float64 where sums
decide.

Used by `generate`::

    sampling = Sampling(temperature=0.8, top_p=0.95)
    draw = sample(logits_BV, sampling, uniforms_B)        # draw.ids_B, draw.logprobs_B, draw.processed_B

Order of the filters: temperature, top-k, top-p, min-p, each on what the one before has left, as Transformers'
`generate` applies them. The draw is an inverse CDF over ids in ascending order, with one uniform number a
step that is a pure function of (seed, request, step): no row of a batch can change another row's text.

A Gumbel-max draw would need V random numbers a step; one number and a running sum need none of that.

References: top-p, Holtzman et al. 2020 (arXiv:1904.09751); min-p, Nguyen et al. 2025 (arXiv:2407.01082);
Philox, Salmon et al. 2011 (a counter-based generator: the nth number needs no state).

Key: B rows, V vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from exnihilo.errors import UsageError


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; every value is checked here.

    Attributes:
        temperature: logits are divided by it; 0 = greedy (the other three then change nothing).
        top_k: keep the k most likely tokens (and those that tie with the kth).
        top_p: keep the fewest most likely tokens whose probabilities reach p.
        min_p: keep tokens at least this share as likely as the likeliest.
        repetition_penalty: logits of ids in prompt and reply are divided by it (multiplied where negative).
        presence_penalty, frequency_penalty: subtracted once, or once a time, for each id in the reply.
        logit_bias: (id, bias) pairs or a mapping; added to the logits. See penalties.py; penalties and bias
            come before the temperature, and bear on greedy choices too.

    >>> Sampling(top_p=1.5)
    Traceback (most recent call last):
    ...
    exnihilo.errors.UsageError: top_p=1.5
      expected: a number above 0 and at most 1
      next: top_p=0.95, or leave it out
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        t, k, p, m = self.temperature, self.top_k, self.top_p, self.min_p
        if not _number(t) or not 0 <= t < math.inf:
            raise _bad("temperature", t, "a finite number, 0 (greedy) or above", "temperature=0.8")
        if k is not None and (isinstance(k, bool) or not isinstance(k, int) or k < 1):
            raise _bad("top_k", k, "a whole number, 1 or above", "top_k=50, or leave it out")
        if p is not None and (not _number(p) or not 0 < p <= 1):
            raise _bad("top_p", p, "a number above 0 and at most 1", "top_p=0.95, or leave it out")
        if m is not None and (not _number(m) or not 0 <= m <= 1):
            raise _bad("min_p", m, "a number from 0 to 1", "min_p=0.05, or leave it out")
        r = self.repetition_penalty
        if not _number(r) or not 0 < r < math.inf:
            raise _bad("repetition_penalty", r, "a finite number above 0", "repetition_penalty=1.1")
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            if not _number(value) or not math.isfinite(value):
                raise _bad(name, value, "a finite number", f"{name}=0.5")
        self._biases()

    def _biases(self) -> None:
        """Pairs in ascending order, so that equal settings are equal and can be a key."""
        given = self.logit_bias
        try:
            pairs = sorted(dict(given).items())
        except (TypeError, ValueError):
            raise _bad("logit_bias", given, "a mapping of ids to numbers", "logit_bias={42: 5.0}") from None
        for i, bias in pairs:
            whole = isinstance(i, int) and not isinstance(i, bool) and i >= 0
            if not whole or not _number(bias) or not math.isfinite(bias):
                raise _bad("logit_bias", {i: bias}, "an id, and a finite number", "logit_bias={42: 5.0}")
        object.__setattr__(self, "logit_bias", tuple((i, float(bias)) for i, bias in pairs))

    def fits(self, vocabulary: int | None) -> None:
        """Refuse a bias for an id that the model does not have."""
        wrong = [i for i, _ in self.logit_bias if vocabulary and i >= vocabulary]  # type: ignore[misc]
        if wrong:
            raise _bad(
                "logit_bias", {wrong[0]: "..."}, f"ids from 0 to {(vocabulary or 1) - 1}", "another id"
            )

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def penalised(self) -> bool:
        """Whether logits are changed by penalties or a bias."""
        whole = self.repetition_penalty == 1 and not self.presence_penalty and not self.frequency_penalty
        return not whole or bool(self.logit_bias)

    @property
    def plain(self) -> bool:
        """Whether it is the likeliest token, or a draw from the softmax at a temperature, no more."""
        filtered = self.top_k is not None or (self.top_p or 1.0) < 1 or bool(self.min_p)
        return not self.penalised and (self.greedy or not filtered)


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _bad(name: str, value: object, expected: str, example: str) -> UsageError:
    return UsageError(f"{name}={value!r}", expected=expected, next=example)


@dataclass(frozen=True)
class Draw:
    """One step's tokens.

    Attributes:
        ids_B: chosen ids.
        logprobs_B: log-probability under the model itself (temperature 1, nothing filtered): what a trainer
            computes.
        processed_B: log-probability under the distribution that was drawn from (0 for greedy: it is certain).
    """

    ids_B: Tensor
    logprobs_B: Tensor
    processed_B: Tensor


def process(logits_BV: Float[Tensor, "b v"], sampling: Sampling) -> Float[Tensor, "b v"]:
    """The logits that are drawn from: divided by the temperature (not 0), filtered with -inf.

    Each filter keeps what is at or above some logit, so all of them together are one floor a row, and tokens
    that tie are kept or dropped together.
    """
    scaled_BV = logits_BV if sampling.temperature == 1 else logits_BV / sampling.temperature
    floor_B1 = _floor(scaled_BV, sampling)
    return scaled_BV if floor_B1 is None else scaled_BV.masked_fill(scaled_BV < floor_B1, -math.inf)


def _floor(logits_BV: Tensor, sampling: Sampling) -> Tensor | None:
    """The least logit that stays, (B, 1); None where nothing is filtered."""
    vocabulary = logits_BV.shape[-1]
    k, p, share = min(sampling.top_k or vocabulary, vocabulary), sampling.top_p or 1.0, sampling.min_p or 0.0
    floor_B1 = None
    if k < vocabulary or p < 1:
        rising_BV = _sorted(logits_BV)
        if k < vocabulary:
            floor_B1 = rising_BV[:, vocabulary - k, None]
            rising_BV = rising_BV.masked_fill(rising_BV < floor_B1, -math.inf) if p < 1 else rising_BV
        if p < 1:
            # dropped: the least likely ones, as long as they hold 1 - p at most together; never the top one
            dropped_B1 = (rising_BV.softmax(-1).cumsum(-1) <= 1 - p).sum(-1, keepdim=True)
            floor_B1 = rising_BV.gather(1, dropped_B1.clamp_(max=vocabulary - 1))
    if share > 0:
        # p < share * p_max  <=>  logit < largest logit + ln(share)
        least_B1 = logits_BV.amax(-1, keepdim=True) + math.log(share)
        floor_B1 = least_B1 if floor_B1 is None else torch.maximum(floor_B1, least_B1)
    return floor_B1


def _sorted(logits_BV: Tensor) -> Tensor:
    """Rising order in each row. On a CPU by NumPy, whose sort takes a fifteenth of torch's time."""
    if logits_BV.device.type == "cpu":
        return torch.from_numpy(np.sort(logits_BV.detach().numpy(), axis=-1))
    return logits_BV.sort(dim=-1).values


def sample(
    logits_BV: Float[Tensor, "b v"], sampling: Sampling, uniforms_B: Float[Tensor, " b"] | None = None
) -> Draw:
    """Choose one token a row.

    Args:
        logits_BV: the model's logits at the last position.
        sampling: how to choose.
        uniforms_B: numbers in (0, 1), float64, one a row (`uniforms`); not needed for greedy.

    >>> sample(torch.tensor([[0.0, 2.0, 1.0]]), Sampling(temperature=0)).ids_B
    tensor([1])
    """
    logits_BV = logits_BV.float()
    if sampling.greedy:
        top_B, ids_B = logits_BV.max(-1)
        raw_B = top_B - logits_BV.logsumexp(-1)
        return Draw(ids_B, raw_B, torch.zeros_like(raw_B))
    if uniforms_B is None:
        raise UsageError(
            "no random numbers were given", expected="uniforms_B, one a row", next="see uniforms()"
        )
    if logits_BV.device.type == "mps":  # it has no float64
        logits_BV = logits_BV.cpu()
    processed_BV = process(logits_BV, sampling)
    ids_B = _inverse_cdf(processed_BV, uniforms_B.to(logits_BV.device))
    raw_B = _logprob(logits_BV, ids_B)
    return Draw(ids_B, raw_B, raw_B if processed_BV is logits_BV else _logprob(processed_BV, ids_B))


def _inverse_cdf(logits_BV: Tensor, uniforms_B: Tensor) -> Int[Tensor, " b"]:
    """The first id whose running sum of probabilities exceeds u: never one of probability 0."""
    cdf_BV = logits_BV.softmax(-1).cumsum(-1, dtype=torch.float64)
    aim_B1 = (
        uniforms_B[:, None] * cdf_BV[:, -1:]
    )  # the last sum is 1 up to rounding; u < 1 keeps the aim below it
    return torch.searchsorted(cdf_BV, aim_B1, right=True)[:, 0]


def _logprob(logits_BV: Tensor, ids_B: Tensor) -> Tensor:
    return logits_BV.gather(1, ids_B[:, None])[:, 0] - logits_BV.logsumexp(-1)


def uniforms(seed: int, request: int, steps: int) -> np.ndarray:
    """The numbers in (0, 1) that a request's steps draw with: a pure function of (seed, request, step).

    A longer request begins with the numbers of a shorter one. float64 of shape (steps,).

    >>> bool((uniforms(1, 0, 5)[:3] == uniforms(1, 0, 3)).all())
    True
    """
    for name, value in (("seed", seed), ("request", request)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= value < 2**64:
            raise _bad(name, value, "a whole number from 0 to 2**64 - 1", f"{name}=0")
    raw = np.random.Philox(key=np.array([seed, request], dtype=np.uint64)).random_raw(steps)
    # 51 bits and half a step: strictly inside (0, 1), and exact in float64
    return ((raw >> np.uint64(13)).astype(np.float64) + 0.5) * 2.0**-51
