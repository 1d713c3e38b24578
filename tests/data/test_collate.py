"""Pieces laid out as rows: every column in its place, padding marked, the fast path only where it holds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo.data import collate
from exnihilo.data.packing import plan


@given(st.lists(st.integers(2, 50), min_size=1, max_size=30), st.integers(4, 24))
@settings(max_examples=100, deadline=None)
def test_rows_hold_what_the_plan_says(lengths, row):
    documents = [np.arange(n) + 1000 * (d + 1) for d, n in enumerate(lengths)]
    labels = [np.arange(n, dtype=np.int8) % 7 + 1 for n in lengths]
    p = plan(np.asarray(lengths), row)

    def fetch(d: int, s: int, n: int) -> dict[str, np.ndarray]:
        return {"tokens": documents[d][s : s + n], "label": labels[d][s : s + n]}

    pieces = [p.pieces(r) for r in range(p.rows)]
    batch = collate.rows(pieces, fetch, row=row, pad_id=9, columns={"label": np.int8})
    assert {k: (v.dtype, v.shape) for k, v in batch.items()} == {
        "tokens": (np.int64, (p.rows, row)),
        "doc": (np.int32, (p.rows, row)),
        "pos": (np.int64, (p.rows, row)),
        "label": (np.int8, (p.rows, row)),
    }
    for b, row_pieces in enumerate(pieces):
        at = 0
        for i, (d, s, n) in enumerate(row_pieces):
            part = slice(at, at + n)
            assert np.array_equal(batch["tokens"][b, part], documents[d][s : s + n])
            assert np.array_equal(batch["label"][b, part], labels[d][s : s + n])
            assert (batch["doc"][b, part] == i).all()
            assert np.array_equal(batch["pos"][b, part], np.arange(n))
            at += n
        assert (batch["tokens"][b, at:] == 9).all() and (batch["doc"][b, at:] == -1).all()
        assert not batch["pos"][b, at:].any() and not batch["label"][b, at:].any()


def tokens_of(d: int, s: int, n: int) -> dict[str, np.ndarray]:
    return {"tokens": np.arange(s, s + n)}


def test_no_rows():
    assert collate.rows([], tokens_of, row=5, pad_id=0)["tokens"].shape == (0, 5)


def test_simplify_only_where_each_row_is_one_whole_document():
    full = collate.rows([[(0, 0, 4)], [(1, 0, 4)]], tokens_of, row=4, pad_id=0)
    assert set(collate.simplify(full)) == {"tokens"}
    packed = collate.rows([[(0, 0, 4)], [(1, 0, 2), (2, 0, 2)]], tokens_of, row=4, pad_id=0)
    assert set(collate.simplify(packed)) == {"tokens", "doc", "pos"}
    padded = collate.rows([[(0, 0, 4)], [(1, 0, 3)]], tokens_of, row=4, pad_id=0)
    assert set(collate.simplify(padded)) == {"tokens", "doc", "pos"}
    assert set(full) == {"tokens", "doc", "pos"}  # the argument is left alone
    assert set(collate.simplify({"tokens": full["tokens"]})) == {"tokens"}


def test_simplify_keeps_other_columns():
    batch = collate.rows([[(0, 0, 4)]], tokens_of, row=4, pad_id=0) | {"source": np.zeros(1)}
    assert set(collate.simplify(batch)) == {"tokens", "source"}


def test_overfull_rows_and_short_columns_are_errors():
    with pytest.raises(ValueError, match="pieces of 6 tokens in a row of 5"):
        collate.rows([[(0, 0, 3), (0, 0, 3)]], tokens_of, row=5, pad_id=0)
    with pytest.raises(ValueError, match="has 2 of 3"):
        collate.rows([[(0, 0, 3)]], lambda d, s, n: {"tokens": np.zeros(2)}, row=5, pad_id=0)
