"""Micro-batches are a function of the step alone and cover its rows once, on any number of workers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exnihilo.data.order import Order
from exnihilo.errors import DataError
from exnihilo.objective.registry import create
from exnihilo.train.batches import Batches, parts


@given(rows=st.integers(1, 60), world=st.integers(1, 8), micro=st.integers(1, 20))
def test_each_row_once_and_as_many_turns_everywhere(rows: int, world: int, micro: int) -> None:
    ids = np.arange(100, 100 + rows)
    dealt = [parts(ids, rank, world, micro) for rank in range(world)]
    assert np.concatenate([p for part in dealt for p in part]).tolist() == ids.tolist()
    assert len({len(part) for part in dealt}) == 1
    assert all(len(p) <= micro for part in dealt for p in part)


class Rows:
    """Ten rows that hold their own number."""

    context, source_names, source_rows = 4, ("a",), (10,)

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        tokens = np.repeat(rows[:, None], 5, axis=1)
        doc = np.zeros((len(rows), 5), np.int32)
        doc[:, 3:] = rows[:, None] % 2  # odd rows hold two documents
        return {
            "tokens": tokens,
            "doc": doc,
            "pos": np.zeros_like(tokens),
            "source": np.zeros(len(rows), np.int64),
        }


def batches(**values: Any) -> Batches:
    order = Order((10,), None, 0)
    objective = values.pop("objective", create("causal_lm"))
    return Batches(Rows(), order, objective, rows_per_step=5, **{"micro_rows": 2, **values})  # type: ignore[arg-type]


def test_prepared_ahead_or_not_is_the_same() -> None:
    made = batches()
    try:
        for step in (0, 1, 2, 7, 3, 3):  # forward, a jump, and back (a rewind)
            ahead, now = made.get(step), made.make(step)
            assert ahead.rows.tolist() == now.rows.tolist()
            for a, b in zip(ahead.micros, now.micros, strict=True):
                assert a.batch.keys() == b.batch.keys()
                assert all(torch.equal(a.batch[k], b.batch[k]) for k in a.batch)
    finally:
        made.close()


def test_columns_that_say_nothing_are_dropped() -> None:
    made = batches(micro_rows=1)
    try:
        for micro, row in zip(made.make(0).micros, made.make(0).rows, strict=True):
            assert ("doc" in micro.batch) == bool(row % 2)
            assert "source" not in micro.batch  # there is one source only
    finally:
        made.close()


def test_workers_share_the_rows_and_fillers_do_not_count() -> None:
    one, two = batches(micro_rows=1), [batches(micro_rows=1, rank=r, world=2) for r in (0, 1)]
    try:
        steps = [b.make(3) for b in two]
        assert np.concatenate([s.rows for s in steps]).tolist() == one.make(3).rows.tolist()
        assert [[m.filler for m in s.micros] for s in steps] == [[False] * 3, [False, False, True]]
    finally:
        for b in (one, *two):
            b.close()


def test_a_missing_column_is_named() -> None:
    objective = create("causal_lm")
    objective.columns = frozenset({"tokens", "labels"})  # type: ignore[misc]
    made = batches(objective=objective)
    try:
        with pytest.raises(DataError, match="labels"):
            made.get(0)
    finally:
        made.close()
