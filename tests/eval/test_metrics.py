"""Sums and counts merge to the same figure in any order and grouping."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exnihilo.eval import Mean, Totals

parts = st.lists(st.tuples(st.integers(-1000, 1000), st.integers(0, 50)), min_size=1, max_size=12)


@given(parts, st.integers(0, 12))
def test_means_do_not_depend_on_grouping(parts, cut):
    whole, left, right = Mean(), Mean(), Mean()
    for number, (total, count) in enumerate(parts):
        whole.add(total, count)
        (left if number < cut else right).add(total, count)
    assert left.merge(right) == right.merge(left) == whole
    counts = sum(count for _, count in parts)
    if counts:
        assert whole.value == sum(total for total, _ in parts) / counts
    else:
        assert math.isnan(whole.value)


@given(parts, st.integers(0, 12))
def test_totals_do_not_depend_on_grouping(parts, cut):
    batches = [
        ({"nll": t, f"nll@{i % 2}": t}, {"nll": n, f"nll@{i % 2}": n}) for i, (t, n) in enumerate(parts)
    ]
    whole, left, right = Totals(), Totals(), Totals()
    for number, (sums, counts) in enumerate(batches):
        whole.add(sums, counts)
        (left if number < cut else right).add(sums, counts)
    before = dict(left.sums)
    merged = left.merge([right])
    assert (merged.sums, merged.counts) == (whole.sums, whole.counts)
    assert left.sums == before
    assert all(key in whole.means() for key, count in whole.counts.items() if count)


def test_a_sum_without_its_count_is_refused():
    with pytest.raises(ValueError, match="nll"):
        Totals().add({"nll": 1.0}, {"other": 1.0})
