"""Intervals against scipy's, and against what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from exnihilo.errors import UsageError
from exnihilo.infer.interval import bootstrap, wilson


@pytest.mark.parametrize(("right", "count"), [(0, 1), (0, 20), (7, 20), (20, 20), (499, 1000)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_is_scipys(right, count, confidence):
    theirs = binomtest(right, count).proportion_ci(confidence, method="wilson")
    np.testing.assert_allclose(wilson(right, count, confidence), (theirs.low, theirs.high), atol=1e-12)


def test_nothing_known_without_trials():
    assert wilson(0, 0) == (0.0, 1.0)


def test_bootstrap_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        low, high = bootstrap(rng.normal(1.0, 2.0, 80), draws=400, seed=trial)
        inside += low <= 1.0 <= high
    assert 0.88 <= inside / 200 <= 0.99


def test_bootstrap_is_seeded_and_leaves_global_state():
    values = np.arange(50.0)
    before = np.random.get_state(legacy=False)
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1) != bootstrap(values, seed=2)
    np.testing.assert_equal(np.random.get_state(legacy=False), before)


def test_bad_values_are_refused():
    for call in (
        lambda: wilson(3, 2),
        lambda: wilson(1, 2, 1.0),
        lambda: bootstrap([]),
        lambda: bootstrap([1], confidence=0),
    ):
        with pytest.raises(UsageError):
            call()
