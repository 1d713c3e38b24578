"""Does the validation split hold what is trained on? Exact copies by hash, near-copies by sampled windows.

Reads the hashes that preparation has written, in blocks, so it takes little memory; the answer is kept in the
cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from exnihilo.data.report import LeakReport

BLOCK = 1 << 20
LEAST = 3
"""Sampled windows that a document must have to be judged: below that, one common phrase would decide."""
SHARE = 0.5


def found_in(wanted: np.ndarray, blocks: Sequence[np.ndarray]) -> np.ndarray:
    """For each of the wanted hashes (any order), whether it occurs in the arrays."""
    unique, inverse = np.unique(np.asarray(wanted), return_inverse=True)
    seen = np.zeros(len(unique), bool)
    for array in blocks if len(unique) else ():
        for start in range(0, len(array), BLOCK):
            block = np.asarray(array[start : start + BLOCK])
            at = np.minimum(np.searchsorted(unique, block), len(unique) - 1)
            seen[at[unique[at] == block]] = True
    return seen[inverse]


def compare(train: Sequence[Any], val: Sequence[Any]) -> tuple[LeakReport, list[tuple[int, int]]]:
    """Compares stores (they have arrays "hash", "shingle" and "shingle_end").

    Returns:
        The report without its examples, and the first leaking documents as (store, item).
    """
    hashes = [s["hash"] for s in train]
    windows = [s["shingle"] for s in train]
    documents = exact = near = hit = total = 0
    first: list[tuple[int, int]] = []
    for number, store in enumerate(val):
        copies = found_in(store["hash"], hashes)
        seen = found_in(store["shingle"], windows)
        ends = np.asarray(store["shingle_end"], np.int64)
        sums = np.concatenate([[0], np.cumsum(seen)])
        starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        counts, hits = ends - starts, sums[ends] - sums[starts]
        similar = (counts >= LEAST) & (hits >= SHARE * counts) & ~copies
        documents += len(copies)
        exact += int(copies.sum())
        near += int(similar.sum())
        hit += int(seen.sum())
        total += len(seen)
        first += [(number, int(i)) for i in np.flatnonzero(copies | similar)[:5]]
    return LeakReport(documents, exact, near, hit / total if total else 0.0), first[:5]
