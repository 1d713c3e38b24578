"""Correlations and errors of numbers: Pearson, Spearman (ties by their average rank), MSE, MAE.

    pearson(gold_N, predicted_N), spearman(gold_N, predicted_N)

Correlations of fewer than two values, or where one side is constant, are undefined: NaN, as in SciPy.

Key: N examples
"""

from __future__ import annotations

import math

import numpy as np


def ranks(values_N: np.ndarray) -> np.ndarray:
    """Ranks from 1, float64 (N,); equal values share the mean of their ranks.

    >>> ranks(np.array([10.0, 30.0, 10.0])).tolist()
    [1.5, 3.0, 1.5]
    """
    values_N = np.asarray(values_N)
    _, group_N, count = np.unique(values_N, return_inverse=True, return_counts=True)
    last = np.cumsum(count)  # rank of the last of each group of equals
    return (last - (count - 1) / 2.0)[group_N.reshape(-1)]


def pearson(a_N: np.ndarray, b_N: np.ndarray) -> float:
    """Linear correlation, in [-1, 1].

    Raises:
        ValueError: arrays of different lengths.

    >>> round(pearson(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0])), 9)
    1.0
    """
    a_N, b_N = np.asarray(a_N, np.float64), np.asarray(b_N, np.float64)
    if a_N.shape != b_N.shape or a_N.ndim != 1:
        raise ValueError(f"{a_N.shape} and {b_N.shape} are not two equal rows")
    if a_N.size < 2 or (a_N == a_N[0]).all() or (b_N == b_N[0]).all():
        return math.nan
    a_N, b_N = a_N - a_N.mean(), b_N - b_N.mean()
    a_N, b_N = a_N / np.linalg.norm(a_N), b_N / np.linalg.norm(b_N)
    return float(np.clip(a_N @ b_N, -1.0, 1.0))


def spearman(a_N: np.ndarray, b_N: np.ndarray) -> float:
    """Rank correlation, in [-1, 1]: Pearson's of the ranks.

    >>> round(spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 100.0, 1e6])), 9)
    1.0
    """
    return pearson(ranks(a_N), ranks(b_N))


def mse(gold_N: np.ndarray, predicted_N: np.ndarray) -> float:
    """Mean squared error; NaN of nothing."""
    errors = np.asarray(gold_N, np.float64) - np.asarray(predicted_N, np.float64)
    return float((errors**2).mean()) if errors.size else math.nan


def mae(gold_N: np.ndarray, predicted_N: np.ndarray) -> float:
    """Mean absolute error; NaN of nothing."""
    errors = np.asarray(gold_N, np.float64) - np.asarray(predicted_N, np.float64)
    return float(np.abs(errors).mean()) if errors.size else math.nan
