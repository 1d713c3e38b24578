"""The order of rows: a permutation each epoch, exact mixtures, a function of (seed, step) alone."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo.data.order import Order, permute


def stream(order: Order, count: int, rows_per_step: int = 64) -> np.ndarray:
    steps = -(-count // rows_per_step)
    return np.concatenate([order.rows(s, rows_per_step) for s in range(steps)])[:count]


def chi2(counts: np.ndarray, expected: float) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


def limit(freedom: int) -> float:
    """Far above chi-squared's upper tail: mean + 6 deviations (p < 1e-5 for every count used here)."""
    return freedom + 6 * math.sqrt(2 * freedom) + 6


def test_permute_is_a_bijection_of_every_size():
    for n in range(1, 501):
        for seed in range(2):
            key = np.full(n, seed * 1_000_003 + n, np.uint64)
            out = permute(np.arange(n), np.full(n, n), key)
            assert np.array_equal(np.sort(out), np.arange(n)), n


@pytest.mark.parametrize("n", [2**20 - 1, 2**20, 2**20 + 1, 10**12, 2**60])
def test_permute_of_large_sizes_stays_inside_and_apart(n):
    index = np.arange(4096, dtype=np.int64)
    out = permute(index, np.full(4096, n), np.full(4096, 9, np.uint64))
    assert out.min() >= 0 and out.max() < n and len(np.unique(out)) == 4096


@given(st.integers(1, 300), st.integers(0, 2**64), st.integers(30, 97))
@settings(max_examples=50, deadline=None)
def test_each_row_exactly_once_an_epoch(n, seed, rows_per_step):
    rows = stream(Order([n], None, seed), 3 * n, rows_per_step).reshape(3, n)
    assert (np.sort(rows, axis=1) == np.arange(n)).all()


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(any), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_without_weights_the_sources_are_one_heap(sizes, seed):
    n = sum(sizes)
    assert sorted(stream(Order(sizes, None, seed), n, 7).tolist()) == list(range(n))


def test_a_step_needs_no_history_and_no_workers():
    order = Order([977], None, 5)
    whole = stream(order, 6 * 48, 48)
    fresh = Order([977], None, 5)
    assert np.array_equal(fresh.rows(4, 48), whole[4 * 48 : 5 * 48])  # asked first, and out of turn
    for workers in (1, 2, 3, 8):  # each takes its slice of the same rows
        parts = [fresh.rows(4, 48)[w * 48 // workers : (w + 1) * 48 // workers] for w in range(workers)]
        assert np.array_equal(np.concatenate(parts), whole[4 * 48 : 5 * 48])
    finer = np.concatenate([fresh.rows(s, 16) for s in range(18)])
    assert np.array_equal(finer, whole)  # the same samples in other steps


def test_epochs_and_seeds_differ():
    rows = stream(Order([1000], None, 1), 2000).reshape(2, 1000)
    other = stream(Order([1000], None, 2), 1000)
    assert (rows[0] == rows[1]).sum() < 12  # one fixed point is expected by chance
    assert (rows[0] == other).sum() < 12
    assert (np.diff(rows[0]) == 1).sum() < 12  # and neighbours are torn apart


def test_places_are_uniform():
    n, seeds = 1000, 2000
    first = np.asarray([Order([n], None, s).rows(0, 3) for s in range(seeds)])
    for j in range(3):
        assert chi2(np.bincount(first[:, j] // 50, minlength=20), seeds / 20) < limit(19)
    gap = (first[:, 1] - first[:, 0]) % n  # of neighbours; uniform but for 0
    assert chi2(np.bincount(gap // 50, minlength=20), seeds / 20) < limit(19)


@pytest.mark.parametrize("n", [3, 4, 5])
def test_all_permutations_of_a_small_set_are_equally_likely(n):
    draws = 100 * math.factorial(n)
    rows = stream(Order([n], None, 77), draws * n, 4096).reshape(draws, n)
    seen = Counter(map(tuple, rows.tolist()))
    counts = np.asarray([seen[p] for p in itertools.permutations(range(n))])
    assert chi2(counts, 100) < limit(len(counts) - 1)


weights = st.lists(st.floats(0.01, 1), min_size=2, max_size=6)


@given(weights, st.integers(0, 99), st.integers(200, 500))
@settings(max_examples=50, deadline=None)
def test_mixture_is_near_its_shares_at_every_moment(shares, seed, rows_per_step):
    sizes = [10_000] * len(shares)
    source = stream(Order(sizes, shares, seed), 1500, rows_per_step) // 10_000
    drawn = np.cumsum(source[:, None] == np.arange(len(shares)), axis=0)
    exact = np.arange(1, 1501)[:, None] * np.asarray(shares) / sum(shares)
    depth = math.ceil(math.log2(len(shares)))  # each level of the tree rounds once
    assert np.abs(drawn - exact).max() < depth + 1e-3


def test_two_sources_are_within_one_of_their_share():
    source = stream(Order([10**6, 10**6], [0.3, 0.7], 3), 20_000) // 10**6
    drawn = np.cumsum(source == 0)
    assert np.abs(drawn - 0.3 * np.arange(1, 20_001)).max() <= 1


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 50))
@settings(max_examples=50, deadline=None)
def test_a_small_source_is_repeated_pass_by_pass(a, b, seed):
    rows = stream(Order([a, b, 50], [0.5, 0.2, 0.3], seed), 900, 130)
    for size, offset in ((a, 0), (b, a)):
        own = rows[(rows >= offset) & (rows < offset + size)] - offset
        full = len(own) // size * size
        passes = own[:full].reshape(-1, size)
        assert (np.sort(passes, axis=1) == np.arange(size)).all()


def test_passes_of_a_repeated_source_have_orders_of_their_own():
    rows = stream(Order([200, 10_000], [0.5, 0.5], 0), 1000)
    own = rows[rows < 200][:400].reshape(2, 200)
    assert (own[0] == own[1]).sum() < 10


def test_a_large_source_is_not_repeated_before_its_pass_is_over():
    rows = stream(Order([5000, 5000], [0.5, 0.5], 0), 8000)
    assert len(np.unique(rows)) == 8000


def test_epoch_and_passes():
    assert Order([50, 50], None, 0).epoch(25, 8) == 2.0
    order = Order([100, 300], [1, 1], 0)
    assert order.passes(25, 8) == (1.0, pytest.approx(1 / 3))
    assert order.weights == (0.5, 0.5)
    assert order.rows(0, 0).shape == (0,)


def test_rows_far_into_a_run_cost_no_more():
    order = Order([10**9, 7, 10**6], [0.2, 0.3, 0.5], 11)
    rows = order.rows(10**7, 256)
    assert rows.dtype == np.int64 and rows.shape == (256,)
    source = np.searchsorted([10**9, 10**9 + 7], rows, side="right")
    assert np.abs(np.bincount(source, minlength=3) - 256 * np.asarray([0.2, 0.3, 0.5])).max() < 3


@pytest.mark.parametrize(
    ("sizes", "shares"),
    [([], None), ([0], None), ([3, 0], [1, 1]), ([3], [0.0]), ([3], [1, 1]), ([-1, 5], None)],
)
def test_wrong_arguments(sizes, shares):
    with pytest.raises(ValueError, match="size|weight|row"):
        Order(sizes, shares, 0)


def test_wrong_steps():
    order = Order([10], None, 0)
    with pytest.raises(ValueError, match="negative"):
        order.rows(-1, 4)
    with pytest.raises(ValueError, match="2\\^33"):
        order.rows(1 << 33, 4)
