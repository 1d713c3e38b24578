"""The guard: what it lets through, what it remembers, which documents it names."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exnihilo.config import GuardConfig
from exnihilo.errors import TrainError
from exnihilo.train.guard import LEAST, Guard, describe, offenders
from exnihilo.train.state import GuardState

BAD = [math.nan, math.inf, -math.inf]


@given(loss=st.sampled_from(BAD), norm=st.floats(0, 10))
def test_what_is_not_finite_is_never_let_through(loss: float, norm: float) -> None:
    for a, b in ((loss, norm), (norm, loss)):
        assert not Guard(GuardConfig()).judge(GuardState(), a, b).ok
        with pytest.raises(TrainError):
            Guard(GuardConfig(enabled=False)).judge(GuardState(), a, b)


def steady(guard: Guard, count: int = LEAST, level: float = 2.0) -> GuardState:
    memory = GuardState()
    for i in range(count):
        guard.good(memory, level + 0.01 * (-1) ** i)
    return memory


def test_a_spike_is_caught_and_a_young_run_is_left_alone() -> None:
    guard = Guard(GuardConfig())
    assert guard.judge(GuardState(), 50.0, 1.0).ok  # no history yet
    memory = steady(guard)
    assert guard.judge(memory, 2.1, 1.0).ok
    verdict = guard.judge(memory, 4.0, 1.0)
    assert not verdict.ok and "spike" in verdict.why and "4" in verdict.why
    assert Guard(GuardConfig(enabled=False)).judge(memory, 4.0, 1.0).ok
    assert Guard(GuardConfig(sigmas=1000.0)).judge(memory, 4.0, 1.0).ok


def test_history_never_takes_in_what_was_skipped() -> None:
    guard = Guard(GuardConfig(max_skips=3, window=40))
    memory = steady(guard, 200)
    assert len(memory.history) == 40
    before = list(memory.history)
    assert [guard.bad(memory, step) for step in (10, 11, 12)] == [False, False, True]
    assert memory.history == before
    assert not guard.judge(memory, 4.0, 1.0).ok  # still as watchful as before
    guard.good(memory, 2.0)
    assert memory.streak == [] and memory.skipped == 3


def test_each_rewind_leaves_out_more() -> None:
    guard = Guard(GuardConfig(max_skips=3, max_rewinds=2))
    memory = GuardState(streak=[10, 11, 12])
    assert guard.avoid(memory) == [7, 8, 9, 10, 11, 12]
    memory.rewinds, memory.avoid = 1, [7, 8, 9, 10, 11, 12]
    memory.streak = [13, 14, 15]
    assert guard.avoid(memory) == list(range(7, 16))
    assert guard.may_rewind(memory)
    memory.rewinds = 2
    assert not guard.may_rewind(memory)


def test_the_worst_documents_are_named() -> None:
    def refs(row: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(source="s", file="f.txt", index=row, preview=f"text {row}")]

    dataset = SimpleNamespace(refs=refs)
    found = offenders(dataset, [(1, 2.0), (2, math.nan), (3, 9.0), (4, 3.0)])  # type: ignore[arg-type]
    assert [f["row"] for f in found] == [2, 3, 4]
    assert "f.txt[2]" in describe(found) and "text 2" in describe(found)


def test_rewards_that_are_rare_are_not_spikes() -> None:
    """The loss of policy gradients lies around 0 until a success comes: that is the step to learn from."""
    memory = GuardState(history=[0.0] * 64)
    assert not Guard(GuardConfig()).judge(memory, 1e-3, 1.0).ok
    rewards = Guard(GuardConfig(), spikes=False)
    assert rewards.judge(memory, 1e-3, 1.0).ok
    assert not rewards.judge(memory, float("nan"), 1.0).ok
