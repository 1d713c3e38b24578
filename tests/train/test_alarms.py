"""Alarms: each rings on the series it is for, once, and on no healthy one; its memory is JSON."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo.config import AlarmsConfig
from exnihilo.train.source.alarms import Alarms

HEALTHY = {
    "pass@1": 0.3, "pass@k": 0.8, "entropy": 0.5, "length": 20.0, "cut": 0.05, "reward": 0.3, "drift": 1e-6,
}  # fmt: skip


def ring(config: AlarmsConfig, rows: list[dict[str, float]], dtype: str = "fp32") -> list[tuple[int, str]]:
    """(step, name) of each alarm; the memory goes through JSON at each step, as through a checkpoint."""
    memory: dict[str, Any] = {}
    out = []
    for step, row in enumerate(rows):
        memory = json.loads(json.dumps(memory))
        out += [(step, alarm.name) for alarm in Alarms(config, dtype=dtype).step(memory, step, row)]
    return out


def falling(name: str, to: float, steps: int = 40) -> list[dict[str, float]]:
    start = HEALTHY[name]
    return [{**HEALTHY, name: start + (to - start) * min(1.0, i / 20)} for i in range(steps)]


@pytest.mark.parametrize(("name", "to", "alarm"), [("pass@k", 0.1, "pass@k"), ("entropy", 0.001, "entropy")])
def test_a_collapse_rings_once(name: str, to: float, alarm: str) -> None:
    found = ring(AlarmsConfig(patience=5), falling(name, to))
    assert [a for _, a in found] == [alarm] and 10 <= found[0][0] < 30


def test_a_policy_that_is_sure_because_it_is_right_is_no_collapse() -> None:
    rows = [{**row, "pass@1": min(1.0, 0.3 + 0.05 * i)} for i, row in enumerate(falling("entropy", 0.001))]
    assert not ring(AlarmsConfig(patience=5), rows)


def test_length_runs_away_only_where_the_limit_cuts() -> None:
    grown = falling("length", 64.0)
    assert not ring(AlarmsConfig(patience=5), grown)
    cut = [{**row, "cut": min(1.0, i / 20)} for i, row in enumerate(grown)]
    assert [a for _, a in ring(AlarmsConfig(patience=5), cut)] == ["length"]


def test_a_reward_that_rises_alone_is_gamed() -> None:
    alone = [{**HEALTHY, "reward": min(0.9, 0.3 + i / 40), "independent": 0.3} for i in range(40)]
    together = [{**row, "independent": row["reward"] - 0.1} for row in alone]
    assert [a for _, a in ring(AlarmsConfig(patience=5), alone)] == ["reward"]
    assert not ring(AlarmsConfig(patience=5), together)


def test_drift_rings_at_once_by_the_number_format() -> None:
    rows = [HEALTHY, {**HEALTHY, "drift": 2e-4}, HEALTHY, {**HEALTHY, "drift": 2e-4}]
    assert ring(AlarmsConfig(), rows) == [(1, "drift"), (3, "drift")]
    assert not ring(AlarmsConfig(), rows, dtype="bf16")
    assert not ring(AlarmsConfig(drift=1e-3), rows)
    assert not ring(AlarmsConfig(enabled=False), rows)


def test_an_evaluation_compares_the_score_with_the_independent_one() -> None:
    memory: dict[str, Any] = {}
    alarms = Alarms(AlarmsConfig())
    figures = [(0.2, 0.2), (0.5, 0.4), (0.6, 0.21), (0.7, 0.2)]
    found = [alarms.evaluated(memory, i, {"score": a, "independent": b}) for i, (a, b) in enumerate(figures)]
    assert [len(f) for f in found] == [0, 0, 1, 0]
    assert "0.200 to 0.600" in found[2][0].text and not alarms.evaluated(memory, 9, {"score": 1.0})


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_noise_rings_nothing(seed: int) -> None:
    draw = random.Random(seed)
    rows = [{k: v * draw.uniform(0.7, 1.3) for k, v in HEALTHY.items()} for _ in range(60)]
    assert not ring(AlarmsConfig(), rows)


def test_figures_that_are_not_there_are_not_judged() -> None:
    assert not ring(AlarmsConfig(patience=2), [{}] * 10 + [{"loss": 3.0}] * 10)


def test_chosen_replies_that_sink_with_the_rejected_ones_ring() -> None:
    """Preferences: a chosen reply may lose some of its likelihood, as it mostly does, and not all of it."""

    def series(to: float) -> list[dict[str, float]]:
        return [{"chosen_logp": -20 + (to + 20) * min(1.0, i / 20)} for i in range(40)]

    for far, said in ((-30.0, 0), (-39.0, 0), (-60.0, 1)):
        assert len(ring(AlarmsConfig(patience=5), series(far))) == said, far
    short = [{"chosen_logp": -0.2 - min(1.8, i / 10)} for i in range(40)]  # ten times, but hardly two nats
    assert not ring(AlarmsConfig(patience=5), short)
    assert not ring(AlarmsConfig(patience=5, likelihood=5.0), series(-60.0))


def test_an_evaluation_of_sunk_replies_rings_at_once() -> None:
    alarms, memory = Alarms(AlarmsConfig()), {}
    assert not alarms.evaluated(memory, 0, {"chosen_logp": -12.0, "accuracy": 0.5})
    assert not alarms.evaluated(memory, 10, {"chosen_logp": -15.0})
    assert [a.name for a in alarms.evaluated(memory, 20, {"chosen_logp": -115.0})] == ["likelihood"]
    assert not alarms.evaluated(memory, 30, {"chosen_logp": -120.0})  # said already
