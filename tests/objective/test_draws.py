"""What is drawn depends on seed, step and row alone."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exnihilo.errors import UsageError
from exnihilo.nn.layout import Attention
from exnihilo.objective import draws, registry
from exnihilo.objective.base import Columns, Look, Objective


class Noise(Objective):
    """Adds a column of noise, and a column of a row chosen at random."""

    attention = Attention.FULL
    heads = ("tokens",)
    columns = frozenset({"tokens", "noise", "other"})

    def encode(self, example: Any, codec: Any) -> Any:
        return {"tokens": np.zeros(1)}

    def counts(self, batch: Any) -> dict[str, Any]:
        return {}

    def draw(self, columns: Columns, keys: Sequence[np.random.Generator], look: Look) -> Columns:
        noise = np.stack([key.random(4) for key in keys])
        other = np.array([int(key.integers(look.rows)) for key in keys])
        return {**columns, "noise": noise, "other": look.batch(other)["tokens"]}


class Rows:
    rows = 9

    def batch(self, rows: np.ndarray) -> Columns:
        return {"tokens": np.repeat(rows[:, None], 4, axis=1)}


CODEC: Any = SimpleNamespace()


@given(ids=st.lists(st.integers(0, 8), min_size=1, max_size=9), step=st.integers(0, 1 << 40))
def test_a_row_draws_the_same_whatever_stands_beside_it(ids: list[int], step: int) -> None:
    rows = np.array(ids)
    together = draws.draw(Noise(), Rows(), rows, codec=CODEC, seed=5, step=step)
    for b, row in enumerate(ids):
        alone = draws.draw(Noise(), Rows(), np.array([row]), codec=CODEC, seed=5, step=step)
        assert all(np.array_equal(alone[name][0], together[name][b]) for name in alone)


def test_streams_of_seeds_steps_and_rows_never_meet() -> None:
    seen = {
        tuple(draws.generator(seed, step, row).integers(1 << 62, size=2).tolist())
        for seed in (0, 1, draws.EVAL_SEED)
        for step in (0, 1, 1 << 32)
        for row in (0, 1, 1 << 32)
    }
    assert len(seen) == 27


def test_evaluation_draws_the_same_at_every_call_and_says_that_it_is_one() -> None:
    told: list[bool] = []

    class Asking(Noise):
        def draw(self, columns: Columns, keys: Sequence[np.random.Generator], look: Look) -> Columns:
            told.append(look.training)
            return super().draw(columns, keys, look)

    one, two = (draws.draw(Asking(), Rows(), np.arange(9), codec=CODEC) for _ in range(2))
    assert np.array_equal(one["noise"], two["noise"])
    draws.draw(Asking(), Rows(), np.arange(9), codec=CODEC, seed=0, step=0)
    assert told == [False, False, True]


def test_the_draws_are_uniform() -> None:
    values = np.concatenate([draws.generator(0, 0, row).random(8) for row in range(4000)])
    counts, _ = np.histogram(values, bins=20, range=(0, 1))
    chi = float(((counts - 1600) ** 2 / 1600).sum())
    assert chi < 43.8  # the 99.9% point of chi-squared with 19 degrees of freedom


def test_what_draws_needs_a_tokenizer_and_what_does_not_needs_none() -> None:
    with pytest.raises(UsageError, match="Noise draws masks or negatives"):
        draws.draw(Noise(), Rows(), np.arange(2), codec=None)
    assert "noise" not in draws.draw(registry.create("causal_lm"), Rows(), np.arange(2), codec=None)


def test_shared_parts_are_no_objectives() -> None:
    found = registry.names()
    assert "causal_lm" in found and not {"base", "draws", "pieces", "registry"} & set(found)
    assert not any(name.startswith("_") for name in found)
