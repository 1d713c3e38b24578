"""Which positions are masked, and what stands there instead. Host only, a pure function of the generators.

Of each piece (a document of a packed row) exactly ``round(rate · n)`` of its n positions that hold no special
token are chosen, at least one; then each chosen one becomes [MASK], a random token that is not special, or
stays, by the shares (0.8, 0.1 and 0.1: Devlin et al. 2018, arXiv 1810.04805). Which are chosen:

    positions    uniformly, each for itself
    whole words  all pieces of a word or none (words that would pass the number are left out)
    spans        runs of geometric length (Joshi et al. 2019, SpanBERT, arXiv 1907.10529: mean 3.8, at most
                 10), laid out uniformly without overlap; the last is cut so that the number is exact

Evaluation masks 15% of single positions whatever training does, so that its losses compare across runs.

Key: B rows, T positions
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from exnihilo.errors import ConfigError
from exnihilo.objective._text import Vocabulary
from exnihilo.objective.pieces import IGNORE

EVAL_RATE = 0.15
LONGEST_SPAN = 10
_WIDE = 1 << 32


class Masking(BaseModel):
    """How positions are masked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: float = Field(default=0.15, gt=0, lt=1)  # of the positions that hold no special token
    whole_word: bool = False
    span: float | None = Field(default=None, ge=1, le=LONGEST_SPAN)  # mean length of masked spans
    mask: float = Field(default=0.8, ge=0, le=1)  # share of the chosen that become [MASK]
    random: float = Field(default=0.1, ge=0, le=1)  # ... that become a random token; the rest stay

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.mask + self.random > 1 + 1e-9:
            raise ConfigError(
                f"options.mask={self.mask} and options.random={self.random} add up to more than 1",
                expected="shares of the chosen positions; the rest stays as it is",
            )
        if self.whole_word and self.span is not None:
            raise ConfigError("options.whole_word with options.span", expected="one of them")
        return self

    def of_evaluation(self) -> Masking:
        """What a split is evaluated with."""
        return self.model_copy(update={"rate": EVAL_RATE, "whole_word": False, "span": None})


def mask(
    tokens_BT: np.ndarray,
    doc_BT: np.ndarray,
    keys: Sequence[np.random.Generator],
    masking: Masking,
    words: Vocabulary,
    mask_id: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Masked tokens, and targets: the original ids at the chosen positions, `IGNORE` elsewhere.

    Args:
        tokens_BT, doc_BT: as the data set gives them; doc -1 is padding.
        keys: a generator a row.

    Example:
        >>> mask(tokens_BT, doc_BT, keys, Masking(), vocabulary(codec), codec.mask_id)    # doctest: +SKIP
    """
    B, T = tokens_BT.shape
    noise = np.empty((B, 3, T))
    for b, key in enumerate(keys):
        key.random(out=noise[b])
    free_BT = (doc_BT >= 0) & ~words.special[tokens_BT]
    if masking.whole_word or masking.span is not None:
        chosen_BT = np.zeros((B, T), bool)
        for b, key in enumerate(keys):
            if masking.whole_word:
                _whole_words(
                    chosen_BT[b], free_BT[b], doc_BT[b], tokens_BT[b], noise[b, 0], masking.rate, words
                )
            else:
                _spans(chosen_BT[b], free_BT[b], doc_BT[b], key, masking.rate, masking.span or 1.0)
    else:
        chosen_BT = _positions(free_BT, doc_BT, noise[:, 0], masking.rate)
    drawn_BT = words.regular[(noise[:, 2] * len(words.regular)).astype(np.int64)]
    action_BT = noise[:, 1]
    new_BT = np.where(action_BT < masking.mask, mask_id, drawn_BT)
    new_BT = np.where(action_BT < masking.mask + masking.random, new_BT, tokens_BT)
    targets_BT = np.where(chosen_BT, tokens_BT, IGNORE).astype(np.int64)
    return np.where(chosen_BT, new_BT, tokens_BT), targets_BT


def wanted(n: np.ndarray, rate: float) -> np.ndarray:
    """How many of n positions are chosen: round(rate · n), half to even, at least 1 where there is one.

    >>> wanted(np.array([0, 1, 10, 20, 100]), 0.15).tolist()
    [0, 1, 2, 3, 15]
    """
    return np.where(n > 0, np.maximum(1, np.rint(rate * n)), 0).astype(np.int64)


def _positions(free_BT: np.ndarray, doc_BT: np.ndarray, noise_BT: np.ndarray, rate: float) -> np.ndarray:
    """The first so many of each piece in a random order, all rows at once."""
    B, T = free_BT.shape
    D = int(doc_BT.max(initial=0)) + 1
    # sorted by document, then by chance; what is not free comes last
    order_BT = np.where(free_BT, doc_BT, D).astype(np.int64) * _WIDE + (noise_BT * _WIDE).astype(np.int64)
    at_BT = np.argsort(order_BT, axis=1)
    doc_of_BT = np.take_along_axis(np.where(free_BT, doc_BT, D), at_BT, 1)
    flat_BT = doc_of_BT + np.arange(B)[:, None] * (D + 1)
    n = np.bincount(flat_BT.ravel(), minlength=B * (D + 1)).reshape(B, D + 1)
    first = np.cumsum(n, 1) - n
    k = wanted(n, rate)
    k[:, D] = 0
    taken_BT = np.arange(T) - first.ravel()[flat_BT] < k.ravel()[flat_BT]
    chosen_BT = np.zeros((B, T), bool)
    np.put_along_axis(chosen_BT, at_BT, taken_BT, 1)
    return chosen_BT


def _pieces(free_T: np.ndarray, doc_T: np.ndarray) -> list[np.ndarray]:
    """The free positions of each piece of a row."""
    at = np.flatnonzero(free_T)
    return np.split(at, np.flatnonzero(np.diff(doc_T[at])) + 1) if len(at) else []


def _whole_words(
    chosen_T: np.ndarray,
    free_T: np.ndarray,
    doc_T: np.ndarray,
    tokens_T: np.ndarray,
    noise_T: np.ndarray,
    rate: float,
    words: Vocabulary,
) -> None:
    for at in _pieces(free_T, doc_T):
        goes_on = words.inside[tokens_T[at]] & (np.diff(at, prepend=-2) == 1)
        goes_on[0] = False
        begin = np.flatnonzero(~goes_on)
        end = np.append(begin[1:], len(at))
        left = int(wanted(np.array(len(at)), rate))
        order = np.argsort(noise_T[at[begin]])
        for w, size in zip(order.tolist(), (end - begin)[order].tolist(), strict=True):
            if size <= left:
                chosen_T[at[begin[w] : end[w]]] = True
                left -= size
                if not left:
                    break
        if not chosen_T[at].any():  # every word is longer than the number: one of them all the same
            w = int(order[0])
            chosen_T[at[begin[w] : end[w]]] = True


def _spans(
    chosen_T: np.ndarray,
    free_T: np.ndarray,
    doc_T: np.ndarray,
    key: np.random.Generator,
    rate: float,
    mean: float,
) -> None:
    for at in _pieces(free_T, doc_T):
        k = int(wanted(np.array(len(at)), rate))
        sizes = np.minimum(key.geometric(1 / mean, k), LONGEST_SPAN)
        count = int(np.searchsorted(np.cumsum(sizes), k)) + 1
        sizes = sizes[:count]
        sizes[-1] -= int(sizes.sum()) - k
        # any way to divide the n - k other positions among the gaps is as likely as any other
        gaps = np.sort(key.choice(len(at) - k + count, count, replace=False)) - np.arange(count)
        begin = gaps + np.cumsum(sizes) - sizes
        inner = np.arange(k) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        chosen_T[at[np.repeat(begin, sizes) + inner]] = True
