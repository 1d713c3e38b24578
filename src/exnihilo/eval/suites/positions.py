"""``positions``: loss by position in the text, and what the far context is worth. As a picture.

::

    exnihilo eval RUN --suite positions=books/ max_examples=100

The first tokens of a text are hard to foresee, later ones easier: a model that uses its whole context goes on
becoming better up to the end of it. The curve is over documents that are all as long (the longest length that
enough of them have), else its parts would be of different texts. ``far_gain``: nats a token that the last
tokens gain from what stands further back than an eighth of the text; the same tokens are predicted with and
without it. Intervals are bootstraps over documents.

Reference: Kaplan et al. 2020, *Scaling laws*, arXiv:2001.08361, section 3.2 (loss by position).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from exnihilo.errors import DataError
from exnihilo.eval.likelihood import token_logprobs
from exnihilo.eval.suites import _pictures
from exnihilo.eval.suites.base import Asked, Result, Suite, counted, ratio
from exnihilo.eval.suites.bits_per_byte import read

MOST = 64  # documents where no number is given
ENOUGH = 8  # documents that must be as long
LAST = 32  # tokens that are predicted with and without what is far


class Positions(Suite):
    summary = "loss by position in the text, and what the far context is worth, as a picture"
    options = frozenset({"seed"})

    def run(self, asked: Asked) -> Result:
        context, codec = asked.model.config.context, asked.codec
        found = ([codec.bos_id, *codec.encode(text)][: context + 1] for _, text in read(asked))
        texts = sorted((ids for ids in found if len(ids) > 1), key=len, reverse=True)
        least = max(1, min(ENOUGH, asked.max_examples or ENOUGH, len(texts)))
        if not texts or len(texts[least - 1]) < 2 * LAST:
            raise DataError(
                f"{len(texts)} documents, {sum(len(t) > 2 * LAST for t in texts)} of them longer than "
                f"{2 * LAST} tokens",
                expected=f"at least {least} that long",
                next="--suite positions=PATH with longer documents",
            )
        size = len(texts[least - 1])
        rows = [ids[:size] for ids in texts if len(ids) >= size][: asked.max_examples or MOST]
        asked.progress.start("positions", total=2 * len(rows), unit="texts")
        tables = token_logprobs(asked.model, [(r[:1], r[1:]) for r in rows], progress=asked.progress)
        loss_NT = -np.stack([logp_T for logp_T, _ in tables]).astype(np.float64)
        near = max(8, size // 8)
        cut = token_logprobs(
            asked.model, [(r[-LAST - near : -LAST], r[-LAST:]) for r in rows], progress=asked.progress
        )
        asked.progress.stop()
        gain_N = -np.stack([logp_T for logp_T, _ in cut]).mean(1) - loss_NT[:, -LAST:].mean(1)
        ones = [1.0] * len(rows)
        gain, gain_low, gain_high = ratio(gain_N.tolist(), ones, seed=asked.seed)
        figures = {
            "loss": float(loss_NT.mean()), "far_gain": gain, "far_gain_low": gain_low,
            "far_gain_high": gain_high, "length": float(size - 1), "near": float(near),
        }  # fmt: skip
        bins = edges(size - 1)
        curve = [ratio(loss_NT[:, a:b].mean(1).tolist(), ones, seed=asked.seed) for a, b in bins]
        figures |= {f"loss_{a + 1}_{b}": mean for (a, b), (mean, _, _) in zip(bins, curve, strict=True)}
        items = [{"document": n, "loss": float(loss_T.mean())} for n, loss_T in enumerate(loss_NT)]
        place_K = np.array([((a + 1) * b) ** 0.5 for a, b in bins])
        title = f"loss by position, {len(rows)} texts of {size - 1} tokens; far context: {gain:+.3f} nats"
        draw = partial(_draw, place_K, np.array(curve), title)
        return Result(counted(asked, figures, len(rows)), items, picture=draw)


def edges(length: int) -> list[tuple[int, int]]:
    """Bins of positions from 0 that double: [start, end).

    >>> edges(12)
    [(0, 1), (1, 3), (3, 7), (7, 12)]
    """
    out, start, width = [], 0, 1
    while start < length:
        end = min(length, start + width)
        if length - end < width // 2:  # no sliver at the end
            end = length
        out.append((start, end))
        start, width = end, 2 * width
    return out


def _draw(place_K: np.ndarray, curve_K3: np.ndarray, title: str, path: Path) -> None:
    loss_K, low_K, high_K = curve_K3.T
    _pictures.line(place_K, loss_K, low_K, high_K, path=path, title=title)
