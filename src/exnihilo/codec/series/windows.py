"""Where the windows of a series lie, what a window is normalised by, and how its rows become positions.

    split = parts(len(series), (8640, 2880, 2880), horizon=96)        # {"train": (0, 8640), "val": ...}
    starts = origins(*split["test"], history=336, horizon=96)     # the first forecast moment of each window
    rows_NRW = cut(table_LW, starts, history=336, rows=432)       # NaN before the beginning, behind the end
    z_NRC, level_NC2 = normalise(rows_NRC, seen_NR, kind="mean")

A window is history, then horizon. What is forecast lies wholly in one part of the split; only the history may
reach into the part before. Windows are normalised each by itself from what is seen of it (Kim et al. 2022,
RevIN; Nie et al. 2023, PatchTST, arXiv 2211.14730: patches of each channel alone; Zeng et al. 2023, NLinear:
the last value), with a guard where nothing varies.

Key: L moments of a series, W columns, N windows, R rows of a window, C channels, T positions, S numbers
stored
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from exnihilo.errors import ConfigError

Norm = Literal["mean", "last", "none"]
Part = tuple[int, int]
FLOOR = 0.1
"""The least deviation that a window is divided by, in deviations of its series' training part: where nothing
varies, what comes next would be infinitely far."""


def parts(length: int, split: Sequence[float], horizon: int) -> dict[str, Part]:
    """The rows whose values each part forecasts: train, val, test, one behind the other.

    Args:
        split: three shares of 1, or three counts of rows.
        horizon: a part must hold one. Where shares leave less, the last two horizons are val and test; where
            the
            series is too short for that, all of it is train.

    Raises:
        ConfigError: more rows than there are.

    >>> parts(100, (0.7, 0.1, 0.2), 10)
    {'train': (0, 70), 'val': (70, 80), 'test': (80, 100)}
    """
    if any(s > 1 for s in split):
        a, b, c = (int(s) for s in split)
        if a + b + c > length:
            raise ConfigError(
                f"options.split={list(split)} is {a + b + c:,} rows, the series has {length:,}",
                expected="counts of rows that are there, or shares of 1",
                next="options.split=[0.7,0.1,0.2]",
            )
        return {"train": (0, a), "val": (a, a + b), "test": (a + b, a + b + c)}
    end = int(length * sum(split) + 1e-9)
    train, test = int(length * split[0] + 1e-9), int(length * split[2] + 1e-9)
    sizes = [train, end - train - test, test]
    wanted = [share > 0 for share in split]
    if all(size >= horizon or not want for size, want in zip(sizes[1:], wanted[1:], strict=True)):
        return {"train": (0, train), "val": (train, end - test), "test": (end - test, end)}
    held = horizon * sum(wanted[1:])
    if length < held + 2:
        return {"train": (0, length), "val": (length, length), "test": (length, length)}
    a, b = length - held, length - (horizon if wanted[2] else 0)
    return {"train": (0, a), "val": (a, b), "test": (b, length)}


def origins(low: int, high: int, *, history: int, horizon: int) -> np.ndarray:
    """The first forecast moment of every window whose forecast lies in [low, high), int64.

    A history that reaches before the beginning is filled with nothing; that is done only where whole ones are
    not to be had.

    >>> origins(0, 10, history=4, horizon=3).tolist()
    [4, 5, 6, 7]
    """
    last = high - horizon
    least = history if last >= history else max(1, (last + 1) // 2)
    return np.arange(max(low, least), last + 1, dtype=np.int64)


def cut(table_LW: np.ndarray, starts_N: np.ndarray, *, history: int, rows: int) -> np.ndarray:
    """(N, rows, W): the rows from `history` before each start on; NaN where there are none.

    >>> cut(np.arange(4.0)[:, None], np.array([1, 3]), history=2, rows=3)[..., 0].tolist()
    [[nan, 0.0, 1.0], [1.0, 2.0, 3.0]]
    """
    L = len(table_LW)
    at_NR = starts_N[:, None] - history + np.arange(rows)
    inside = (at_NR >= 0) & (at_NR < L)
    out = (
        table_LW[np.clip(at_NR, 0, max(0, L - 1))]
        if L
        else np.full((*at_NR.shape, table_LW.shape[1]), np.nan)
    )
    return np.where(inside[..., None], out, np.nan)


def spread(starts: np.ndarray, most: int) -> np.ndarray:
    """At most so many of them, evenly spread; the first and the last stay.

    >>> spread(np.arange(10), 4).tolist()
    [0, 3, 6, 9]
    """
    if len(starts) <= most:
        return starts
    return starts[np.linspace(0, len(starts) - 1, most).round().astype(np.int64)]


def normalise(
    values_NRC: np.ndarray, seen_NRC: np.ndarray, kind: Norm, *, floor: float = FLOOR
) -> tuple[np.ndarray, np.ndarray]:
    """Windows less their own shift, over their own deviation, from what is seen; what is missing stays NaN.

    Args:
        values_NRC: in deviations of the training part, NaN where missing.
        seen_NRC: what may be looked at.
        kind: ``mean`` (RevIN), ``last`` (less the last value seen), or ``none``.

    Returns:
        (normalised, float32; (N, C, 2): shift and scale of each: value = shift + scale · normalised).

    >>> z, level = normalise(np.array([[[1.0], [3.0], [9.0]]]), np.array([[[True], [True], [False]]]), "mean")
    >>> z[0, :, 0].tolist(), level[0, 0].tolist()
    ([-1.0, 1.0, 7.0], [2.0, 1.0])
    """
    N, _, C = values_NRC.shape
    level_NC2 = np.zeros((N, C, 2), np.float32)
    level_NC2[..., 1] = 1.0
    if kind != "none" and values_NRC.size:
        seen = seen_NRC & ~np.isnan(values_NRC)
        count_NC = np.maximum(seen.sum(1), 1)
        held = np.where(seen, values_NRC, 0.0).astype(np.float64)
        mean_NC = held.sum(1) / count_NC
        spread_NC = np.sqrt(np.where(seen, np.square(held - mean_NC[:, None]), 0.0).sum(1) / count_NC)
        shift_NC = mean_NC
        if kind == "last":
            last = seen.shape[1] - 1 - np.argmax(seen[:, ::-1], 1)
            shift_NC = np.take_along_axis(held, last[:, None], 1)[:, 0]
        level_NC2[..., 0] = shift_NC
        level_NC2[..., 1] = np.maximum(spread_NC, floor)
    z = (values_NRC - level_NC2[:, None, :, 0]) / level_NC2[:, None, :, 1]
    return z.astype(np.float32), level_NC2


def fold(rows_NRW: np.ndarray, positions: int) -> np.ndarray:
    """Rows of windows as (N, positions, numbers): what is stored, float32, NaN at the end.

    >>> fold(np.zeros((1, 5, 1)), 2).shape
    (1, 2, 3)
    """
    N = len(rows_NRW)
    flat = rows_NRW.reshape(N, int(np.prod(rows_NRW.shape[1:]))).astype(np.float32)
    S = -(-flat.shape[1] // positions)
    out = np.full((N, positions * S), np.nan, np.float32)
    out[:, : flat.shape[1]] = flat
    return out.reshape(N, positions, S)


def unfold(folded_NTS: np.ndarray, rows: int, width: int) -> np.ndarray:
    """What `fold` was given, float32 (N, rows, width)."""
    N, T, S = folded_NTS.shape
    return folded_NTS.reshape(N, T * S)[:, : rows * width].reshape(N, rows, width)


def moments(values: np.ndarray) -> tuple[float, float]:
    """(mean, deviation) of what is there; a deviation of 0 (a constant, or one value) counts as 1.

    >>> moments(np.array([2.0, np.nan, 2.0]))
    (2.0, 1.0)
    """
    good = values[~np.isnan(values)]
    if not len(good):
        return 0.0, 1.0
    mean, std = float(good.mean()), float(good.std())
    return mean, std if std > 1e-7 * max(1.0, abs(mean)) else 1.0
