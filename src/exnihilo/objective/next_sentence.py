"""Next-sentence prediction: does B follow A, or is it from another document?

Each time a row is seen, each of its blocks is divided at a random sentence into A and B, and with probability
one half B is replaced, as a pure function of (seed, step, row). The shape of B must not tell the label:

- a block that was cut where its length ended gets as many tokens from a sentence of another document on, cut
  in the same way; the row keeps its length;
- a block that ends its document gets the end of another document, from a sentence on: the one nearest in
  length that fits into the row.

Negatives come from other documents. A corpus of one document gives negatives from other blocks of it, and a
block of one sentence has no label: both are said. Neither half is longer than three quarters where it can be
helped, so that there is always another B of its length.

Source: Devlin et al. 2018, *BERT* (arXiv 1810.04805), section 3.1. BERT truncates at random ends instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from exnihilo.objective._pairs import Corpus, Pairs, Pieces
from exnihilo.objective.base import Columns, Look

TRIES = 6  # rows looked at for the negatives of a row
SHARE = 0.75  # of a block, at most, is B


@dataclass(frozen=True)
class Starts:
    """Where a B may begin, in some rows: all arrays have one entry a sentence.

    Attributes:
        tokens: of the rows, flat.
        at: flat place of its first token. left: tokens from there to the end of its block.
        ends: its block ends its document. document: its document.
        block: a number of its block: the row id, times the row's length, plus the block's place in the row.
    """

    tokens: np.ndarray
    at: np.ndarray
    left: np.ndarray
    ends: np.ndarray
    document: np.ndarray
    block: np.ndarray

    @classmethod
    def of(cls, columns: Columns, pieces: Pieces, ids: np.ndarray) -> Starts:
        T = columns["tokens"].shape[1]
        first = pieces.row * T + pieces.start
        mine = np.searchsorted(first, pieces.marks, side="right") - 1
        return cls(
            columns["tokens"].ravel(),
            pieces.marks,
            first[mine] + pieces.size[mine] - 2 - pieces.marks,
            pieces.ends[mine],
            pieces.document[mine],
            (ids[pieces.row] * T + pieces.start)[mine],
        )


class NextSentence(Pairs):
    """Label 0: B follows A; 1: it is from elsewhere."""

    term: ClassVar[str] = "next"
    truth: ClassVar[str] = "follows"

    def lacks(self, corpus: Corpus) -> str:
        if corpus.documents < 2 and len(corpus.pieces.row) < 2:
            return "it is one block of one document: there is nothing that does not follow"
        return super().lacks(corpus)

    def says(self, corpus: Corpus) -> list[str]:
        found = super().says(corpus)
        if corpus.documents < 2:
            found.append("one document: what does not follow is taken from elsewhere in it")
        return found

    def arrange(
        self,
        columns: Columns,
        pieces: Pieces,
        keys: Sequence[np.random.Generator],
        look: Look,
        corpus: Corpus,
    ) -> list[tuple[np.ndarray, np.ndarray, int] | None]:
        T, P = columns["tokens"].shape[1], len(pieces.row)
        if not len(pieces.marks):
            return [None] * P
        in_row = np.bincount(pieces.row, minlength=len(keys))
        chance = np.concatenate([key.random((n, 3)) for key, n in zip(keys, in_row.tolist(), strict=True)])
        cut = _cuts(pieces, chance[:, 0], T)
        other = (chance[:, 1] < 0.5) & (pieces.high > pieces.low)
        wanted = np.bincount(pieces.row[other], minlength=len(keys)) > 0
        rows = np.flatnonzero(wanted)
        at = np.zeros(len(keys), np.int64)
        at[rows] = np.arange(len(rows))
        tried = [keys[b].integers(look.rows, size=TRIES) for b in rows.tolist()]
        ids = np.concatenate(tried) if tried else np.zeros(0, np.int64)
        near = None
        if len(ids):
            others = look.batch(ids)
            near = Starts.of(others, Pieces.of(others), ids)
        if "starts" not in corpus.made:
            corpus.made["starts"] = Starts.of(corpus.columns, corpus.pieces, corpus.ids)
        pool: Starts = corpus.made["starts"]
        bounds = np.searchsorted(near.at, np.arange(len(rows) + 1) * TRIES * T) if near is not None else None
        free = T - np.bincount(pieces.row, pieces.size, minlength=len(keys)).astype(np.int64)
        out: list[tuple[np.ndarray, np.ndarray, int] | None] = []
        for i in range(P):
            b, start = int(pieces.row[i]), int(pieces.start[i])
            end, middle = start + int(pieces.size[i]) - 2, int(cut[i]) - b * T
            if pieces.high[i] == pieces.low[i]:
                out.append(None)
                continue
            line = columns["tokens"][b]
            a, follows = line[start + 1 : middle], line[middle:end]
            if not other[i]:
                out.append((a, follows, 0))
                continue
            assert near is not None and bounds is not None
            part = slice(int(bounds[at[b]]), int(bounds[at[b] + 1]))
            want = _Want(
                size=len(follows),
                room=len(follows) + int(free[b]),
                ends=bool(pieces.ends[i]),
                document=int(pieces.document[i]) if corpus.documents > 1 else None,
                block=int(look.ids[b]) * T + start,
                chance=float(chance[i, 2]),
            )
            found = want.find(near, part, pool)
            if found is None:
                out.append(None)
                continue
            starts, place, size = found
            free[b] += len(follows) - size
            out.append((a, starts.tokens[place : place + size], 1))
        return out


@dataclass(frozen=True)
class _Want:
    """The B that a negative needs."""

    size: int
    room: int
    ends: bool
    document: int | None  # not from this one; None: not from this block
    block: int
    chance: float

    def find(self, near: Starts, part: slice, pool: Starts) -> tuple[Starts, int, int] | None:
        """(where, flat place, tokens) of a B: in the rows that were tried, else in the corpus's sample."""
        for starts, some in ((near, part), (pool, slice(None))):
            if self.ends and (found := self._end(starts, some)) is not None:
                return found
        for starts, some in ((near, part), (pool, slice(None))):
            if (found := self._cut(starts, some)) is not None:
                return found
        # other documents are all too short: the longest end of one
        left = np.where(self._other(pool, slice(None)), pool.left, 0)
        i = int(np.argmax(left))
        return (pool, int(pool.at[i]), int(left[i])) if left[i] else None

    def _other(self, starts: Starts, part: slice) -> np.ndarray:
        if self.document is None:
            return starts.block[part] != self.block
        return starts.document[part] != self.document

    def _end(self, starts: Starts, part: slice) -> tuple[Starts, int, int] | None:
        """The end of a document whose length is nearest."""
        left = starts.left[part]
        fits = self._other(starts, part) & starts.ends[part] & (left <= self.room) & (2 * left >= self.size)
        if not fits.any():
            return None
        i = int(np.argmin(np.where(fits, np.abs(left - self.size), 1 << 40)))
        return starts, int(starts.at[part][i]), int(left[i])

    def _cut(self, starts: Starts, part: slice) -> tuple[Starts, int, int] | None:
        """As many tokens from a sentence on."""
        fits = np.flatnonzero(self._other(starts, part) & (starts.left[part] >= self.size))
        if not len(fits):
            return None
        i = int(fits[int(self.chance * len(fits))])
        return starts, int(starts.at[part][i]), self.size


def _cuts(pieces: Pieces, chance: np.ndarray, T: int) -> np.ndarray:
    """Flat place at which B begins in each block that can be divided; any number in the others."""
    end = pieces.row * T + pieces.start + pieces.size - 2
    least = end - (SHARE * (pieces.size - 3)).astype(np.int64)
    low = np.searchsorted(pieces.marks, least)
    low = np.where((low > pieces.low) & (low < pieces.high), low, pieces.low)
    where = low + (chance * (pieces.high - low)).astype(np.int64)
    return pieces.marks[np.minimum(where, len(pieces.marks) - 1)]
