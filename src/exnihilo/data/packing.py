"""Packs documents of any length into fixed-length rows: a plan, computed from the lengths alone.

Used by the dataset: ``plan(lengths, row=context + 1)`` says which pieces of which documents stand in each
row.

Best-fit decreasing (Johnson, *Near-optimal bin packing algorithms*, 1973; for language models: Ding et al.,
*Fewer Truncations Improve Language Modeling*, 2024, arXiv:2404.10830): pieces from the longest to the
shortest, each into the fullest row that still has room for it. Free space is an integer below the row's
length, so rows are kept in stacks by free space, and pieces of equal length are placed together: no search
tree is needed.

A document longer than a row is cut into pieces that overlap by one token: the last token of a piece is the
first *input* of the next one, so that each token but the document's first is predicted exactly once.

Best fit alone wastes much when documents are a little longer than half a row (each then needs its own). So
if padding exceeds `max_padding`, the emptiest rows are dissolved and their documents are cut (with the same
overlap) to fill the gaps of others: nothing is dropped, and most documents stay whole.

Documents in a *frame* (``[CLS] ids [SEP]``) overlap by its tokens, here two: every piece stands in such a
frame, whose tokens take the places of the first ones and the last ones of the cut. So each token inside the
frame stands in exactly one piece.

Not taken: naive concatenation (documents joined, then cut at every row's end). It has no padding, but cuts
nearly each row's last document, and is only right if attention may cross documents.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray

ROUNDS = 8  # of filling gaps in one window; each counts on the worst case, and leaves gaps for the next


@dataclass(frozen=True)
class Plan:
    """Rows as pieces: row ``r`` holds pieces ``row_start[r]:row_start[r + 1]``, from left to right.

    Attributes:
        row: tokens a row has (context + 1).
        row_start: int64 [rows + 1].
        doc: int64 [pieces], index into the lengths that were given.
        start: int64 [pieces], the piece's first token inside its document.
        length: int32 [pieces], tokens of the piece.
        padded: pad tokens / all tokens of all rows.
        repeated: tokens that stand in two pieces (the overlaps) / all tokens of all rows.
        cropped: tokens of the documents that stand in no piece / tokens of the documents. Only documents of
            no more tokens than the overlap are dropped: they have nothing to predict.
        cut: documents shorter than a row that were cut to fill gaps / documents.
    """

    row: int
    row_start: Array
    doc: Array
    start: Array
    length: Array
    padded: float
    repeated: float
    cropped: float
    cut: float

    @property
    def rows(self) -> int:
        return len(self.row_start) - 1

    def pieces(self, row: int) -> list[tuple[int, int, int]]:
        """(document, start, length) of each piece of a row, from left to right."""
        a, b = int(self.row_start[row]), int(self.row_start[row + 1])
        return list(
            zip(self.doc[a:b].tolist(), self.start[a:b].tolist(), self.length[a:b].tolist(), strict=True)
        )


def plan(
    lengths: Array, row: int, *, window: int = 65536, overlap: int = 1, max_padding: float = 0.05
) -> Plan:
    """Packs documents into rows.

    Args:
        lengths: tokens of each document, integers [documents].
        row: tokens a row holds (context + 1), at least 2, and more than the overlap.
        window: pieces that are packed together; bounds the work's memory, and how far documents move.
        overlap: tokens a piece repeats from the piece before it: 1 for next-token prediction, 0 where each
            token is its own target, the frame's tokens for framed documents (see above).
        max_padding: cut more documents (see above) where best fit leaves a larger share of padding than
            this; 1 never cuts one that fits into a row.

    Returns:
        A `Plan`; the same arguments give the same plan. No documents give no rows.

    Raises:
        ValueError: a row that is too short, a negative length or overlap.

    Example:
        >>> p = plan(np.array([5, 3, 2]), row=5)
        >>> [p.pieces(r) for r in range(p.rows)]
        [[(0, 0, 5)], [(1, 0, 3), (2, 0, 2)]]
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    if row < max(2, overlap + 1) or overlap < 0 or window < 1:
        raise ValueError(f"row={row} (>= 2, > overlap), overlap={overlap} (>= 0), window={window} (>= 1)")
    if lengths.ndim != 1 or (lengths.size and int(lengths.min()) < 0):
        raise ValueError("lengths must be one-dimensional and not negative")
    doc, start, length = _split(lengths, row, overlap)
    docs, starts, lens, counts = [], [], [], []
    for a in range(0, len(doc), window):
        part = _pack(doc[a : a + window], start[a : a + window], length[a : a + window], row)
        for _ in range(ROUNDS if overlap > 1 else 1):
            rows = len(part[3])
            part = _fill(*part, row=row, overlap=overlap, max_padding=max_padding)
            if len(part[3]) == rows:
                break
        for out, value in zip((docs, starts, lens, counts), part, strict=True):
            out.append(value)
    if not docs:
        empty = np.zeros(0, np.int64)
        doc, start, length, count = empty, empty, empty, empty
    else:
        doc, start, length, count = (np.concatenate(x) for x in (docs, starts, lens, counts))
    row_start = np.zeros(len(count) + 1, np.int64)
    np.cumsum(count, out=row_start[1:])
    capacity = max(1, len(count) * row)
    used = int(length.sum())
    dropped = int(lengths[lengths <= overlap].sum())
    kept = int(lengths.sum()) - dropped
    whole = int(((lengths > overlap) & (lengths <= row)).sum())
    uncut = int(((start == 0) & (length == lengths[doc])).sum())
    return Plan(
        row=row,
        row_start=row_start,
        doc=doc,
        start=start,
        length=length.astype(np.int32),
        padded=1 - used / capacity if used else 0.0,
        repeated=(used - kept) / capacity,
        cropped=dropped / max(1, int(lengths.sum())),
        cut=(whole - uncut) / max(1, len(lengths)),
    )


def _split(lengths: Array, row: int, overlap: int) -> tuple[Array, Array, Array]:
    """Documents as pieces of at most `row` tokens: (document, start, length), in the documents' order."""
    stride = row - overlap
    # ceil((n - overlap) / stride); a document that is only overlap (or empty) has no piece
    count = np.maximum(0, -(-(lengths - overlap) // stride))
    doc = np.repeat(np.arange(len(lengths)), count)
    first = np.cumsum(count) - count
    start = (np.arange(len(doc)) - first[doc]) * stride
    return doc, start, np.minimum(row, lengths[doc] - start)


def _pack(doc: Array, start: Array, length: Array, row: int) -> tuple[Array, Array, Array, Array]:
    """Best-fit decreasing of one window; returns the pieces sorted by row, and the pieces of each row."""
    order = np.argsort(-length, kind="stable")
    values, counts = np.unique(length, return_counts=True)
    stacks: list[list[int]] = [[] for _ in range(row + 1)]  # rows by their free tokens
    open_ = 0  # bit f is set where stacks[f] is not empty
    where: list[int] = []  # row of each piece, in the order of decreasing length
    rows = 0
    for size, left in zip(values[::-1].tolist(), counts[::-1].tolist(), strict=True):
        while left:
            fitting = open_ >> size
            if fitting:
                free = size + (fitting & -fitting).bit_length() - 1
                stack = stacks[free]
                each = free // size  # the row stays the best fit for the next piece of this size until full
                take = min(len(stack), -(-left // each))
                chosen = stack[-take:]
                del stack[-take:]
                if not stack:
                    open_ &= ~(1 << free)
            else:
                free, each = row, row // size
                take = -(-left // each)
                chosen = list(range(rows, rows + take))
                rows += take
            placed = min(left, take * each)
            if each == 1:
                where += chosen
            else:
                where += np.repeat(chosen, each)[:placed].tolist()
            left -= placed
            short = take * each - placed  # the last of the chosen rows may have got fewer pieces
            rest = free - each * size
            full = chosen if not short else chosen[:-1]
            if rest and full:
                stacks[rest] += full
                open_ |= 1 << rest
            if short:
                stacks[rest + short * size].append(chosen[-1])
                open_ |= 1 << (rest + short * size)
    at = np.asarray(where, dtype=np.int64)
    # new rows are numbered from the longest piece on; renumber by the earliest document, so that rows stay
    # near it
    earliest = np.full(rows, len(doc), np.int64)
    np.minimum.at(earliest, at, order)
    rank = np.empty(rows, np.int64)
    rank[np.argsort(earliest, kind="stable")] = np.arange(rows)
    at = rank[at]
    by_row = np.lexsort((order, at))
    index = order[by_row]
    return doc[index], start[index], length[index], np.bincount(at, minlength=rows)


def _fill(
    doc: Array, start: Array, length: Array, count: Array, *, row: int, overlap: int, max_padding: float
) -> tuple[Array, Array, Array, Array]:
    """Dissolves the emptiest rows into the gaps of others, down to `max_padding` where that can be done."""
    rows = len(count)
    bounds = np.cumsum(count)
    used = np.add.reduceat(length, bounds - count) if rows else np.zeros(0, np.int64)
    free = row - used
    if rows < 2 or free.sum() <= max_padding * rows * row:
        return doc, start, length, count
    # no gap below this is filled, or pieces would be slivers
    least = max(overlap + 1, min(32, row // (8 if overlap < 2 else 16)))
    order = np.argsort(-free, kind="stable")
    order = order[free[order] >= least]
    gap, content = free[order], used[order]
    # dissolving the first n of `order`: their content must fit into the gaps of the others. Each receiving
    # row may cost `overlap` tokens, and after the end of each piece a gap may be left that is too small to
    # go on with.
    into = (gap - overlap).sum() - np.cumsum(gap - overlap)
    need = np.cumsum(content + least * count[order])
    possible = int(np.count_nonzero(need <= into))  # need grows, into falls
    target = rows - int(np.ceil(used.sum() / ((1 - max_padding) * row)))
    n = min(possible, max(0, target))
    if n < 1:
        return doc, start, length, count
    given = [p for r in order[:n].tolist() for p in range(int(bounds[r] - count[r]), int(bounds[r]))]
    extra: list[tuple[int, int, int, int]] = []  # receiving row, document, start, length
    spaces = iter(zip(order[n:].tolist(), gap[n:].tolist(), strict=True))
    to, space = next(spaces)
    for p in given:
        d, s, rest = int(doc[p]), int(start[p]), int(length[p])
        while rest > space:
            if space >= least:
                extra.append((to, d, s, space))
                s, rest = s + space - overlap, rest - space + overlap
            to, space = next(spaces)
        extra.append((to, d, s, rest))
        space -= rest
    keep = np.ones(rows, bool)
    keep[order[:n]] = False
    row_of = np.repeat(np.arange(rows), count)
    stay = keep[row_of]
    more = np.asarray(extra, dtype=np.int64)
    row_of = np.concatenate([row_of[stay], more[:, 0]])
    doc, start, length = (
        np.concatenate([x[stay], more[:, i]]) for i, x in ((1, doc), (2, start), (3, length))
    )
    by_row = np.lexsort((start, doc, row_of))
    return doc[by_row], start[by_row], length[by_row], np.bincount(row_of, minlength=rows)[keep]
