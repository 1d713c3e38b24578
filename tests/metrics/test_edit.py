"""Edit distance against the textbook's table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exnihilo.metrics.edit import distance, errors


def table(a: str, b: str) -> int:
    """Wagner & Fischer, cell by cell."""
    rows = [[i + j if not i * j else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            same = a[i - 1] == b[j - 1]
            rows[i][j] = min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, rows[i - 1][j - 1] + (not same))
    return rows[-1][-1]


@given(st.text("abc", max_size=9), st.text("abc", max_size=9))
def test_distance_is_the_tables(a: str, b: str):
    assert distance(a, b) == table(a, b) == distance(b, a)


def test_rates_are_of_the_whole_and_may_exceed_one():
    found = errors(["one two three", "four"], ["one two", "four five six"])
    assert found["wer"] == pytest.approx(3 / 4)
    assert found["exact"] == 0
    assert errors(["a"], ["b c"])["wer"] == 2
    assert errors(["a  b"], [" a b "]) == {"wer": 0, "cer": 0, "exact": 1}


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="2 references"):
        errors(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="word"):
        errors([" "], ["a"])
