"""Sentence-order prediction: were the two halves of a passage swapped?

Both come from one document, so that topic gives nothing away and coherence has to be learnt. Blocks of whole
sentences (`_blocks`) are divided at a random sentence; in half of the cases the halves change places.

Source: Lan et al. 2019, *ALBERT* (arXiv 1909.11942), section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from exnihilo.objective._pairs import Corpus, Pairs, Pieces
from exnihilo.objective.base import Columns, Look


class SentenceOrder(Pairs):
    """Label 0: as written; 1: swapped."""

    term: ClassVar[str] = "order"
    truth: ClassVar[str] = "in_order"
    whole: ClassVar[bool] = True
    frame: ClassVar[tuple[int, int] | None] = None

    def arrange(
        self,
        columns: Columns,
        pieces: Pieces,
        keys: Sequence[np.random.Generator],
        look: Look,
        corpus: Corpus,
    ) -> list[tuple[np.ndarray, np.ndarray, int] | None]:
        T = columns["tokens"].shape[1]
        if not len(pieces.marks):
            return [None] * len(pieces.row)
        chance = np.concatenate(
            [keys[b].random((n, 2)) for b, n in enumerate(np.bincount(pieces.row).tolist())]
        )
        choices = pieces.high - pieces.low
        where = np.minimum(pieces.low + (chance[:, 0] * choices).astype(np.int64), len(pieces.marks) - 1)
        cut = pieces.marks[where] - pieces.row * T
        swap = chance[:, 1] < 0.5
        out: list[tuple[np.ndarray, np.ndarray, int] | None] = []
        for i, (b, start, size) in enumerate(
            zip(pieces.row.tolist(), pieces.start.tolist(), pieces.size.tolist(), strict=True)
        ):
            if not choices[i]:
                out.append(None)
                continue
            line = columns["tokens"][b]
            first, second = line[start + 1 : cut[i]], line[cut[i] : start + size - 2]
            out.append((second, first, 1) if swap[i] else (first, second, 0))
        return out
