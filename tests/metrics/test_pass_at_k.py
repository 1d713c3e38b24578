"""pass@k against enumeration, and its interval."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from exnihilo.errors import UsageError
from exnihilo.metrics.pass_at_k import interval, pass_at_k


def test_it_is_the_share_of_subsets_with_a_right_one():
    for n in range(1, 7):
        for c in range(n + 1):
            for k in range(1, n + 1):
                subsets = list(combinations([True] * c + [False] * (n - c), k))
                want = sum(any(s) for s in subsets) / len(subsets)
                assert pass_at_k([c], n, k)[0] == pytest.approx(want, abs=1e-12)


def test_it_is_unbiased_where_the_naive_estimate_is_not():
    chance, p, n, k = np.random.default_rng(0), 0.2, 8, 4
    right = chance.binomial(n, p, 40_000)
    truth = 1 - (1 - p) ** k
    assert abs(pass_at_k(right, n, k).mean() - truth) < 0.01
    assert (1 - (1 - right / n) ** k).mean() < truth - 0.03


def test_different_numbers_of_samples_and_large_ones():
    np.testing.assert_allclose(pass_at_k([1, 1], [2, 4], 2), [1.0, 0.5])
    assert 0 < pass_at_k([3], 10_000, 100)[0] < 1
    with pytest.raises(UsageError):
        pass_at_k([1], 4, 5)
    with pytest.raises(UsageError):
        pass_at_k([5], 4, 1)


def test_the_interval_covers_about_as_often_as_it_says():
    chance, hits = np.random.default_rng(1), 0
    for trial in range(60):
        values = chance.random(80) < 0.3
        mean, low, high = interval(values, seed=trial, draws=200)
        assert low <= mean <= high
        hits += low <= 0.3 <= high
    assert 50 <= hits <= 60
    assert all(np.isnan(interval([])))
    assert interval([1.0, 0.0], seed=3) == interval([1.0, 0.0], seed=3)
