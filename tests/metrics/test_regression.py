"""Correlations equal SciPy's, with ties; undefined ones are NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from exnihilo.metrics import regression as ours


@pytest.fixture(scope="module")
def stats():
    return pytest.importorskip("scipy.stats", reason="SciPy is not installed")


@pytest.mark.parametrize("levels", [2, 5, 10_000])
@pytest.mark.parametrize("n", [2, 3, 500])
def test_correlations_equal_scipys(stats, levels, n):
    rng = np.random.default_rng(levels * n)
    a = rng.integers(0, levels, n).astype(float)
    b = np.round(a + rng.normal(0, levels / 3, n))
    a[0], a[1], b[0], b[1] = 0, 1, 3, 2  # not constant
    assert ours.pearson(a, b) == pytest.approx(stats.pearsonr(a, b).statistic, abs=1e-12)
    assert ours.spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert np.array_equal(ours.ranks(a), stats.rankdata(a))


@settings(deadline=None)
@given(arrays(np.float64, st.integers(0, 30), elements=st.sampled_from([0.0, 1.0, 1.5, -2.0])))
def test_ranks_share_ties_and_keep_their_sum(values):
    found = ours.ranks(values)
    n = len(values)
    assert found.sum() == n * (n + 1) / 2
    for value, rank in zip(values, found, strict=True):
        assert rank == (values < value).sum() + ((values == value).sum() + 1) / 2


def test_correlation_ignores_scale_and_is_undefined_where_one_side_is_constant():
    a = np.array([1.0, 2.0, 4.0, 3.0])
    assert ours.pearson(a, 1e9 + 3 * a) == pytest.approx(1.0)
    assert ours.spearman(a, -np.exp(a)) == -1.0
    for pair in ((a, np.ones(4)), (np.full(4, 0.1), a), (a[:1], a[:1])):
        assert math.isnan(ours.pearson(*pair)) and math.isnan(ours.spearman(*pair))
    with pytest.raises(ValueError, match="equal rows"):
        ours.pearson(a, a[:3])


def test_errors():
    a, b = np.array([1.0, 2.0]), np.array([1.0, 5.0])
    assert (ours.mse(a, b), ours.mae(a, b)) == (4.5, 1.5)
    assert math.isnan(ours.mse(a[:0], b[:0])) and math.isnan(ours.mae(a[:0], b[:0]))
