"""First tokens of packed documents."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from exnihilo.objective.pieces import IGNORE, at_first, firsts


@given(st.lists(st.lists(st.integers(1, 4), max_size=4), min_size=1, max_size=4))
def test_each_document_has_one_first_token_in_order(lengths: list[list[int]]) -> None:
    T = max(1, max(sum(row) for row in lengths))
    pos = torch.zeros(len(lengths), T, dtype=torch.int64)
    doc = torch.full((len(lengths), T), -1, dtype=torch.int32)
    label = torch.zeros(len(lengths), T, dtype=torch.int64)  # padding holds 0
    number, expected = 0, []
    for b, row in enumerate(lengths):
        at = 0
        for d, length in enumerate(row):
            pos[b, at : at + length] = torch.arange(length)
            doc[b, at : at + length] = d
            label[b, at : at + length] = torch.from_numpy(at_first(number, length)).long()
            expected.append(number)
            number, at = number + 1, at + length
    first = firsts({"tokens": pos, "pos": pos, "doc": doc})
    assert label[first].tolist() == expected
    assert (label[(doc >= 0) & ~first] == IGNORE).all()


def test_plain_rows_begin_at_their_first_column() -> None:
    assert firsts({"tokens": torch.zeros(2, 3)}).tolist() == [[True, False, False]] * 2


def test_kinds_of_numbers() -> None:
    assert at_first(1.5, 2).tolist() == [1.5, IGNORE] and at_first(1.5, 2).dtype.name == "float32"
    assert at_first(3, 2).tolist() == [3, IGNORE] and at_first(3, 2).dtype.name == "int32"
