"""Which rows a step sees: a pure function of (seed, step), so that resuming needs a step number alone.

Used by the loop: ``Order(sizes, weights, seed).rows(step, rows_per_step)``. Every worker computes the same
rows and takes its slice, so the order does not depend on how many there are.

Samples are numbered from 0 through the whole run; step ``s`` takes the numbers ``s * rows_per_step`` up to
``(s + 1) * rows_per_step``. A number becomes a row in two closed forms:

- *Which source* (with weights only). A binary tree over the sources; a node hands its ``k``-th sample to
  the left where ``floor((k + 1) w + phase)`` exceeds ``floor(k w + phase)``, as a line is drawn on a raster
  (Bresenham, 1965). The number of samples a child has had is that floor, so no history is needed.
- *Which row of it.* A keyed permutation of 0..N-1, a new key each pass: a Feistel network over the next
  power of two, walked until it lands below N (Black & Rogaway, *Ciphers with arbitrary finite domains*,
  2002). Nothing of size N is held.

Not taken: shuffling an index array (N entries a worker, and an epoch's border must be replayed), and
drawing sources at random (the mixture would wander by the square root of the count).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_SHARE_BITS = 30  # weights are held as multiples of 2^-30; sample numbers below 2^33 then fit in 64 bits
_ROUNDS = 8


def _mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser (Steele, Lea & Flood 2014): a bijection of 64-bit words that looks random."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


_STEP = np.uint64(0x9E3779B97F4A7C15)  # splitmix64's increment, 2^64 / golden ratio


def _key(seed: int, *parts: np.ndarray) -> np.ndarray:
    """A 64-bit key for each element of `parts`."""
    key = _mix(np.asarray([seed & 0xFFFFFFFFFFFFFFFF], np.uint64) + _STEP)
    for part in parts:
        key = _mix(key + (part.astype(np.uint64) + np.uint64(1)) * _STEP)
    return key


def permute(index: np.ndarray, size: np.ndarray, key: np.ndarray) -> np.ndarray:
    """The place of each index in a permutation of 0..size-1 that its key selects; all three have one shape.

    Args:
        index: int64, 0 <= index < size.
        size: int64, at least 1, below 2^62.
        key: uint64; elements with equal (size, key) share one permutation.

    Returns:
        int64, a bijection of 0..size-1 for every (size, key).

    Example:
        >>> n = np.full(5, 5); sorted(permute(np.arange(5), n, np.full(5, 7, np.uint64)).tolist())
        [0, 1, 2, 3, 4]
    """
    # 2^bits >= size; at least 6 bits, since a Feistel network over 1-bit halves mixes badly
    bits = np.maximum(6, np.ceil(np.log2(np.maximum(size, 2) + 0.0)).astype(np.int64))
    bits += (np.int64(1) << bits) < size  # where log2 was rounded down
    low_bits = (bits // 2).astype(np.uint64)
    low_mask = (np.uint64(1) << low_bits) - np.uint64(1)
    high_mask = (np.uint64(1) << (bits.astype(np.uint64) - low_bits)) - np.uint64(1)
    out = np.asarray(index).astype(np.uint64)
    limit = np.asarray(size).astype(np.uint64)
    todo = np.flatnonzero(limit > 1)
    while todo.size:
        x, k, lm, hm, lb = out[todo], key[todo], low_mask[todo], high_mask[todo], low_bits[todo]
        low, high = x & lm, x >> lb
        for r in range(_ROUNDS):
            k = k + _STEP
            if r % 2:
                low ^= _mix(high ^ _mix(k)) & lm
            else:
                high ^= _mix(low ^ _mix(k)) & hm
        x = (high << lb) | low
        out[todo] = x
        todo = todo[x >= limit[todo]]
    return out.astype(np.int64)


class Order:
    """The order of rows over a run.

    Args:
        sizes: rows of each source. Row ids count through the sources in this order.
        weights: shares of the sources in the mixture, any positive scale; None: all rows as one heap, each
            exactly once an epoch (so in proportion to size).
        seed: another seed, another order.

    Raises:
        ValueError: no rows, an empty source with a weight, a weight that is not positive.

    Example:
        >>> order = Order([1000], None, seed=0)
        >>> order.rows(3, 8).shape, order.epoch(125, 8)
        ((8,), 1.0)
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float] | None, seed: int) -> None:
        self.sizes = tuple(int(n) for n in sizes)
        self.seed = int(seed)
        self.total = sum(self.sizes)
        if self.total < 1 or min(self.sizes) < 0:
            raise ValueError(f"sizes must hold at least one row, got {self.sizes}")
        self.weights: tuple[float, ...] | None = None
        if weights is not None:
            if len(weights) != len(self.sizes):
                raise ValueError(f"{len(weights)} weights for {len(self.sizes)} sources")
            if min(self.sizes) < 1 or not all(0 < w < float("inf") for w in weights):
                raise ValueError(f"weights {tuple(weights)} must be positive, sizes {self.sizes} at least 1")
            whole = float(sum(weights))
            self.weights = tuple(float(w) / whole for w in weights)
        self._sizes = np.asarray(self.sizes if self.weights else (self.total,), np.int64)
        self._offsets = np.cumsum(self._sizes) - self._sizes

    def rows(self, step: int, rows_per_step: int) -> np.ndarray:
        """Global row ids of a step, int64 [rows_per_step]; time and memory are in proportion to that."""
        if step < 0 or rows_per_step < 0:
            raise ValueError(f"step={step} and rows_per_step={rows_per_step} must not be negative")
        first = step * rows_per_step
        if first + rows_per_step > 1 << 33:
            raise ValueError(f"step {step} of {rows_per_step} rows is beyond sample 2^33")
        sample = np.arange(first, first + rows_per_step, dtype=np.int64)
        source, index = self._assign(sample)
        size = self._sizes[source]
        passes, within = index // size, index % size
        return self._offsets[source] + permute(within, size, _key(self.seed, source, passes))

    def epoch(self, step: int, rows_per_step: int) -> float:
        """Passes over the data that lie before `step`: samples drawn / rows there are."""
        return step * rows_per_step / self.total

    def passes(self, step: int, rows_per_step: int) -> tuple[float, ...]:
        """Passes over each source that lie before `step`."""
        drawn = step * rows_per_step
        if self.weights is None:
            return tuple(drawn / self.total for _ in self.sizes)
        return tuple(drawn * w / n for w, n in zip(self.weights, self.sizes, strict=True))

    def _assign(self, sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Source of each sample, and how many samples that source had before it."""
        source, index = np.zeros_like(sample), sample.copy()
        if self.weights is not None:
            self._descend(0, len(self.weights), np.arange(len(sample)), source, index)
        return source, index

    def _descend(self, a: int, b: int, at: np.ndarray, source: np.ndarray, index: np.ndarray) -> None:
        """Hands the samples at `at`, whose counts within sources a..b-1 are index[at], to the two halves."""
        assert self.weights is not None
        if b - a == 1 or not at.size:
            source[at] = a
            return
        middle = (a + b) // 2
        share = sum(self.weights[a:middle]) / sum(self.weights[a:b])
        w = np.uint64(min((1 << _SHARE_BITS) - 1, max(1, round(share * (1 << _SHARE_BITS)))))
        phase = _key(self.seed, np.asarray([a]), np.asarray([b]))[0] >> np.uint64(64 - _SHARE_BITS)
        k = index[at].astype(np.uint64)
        before = (k * w + phase) >> np.uint64(_SHARE_BITS)
        after = ((k + np.uint64(1)) * w + phase) >> np.uint64(_SHARE_BITS)
        left = after > before
        index[at] = np.where(left, before, k - before).astype(np.int64)
        self._descend(a, middle, at[left], source, index)
        self._descend(middle, b, at[~left], source, index)
