"""Probabilities that mean what they say: temperature, decision thresholds, expected calibration error.

    T = temperature(logits_NC, gold_N)             # fitted on a validation split
    probs_NC = softmax(logits_NC / T)
    ece(probs_NC, gold_N)

Dividing logits by one temperature changes no ranking of the classes, only how sure the model sounds.

Key: N examples, C classes

Source: Guo et al., *On calibration of modern neural networks*, 2017 (temperature, 15 bins)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np

COLDEST, HOTTEST = 0.1, 10.0
"""Temperatures are sought between these. A split without a mistake would ask for 0: no number of examples
supports that."""
BINS = 15
_STEPS = 60  # halvings of the interval: down to the last bit of a double
_BLOCK = 1 << 22  # numbers held at once


def softmax(logits_NC: np.ndarray) -> np.ndarray:
    """Probabilities of the last axis, float64."""
    z = np.asarray(logits_NC, np.float64)
    z = np.exp(z - z.max(-1, keepdims=True))
    return z / z.sum(-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), float64, without overflow.

    >>> sigmoid(np.array([-1000.0, 0.0])).tolist()
    [0.0, 0.5]
    """
    x = np.asarray(logits, np.float64)
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def nll(probs_NC: np.ndarray, gold_N: np.ndarray) -> float:
    """Mean negative log-likelihood, nats; a probability of 0 counts as the least double. NaN of nothing."""
    if not len(gold_N):
        return math.nan
    p_N = np.asarray(probs_NC, np.float64)[np.arange(len(gold_N)), np.asarray(gold_N, np.int64)]
    return float(-np.log(np.maximum(p_N, np.finfo(np.float64).tiny)).mean())


def temperature(logits_NC: np.ndarray, gold_N: np.ndarray) -> float:
    """The temperature of the least negative log-likelihood, for one class an example.

    With b = 1 / T the likelihood is convex in b, and its slope is Σ (E_p[z] - z_gold): the root is found by
    halving an interval, in float64.

    Args:
        logits_NC: as the model gives them.
        gold_N: class ids.

    Returns:
        A number from `COLDEST` to `HOTTEST`; 1 where there are no examples.
    """
    z_NC = np.asarray(logits_NC, np.float64)
    gold_N = np.asarray(gold_N, np.int64)
    if not len(gold_N):
        return 1.0
    mine = z_NC[np.arange(len(gold_N)), gold_N].sum()
    rows = max(1, _BLOCK // max(1, z_NC.shape[1]))
    parts = [z_NC[i : i + rows] for i in range(0, len(z_NC), rows)]
    return 1.0 / _root(lambda b: sum(float((softmax(b * z) * z).sum()) for z in parts) - mine)


def temperature_binary(logits: np.ndarray, gold: np.ndarray) -> float:
    """The same for independent yes-or-no decisions: `logits` and `gold` (0 or 1) of one shape, any."""
    z, y = np.asarray(logits, np.float64).reshape(-1), np.asarray(gold, np.float64).reshape(-1)
    if not z.size:
        return 1.0
    return 1.0 / _root(lambda b: float((z * (sigmoid(b * z) - y)).sum()))


def _root(slope: Callable[[float], float]) -> float:
    """Where a rising function of b is 0, between the limits; else the nearer limit."""
    low, high = math.log(1 / HOTTEST), math.log(1 / COLDEST)
    if slope(math.exp(low)) >= 0:
        return 1 / HOTTEST if slope(math.exp(high)) > 0 else 1.0  # all logits equal: any will do
    if slope(math.exp(high)) <= 0:
        return 1 / COLDEST
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(math.exp(middle)) < 0 else (low, middle)
    return math.exp((low + high) / 2)


def ece(probs_NC: np.ndarray, gold_N: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error of the likeliest class: Σ over bins of share × |accuracy − confidence|.

    Bins are (0, 1/bins], (1/bins, 2/bins] ... of the confidence. A gold id that is no column counts as a
    mistake. NaN of nothing.

    >>> ece(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1]))
    0.45
    """
    probs_NC = np.asarray(probs_NC, np.float64)
    if not len(probs_NC):
        return math.nan
    return _gap(probs_NC.max(1), probs_NC.argmax(1) == np.asarray(gold_N), bins)


def ece_binary(probs: np.ndarray, gold: np.ndarray, bins: int = BINS) -> float:
    """The same for independent decisions: |share of yes − mean probability of yes| over bins of the
    probability."""
    p, y = np.asarray(probs, np.float64).reshape(-1), np.asarray(gold, bool).reshape(-1)
    return _gap(p, y, bins) if p.size else math.nan


def _gap(p_N: np.ndarray, hit_N: np.ndarray, bins: int) -> float:
    bin_N = np.clip(np.ceil(p_N * bins).astype(np.int64) - 1, 0, bins - 1)
    mean_p = np.bincount(bin_N, p_N, minlength=bins)
    mean_hit = np.bincount(bin_N, hit_N.astype(np.float64), minlength=bins)
    return float(np.abs(mean_p - mean_hit).sum() / len(p_N))


def threshold(probs_N: np.ndarray, gold_N: np.ndarray, by: Literal["f1", "accuracy"]) -> float:
    """The probability from which on "yes" is best, by F1 or accuracy over these examples.

    0.5 where nothing is better, or where the examples are all yes or all no. Else half way between two
    neighbouring probabilities; of equally good ones the nearest to 0.5.

    >>> threshold(np.array([0.1, 0.3, 0.8]), np.array([0, 1, 1]), "f1")
    0.2
    """
    p_N, y_N = np.asarray(probs_N, np.float64), np.asarray(gold_N, bool)
    if not y_N.any() or y_N.all():
        return 0.5
    order = np.argsort(-p_N, kind="stable")
    p_N, y_N = p_N[order], y_N[order]
    # k = how many are called yes, 0..N; a cut between equal probabilities is none
    hits_K = np.concatenate([[0], np.cumsum(y_N)])
    k = np.arange(len(p_N) + 1)
    value_K = score_at(hits_K, k, int(y_N.sum()), len(p_N), by)
    upper, lower = np.concatenate([[1.0], p_N]), np.concatenate([p_N, [0.0]])
    cut_K = (upper + lower) / 2
    possible = (upper > lower) | (k == 0) & (p_N[0] < 1)
    best = value_K[possible].max() - 1e-12
    if value_K[(p_N >= 0.5).sum()] >= best:
        return 0.5
    near = cut_K[possible & (value_K >= best)]
    return float(near[np.abs(near - 0.5).argmin()])


def score_at(
    hits: np.ndarray, called: np.ndarray, positives: int, total: int, by: Literal["f1", "accuracy"]
) -> np.ndarray:
    """F1 or accuracy of calling `called` examples yes, `hits` of them rightly."""
    if by == "f1":
        return 2.0 * hits / np.maximum(called + positives, 1)
    return (2.0 * hits - called + (total - positives)) / total
