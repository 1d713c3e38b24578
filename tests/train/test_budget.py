"""The end of a run and the horizon of its schedule, by steps, tokens and the clock."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo.config import OptimConfig, RunConfig, ScheduleConfig
from exnihilo.errors import ConfigError
from exnihilo.optim import scale
from exnihilo.train.budget import Budget
from exnihilo.train.state import Choices, State


def config(schedule: str = "wsd", **values: object) -> RunConfig:
    return RunConfig.model_validate(
        {"optim": OptimConfig(schedule=ScheduleConfig(name=schedule)), **values}  # type: ignore[arg-type]
    )


def drive(budget: Budget, pace: float, state: State | None = None) -> tuple[State, list[float]]:
    """A run whose steps take `pace` seconds, the first one ten times that; the learning rates it used."""
    state = state or State(choices=Choices(step_seconds=pace))
    budget.begin(state, pace)
    rates = []
    while not budget.over(state):
        rates.append(budget.scale(state, state.step))
        first = state.step == 0
        state.step += 1
        state.seconds += pace * (10 if first else 1)
        if first:
            state.startup_seconds, state.startup_steps = state.seconds, 1
        budget.update(state)
    return state, rates


def test_whichever_ends_first() -> None:
    assert Budget(config(steps=10, tokens=10_000), 100).steps == 10
    assert Budget(config(steps=1000, tokens=10_001), 100).steps == 101
    assert drive(Budget(config(steps=7, minutes=100), 1), 0.1)[0].step == 7
    state, _ = drive(Budget(config(steps=10**6, minutes=1), 1), 0.1)
    assert 540 < state.step < 600 and state.seconds <= 60


def test_epochs_are_passes_over_the_rows() -> None:
    assert Budget(config(epochs=3), 100, 1000).steps == 30
    assert Budget(config(epochs=0.25), 100, 1000).steps == 2
    assert Budget(config(epochs=0.001), 100, 1000).steps == 1
    assert Budget(config(epochs=3, steps=7), 100, 1000).steps == 7
    assert drive(Budget(config("linear", epochs=2), 10, 100), 0.1)[0].step == 20


def test_no_budget_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no budget"):
        Budget(config(), 1)


@settings(max_examples=30, deadline=None)
@given(pace=st.floats(0.01, 1.0), schedule=st.sampled_from(["wsd", "cosine", "linear"]))
def test_by_the_clock_the_schedule_comes_to_its_end(pace: float, schedule: str) -> None:
    state, rates = drive(Budget(config(schedule, minutes=2), 1), pace)
    assert state.seconds <= 120 + 1e-6
    assert state.seconds > 0.9 * 120 - 2 * pace
    assert state.horizon == state.step  # not cut short
    assert rates[-1] < 0.15 or state.step < 20  # cooled down
    assert max(rates) <= 1.0


def test_by_the_clock_half_the_run_is_cooled_down() -> None:
    state, rates = drive(Budget(config(minutes=2), 1), 0.1)
    flat = sum(rate == 1.0 for rate in rates)
    assert 0.4 < flat / state.step < 0.55


def test_the_rate_is_a_function_of_step_and_horizon() -> None:
    budget = Budget(config(minutes=2), 1)
    state, rates = drive(budget, 0.1)
    resolved = budget.resolved(state)
    assert state.horizon is not None
    assert rates == [scale(resolved, s, state.horizon) for s in range(state.step)]


def test_a_run_cut_in_two_keeps_its_horizon() -> None:
    budget = Budget(config(minutes=2), 1)
    state = State(choices=Choices(step_seconds=0.1))
    budget.begin(state, 0.1)
    while state.horizon is None:
        state.step += 1
        state.seconds += 0.1
        budget.update(state)
    horizon = state.horizon
    again = State.from_json(state.to_json())
    ended, _ = drive(Budget(config(minutes=2), 1), 0.1, again)
    assert ended.horizon == horizon


@pytest.mark.parametrize("schedule", ["wsd", "cosine", "linear"])
def test_a_slower_machine_still_cools_down(schedule: str) -> None:
    """Five times slower from step 700 on: the rate falls faster, without a jump, and ends low."""
    budget = Budget(config(schedule, minutes=2), 1)
    state = State(choices=Choices(step_seconds=0.1))
    budget.begin(state, 0.1)
    rates, first = [], None
    while not budget.over(state):
        rates.append(budget.scale(state, state.step))
        state.step += 1
        state.seconds += 0.1 if state.step < 700 else 0.5
        if budget.update(state):
            first = first or state.horizon
            state = State.from_json(state.to_json())  # a resume in between changes nothing
            budget = Budget(config(schedule, minutes=2), 1)
    assert first is not None and state.horizon is not None and state.horizon < first
    assert state.seconds <= 120.5 and state.step == state.horizon
    assert rates[-1] < 0.06
    down = [a - b for a, b in zip(rates[400:], rates[401:], strict=False)]
    assert min(down) >= -1e-9 and max(down) < 0.05


@pytest.mark.parametrize("schedule", ["wsd", "cosine", "linear"])
def test_a_machine_that_was_busy_for_a_while_uses_all_its_minutes(schedule: str) -> None:
    """Five times slower from step 500 to 600 only: the horizon comes nearer, then moves back."""
    budget = Budget(config(schedule, minutes=2), 1)
    state = State(choices=Choices(step_seconds=0.1))
    budget.begin(state, 0.1)
    rates, horizons = [], []
    while not budget.over(state):
        rates.append(budget.scale(state, state.step))
        state.step += 1
        state.seconds += 0.5 if 500 <= state.step < 600 else 0.1
        if budget.update(state):
            horizons.append(state.horizon)
    assert 0.9 * 120 <= state.seconds <= 120.5 and state.step == state.horizon
    assert state.step > 700
    assert any(a < b for a, b in zip(horizons, horizons[1:], strict=False))
    assert rates[-1] < 0.06
    down = [a - b for a, b in zip(rates[400:], rates[401:], strict=False)]
    assert min(down) >= -1e-9 and max(down) < 0.05


def test_a_machine_that_stops_is_cut_by_the_clock() -> None:
    budget = Budget(config(minutes=1), 1)
    state = State(choices=Choices(step_seconds=0.1))
    budget.begin(state, 0.1)
    while not budget.over(state):
        state.step += 1
        state.seconds += 0.1 if state.step < 400 else 30.0
        budget.update(state)
    assert state.step <= 402 and state.seconds < 100.1
