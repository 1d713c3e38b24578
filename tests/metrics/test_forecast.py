"""Forecast metrics against the formulas written out with loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo.metrics.forecast import Tally, naive_scale, pinball, points, seasonal_naive, total

Q = (0.1, 0.5, 0.9)


def _windows(seed: int, holes: bool) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    N, H = 5, 7
    actual = rng.normal(3, 2, (N, H))
    if holes:
        actual[rng.random((N, H)) < 0.3] = np.nan
    forecast = np.sort(rng.normal(3, 2, (N, H, len(Q))), -1)
    return actual, forecast, rng.uniform(0.5, 4, N), rng.normal(0, 5, N), rng.uniform(0.1, 2, N)


@pytest.mark.parametrize("holes", [False, True])
def test_every_figure_is_its_formula(holes: bool) -> None:
    actual, forecast, unit, zero, scale = _windows(3, holes)
    tally = Tally(Q)
    tally.add(actual, forecast, unit_N=unit, zero_N=zero, scale_N=scale)
    se, ae, inside, count, size = 0.0, 0.0, 0, 0, 0.0
    loss = dict.fromkeys(Q, 0.0)
    ratios = []
    for n in range(len(actual)):
        errors = []
        for h in range(actual.shape[1]):
            y = actual[n, h]
            if math.isnan(y):
                continue
            errors.append(abs(y - forecast[n, h, 1]))
            se, ae, count = se + (y - forecast[n, h, 1]) ** 2, ae + errors[-1], count + 1
            inside += forecast[n, h, 0] <= y <= forecast[n, h, 2]
            own = zero[n] + unit[n] * y
            size += abs(own)
            for i, q in enumerate(Q):
                said = zero[n] + unit[n] * forecast[n, h, i]
                loss[q] += q * (own - said) if own >= said else (1 - q) * (said - own)
        if errors:
            ratios.append(np.mean(errors) / scale[n])
    found = tally.figures()
    assert found["mse"] == pytest.approx(se / count)
    assert found["mae"] == pytest.approx(ae / count)
    assert found["mase"] == pytest.approx(np.mean(ratios))
    assert found["coverage"] == pytest.approx(inside / count)
    assert found["wql"] == pytest.approx(np.mean([2 * v / size for v in loss.values()]))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 4))
def test_tallies_add_up_whatever_the_batches(seed: int, cut: int) -> None:
    parts = _windows(seed, True)
    whole = Tally(Q)
    whole.add(parts[0], parts[1], unit_N=parts[2], zero_N=parts[3], scale_N=parts[4])
    halves = []
    for piece in (slice(0, cut), slice(cut, None)):
        tally = Tally(Q)
        y, f, u, z, s = (p[piece] for p in parts)
        tally.add(y, f, unit_N=u, zero_N=z, scale_N=s)
        halves.append(tally.sums)
    for name, value in total(Q, halves).figures().items():
        assert value == pytest.approx(whole.figures()[name], nan_ok=True)


def test_seasonal_naive_repeats_the_last_season_and_reaches_back_over_what_is_missing() -> None:
    past = np.array([[1.0, 2.0, 3.0, 4.0, np.nan, 6.0]])
    assert seasonal_naive(past, 3, 5).tolist() == [[4.0, 2.0, 6.0, 4.0, 2.0]]
    assert seasonal_naive(past, 1, 2).tolist() == [[6.0, 6.0]]
    assert seasonal_naive(np.array([[5.0, np.nan]]), 9, 2).tolist() == [[5.0, 5.0]]
    assert np.isnan(seasonal_naive(np.full((1, 4), np.nan), 2, 2)).all()


def test_the_scale_of_mase_is_the_seasonal_naive_error_of_the_past() -> None:
    past = np.arange(10.0) ** 2
    assert naive_scale(past, 2) == pytest.approx(np.mean([past[i] - past[i - 2] for i in range(2, 10)]))
    assert math.isnan(naive_scale(past[:2], 2))
    assert naive_scale(np.ones(5), 1) == 0.0


def test_a_window_without_a_scale_is_left_out_of_mase_alone() -> None:
    actual, forecast, unit, zero, scale = _windows(1, False)
    scale[0], scale[1] = 0.0, np.nan
    tally = Tally(Q)
    tally.add(actual, forecast, unit_N=unit, zero_N=zero, scale_N=scale)
    want = [np.abs(actual[n] - forecast[n, :, 1]).mean() / scale[n] for n in range(2, 5)]
    assert tally.figures()["mase"] == pytest.approx(np.mean(want))
    assert tally.figures()["windows"] == 5


def test_the_median_minimises_pinball_at_one_half_and_a_point_is_every_quantile() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=501)
    tried = np.linspace(-1, 1, 201)
    losses = [pinball(values, np.full((501, 1), t), (0.9,)).mean() for t in tried]
    assert (
        tried[int(np.argmin(losses))] == pytest.approx(np.quantile(values, 0.9), abs=0.02)
        or np.quantile(values, 0.9) > 1
    )
    assert points(np.array([[2.0]]), 3).tolist() == [[[2.0, 2.0, 2.0]]]


def test_nothing_is_nan() -> None:
    assert math.isnan(Tally(Q).figures()["mse"]) if Tally(Q).sums else True
    tally = Tally((0.5,))
    tally.add(
        np.full((1, 2), np.nan),
        np.zeros((1, 2, 1)),
        unit_N=np.ones(1),
        zero_N=np.zeros(1),
        scale_N=np.ones(1),
    )
    found = tally.figures()
    assert math.isnan(found["mse"]) and math.isnan(found["wql"]) and "coverage" not in found
