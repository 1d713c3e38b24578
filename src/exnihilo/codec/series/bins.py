"""Numbers <-> bins: a series as tokens.

    scale = scale_of(history)                       # the mean of its absolute values
    ids = encode(values, scale, count=1024)         # 0: missing; 1 .. 1023: bins
    values = decode(ids, scale, count=1024)         # the middles of the bins; NaN of 0

A value over the scale falls into one of `count - 1` equal bins between -15 and 15; what is beyond stands in
the first or the last.

Source: Ansari et al. 2024, *Chronos: Learning the Language of Time Series*, arXiv 2403.07815, section 3.1.
"""

from __future__ import annotations

import numpy as np

LIMIT = 15.0
"""The middles of the outermost bins, in scales."""
MISSING = 0
"""The id of a value that is not there."""


def scale_of(history: np.ndarray) -> float:
    """The mean of the absolute values that are there; 1 where there are none, or all are 0.

    >>> scale_of(np.array([1.0, -3.0, np.nan]))
    2.0
    """
    good = np.abs(history[~np.isnan(history)])
    mean = float(good.mean()) if len(good) else 0.0
    return mean if mean > 0 else 1.0


def middles(count: int) -> np.ndarray:
    """The middles of the bins of so many ids, float64 (count - 1,)."""
    return np.linspace(-LIMIT, LIMIT, count - 1)


def encode(values: np.ndarray, scale: float, count: int) -> np.ndarray:
    """int32 ids, as many as values.

    >>> encode(np.array([-99.0, 0.0, np.nan, 99.0]), 1.0, 12).tolist()
    [1, 6, 0, 11]
    """
    centre = middles(count)
    edges = (centre[1:] + centre[:-1]) / 2
    found = 1 + np.digitize(np.nan_to_num(values) / scale, edges)
    return np.where(np.isnan(values), MISSING, found).astype(np.int32)


def decode(ids: np.ndarray, scale: float, count: int) -> np.ndarray:
    """float64 values, NaN of what is missing or no bin.

    >>> decode(np.array([6, 0]), 2.0, 12).tolist()
    [0.0, nan]
    """
    held = (ids > MISSING) & (ids < count)
    return np.where(held, middles(count)[np.clip(ids - 1, 0, count - 2)] * scale, np.nan)
