"""How good forecasts are: MASE, weighted quantile loss, MSE, MAE, coverage of intervals; naive forecasts
beside.

    tally = Tally(quantiles=(0.1, 0.5, 0.9))
    tally.add(actual_NH, forecast_NHQ, unit_N=..., scale_N=...)
    tally.figures()["mase"]

What is missing (NaN) in the truth counts nowhere. A tally is sums and counts: two of them add up to that of
both, whatever the batches. Errors are in the units of `actual`; MASE divides each window's mean absolute
error by `scale_N`, what the seasonal naive forecast errs by on the training part (`naive_scale`), and
averages over windows; windows without such a scale (a constant or too short past) are counted, not guessed.
The weighted quantile loss is 2 · sum of pinball losses / sum of absolute values, the mean over quantiles, in
the data's own units (`unit_N`, `zero_N`).

Sources: Hyndman & Koehler 2006, *Another look at measures of forecast accuracy* (MASE); Gneiting & Raftery
2007 (quantile loss); Park et al. 2022 and Ansari et al. 2024 (Chronos, arXiv 2403.07815: WQL).

Key: N windows, H steps, Q quantiles, L moments of the past
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


def seasonal_naive(past_NL: np.ndarray, period: int, horizon: int) -> np.ndarray:
    """The last season again and again, (N, H); with period 1 the last value. Of a place that is missing, the
    same place of the season before, and so on; where all are missing, the last value that is there.

    >>> seasonal_naive(np.array([[1.0, 2.0, 3.0, 4.0]]), 2, 3).tolist()
    [[3.0, 4.0, 3.0]]
    """
    N, L = past_NL.shape
    period = max(1, min(period, L))
    whole = L // period * period
    seasons = past_NL[:, L - whole :].reshape(N, -1, period)
    last = _last(seasons)
    if np.isnan(last).any():
        fallback = _last(past_NL[:, :, None])
        last = np.where(np.isnan(last), fallback, last)
    return np.take(last, np.arange(horizon) % period, 1)


def _last(values_NKP: np.ndarray) -> np.ndarray:
    """Along the second axis the last that is there, (N, P); NaN where none is."""
    there = ~np.isnan(values_NKP)
    at = values_NKP.shape[1] - 1 - np.argmax(there[:, ::-1], 1)
    return np.take_along_axis(values_NKP, at[:, None], 1)[:, 0]


def naive_scale(past: np.ndarray, period: int) -> float:
    """Mean of |x_t − x_(t − period)| over a past (L,), where both are there; NaN where there is no such pair.

    >>> naive_scale(np.array([1.0, 3.0, 2.0]), 1)
    1.5
    """
    if len(past) <= period:
        return math.nan
    differences = np.abs(past[period:] - past[:-period])
    good = differences[~np.isnan(differences)]
    return float(good.mean()) if len(good) else math.nan


def pinball(actual: np.ndarray, forecast_Q: np.ndarray, quantiles: Sequence[float]) -> np.ndarray:
    """max(q · (y − f), (q − 1) · (y − f)), shape of `forecast_Q`.

    >>> pinball(np.array([1.0]), np.array([[0.0, 2.0]]), (0.9, 0.9)).round(6).tolist()
    [[0.9, 0.1]]
    """
    q_Q = np.asarray(quantiles, np.float64)
    error = actual[..., None] - forecast_Q
    return np.maximum(q_Q * error, (q_Q - 1) * error)


class Tally:
    """Sums of errors.

    Args:
        quantiles: of the forecasts, in order; the one nearest to 0.5 is the point.
    """

    def __init__(self, quantiles: Sequence[float]) -> None:
        self.quantiles = tuple(quantiles)
        self.middle = int(np.argmin(np.abs(np.asarray(quantiles) - 0.5)))
        low, high = 0, len(self.quantiles) - 1
        self.interval = (low, high) if self.quantiles[low] < self.quantiles[high] else None
        self.sums: dict[str, float] = {}

    def add(
        self,
        actual_NH: np.ndarray,
        forecast_NHQ: np.ndarray,
        *,
        unit_N: np.ndarray,
        zero_N: np.ndarray,
        scale_N: np.ndarray,
        point_NH: np.ndarray | None = None,
    ) -> None:
        """Adds some windows.

        Args:
            actual_NH: truth, NaN where missing. forecast_NHQ: quantiles.
            unit_N, zero_N: the data's own value is zero + unit · actual.
            scale_N: of MASE, in the units of `actual`.
            point_NH: what MSE, MAE and MASE are of; default: the median.
        """
        y, f = np.asarray(actual_NH, np.float64), np.asarray(forecast_NHQ, np.float64)
        point = f[..., self.middle] if point_NH is None else np.asarray(point_NH, np.float64)
        there = ~np.isnan(y)
        truth = np.where(there, y, 0.0)
        error = np.where(there, truth - point, 0.0)
        loss = pinball(truth, f, self.quantiles) * there[..., None] * unit_N[:, None, None]
        own = np.where(there, zero_N[:, None] + unit_N[:, None] * truth, 0.0)
        count_N = there.sum(1)
        mean_N = np.abs(error).sum(1) / np.maximum(count_N, 1)
        scaled = (count_N > 0) & np.isfinite(scale_N) & (scale_N > 0)
        self._sum("count", there.sum())
        self._sum("windows", (count_N > 0).sum())
        self._sum("se", np.square(error).sum())
        self._sum("ae", np.abs(error).sum())
        self._sum("pinball", loss.sum() / len(self.quantiles))
        self._sum("abs", np.abs(own).sum())
        self._sum("mase", (mean_N[scaled] / scale_N[scaled]).sum())
        self._sum("scaled", scaled.sum())
        if self.interval is not None:
            low, high = (f[..., i] for i in self.interval)
            self._sum("inside", (there & (truth >= low) & (truth <= high)).sum())

    def _sum(self, name: str, value: Any) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + float(value)

    def merge(self, sums: Mapping[str, float]) -> Tally:
        """Adds the sums of another tally; returns itself."""
        for name, value in sums.items():
            self._sum(name, value)
        return self

    def figures(self) -> dict[str, float]:
        """mse, mae, mase (and mase_windows, where some have no scale), wql, coverage of the widest interval,
        windows; NaN of nothing."""
        s = self.sums
        count = s.get("count", 0.0)
        out = {
            "mse": s["se"] / count if count else math.nan,
            "mae": s["ae"] / count if count else math.nan,
            "mase": s["mase"] / s["scaled"] if s.get("scaled") else math.nan,
            "wql": 2 * s["pinball"] / s["abs"] if s.get("abs") else math.nan,
        }
        if self.interval is not None:
            out["coverage"] = s["inside"] / count if count else math.nan
        if s.get("scaled", 0.0) < s.get("windows", 0.0):
            out["mase_windows"] = s.get("scaled", 0.0)
        return {**out, "windows": s.get("windows", 0.0)}


def points(forecast_NH: np.ndarray, count: int) -> np.ndarray:
    """A point forecast as that many equal quantiles, (N, H, Q)."""
    return np.repeat(forecast_NH[..., None], count, -1)


def total(quantiles: Sequence[float], parts: Iterable[Mapping[str, float]]) -> Tally:
    """The tally of many."""
    tally = Tally(quantiles)
    for part in parts:
        tally.merge(part)
    return tally
