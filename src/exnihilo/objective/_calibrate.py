"""Temperature and decision thresholds of a classifier, from the logits of a validation split.

The temperature is that of the best likelihood. Where the model leans to one class, this can raise the
calibration error; then the temperature stays 1. A threshold is taken over only where it also helps on
examples that it was not tuned on (each half of the split with the other half's threshold); else it stays 0.5.
Of fewer than `FEW` examples nothing is learnt.

Key: N examples, C classes or labels
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from exnihilo.metrics import calibration as cal

FEW = 20
By = Literal["f1", "accuracy"]


def calibrate(
    z_NC: np.ndarray,
    gold: np.ndarray,
    *,
    names: Sequence[str],
    positive: int | None,
    by: Literal["auto", "f1", "accuracy", "none"],
) -> dict[str, Any]:
    """New facts: temperature, threshold(s), ece_before, ece_after, calibrated_on.

    Args:
        z_NC: logits.
        gold: class ids (N,), or a boolean table (N, C) where several labels may hold.
        positive: the class that a binary threshold is about; None: more than two classes.
        by: as the option `threshold`.
    """
    several = gold.ndim == 2
    before, T = _ece(z_NC, gold), 1.0
    if len(gold) >= FEW:
        T = cal.temperature_binary(z_NC, gold) if several else cal.temperature(z_NC, gold)
        T = T if _ece(z_NC / T, gold) < before else 1.0
    z_NC = z_NC / T
    facts: dict[str, Any] = {"temperature": T, "calibrated_on": len(gold)}
    facts |= {"ece_before": before, "ece_after": _ece(z_NC, gold)}
    if several:
        p_NC, aim = cal.sigmoid(z_NC), _aim(by, "f1")
        facts["thresholds"] = {n: tuned(p_NC[:, i], gold[:, i], aim) for i, n in enumerate(names)}
    elif positive is not None:
        p_N = cal.softmax(z_NC)[:, positive]
        facts["threshold"] = tuned(p_N, gold == positive, _aim(by, "accuracy"))
    return facts


def _aim(by: Literal["auto", "f1", "accuracy", "none"], default: By) -> By | None:
    return default if by == "auto" else None if by == "none" else by


def _ece(z_NC: np.ndarray, gold: np.ndarray) -> float:
    return cal.ece_binary(cal.sigmoid(z_NC), gold) if gold.ndim == 2 else cal.ece(cal.softmax(z_NC), gold)


def tuned(p_N: np.ndarray, gold_N: np.ndarray, by: By | None) -> float:
    """The best threshold, if one that is tuned on half of the examples beats 0.5 on the other half; else
    0.5."""
    if by is None or len(p_N) < FEW:
        return 0.5
    even = np.arange(len(p_N)) % 2 == 0
    said = np.zeros(len(p_N), bool)
    for half in (even, ~even):
        said[half] = p_N[half] >= cal.threshold(p_N[~half], gold_N[~half], by)
    held_out, plain = _value(said, gold_N, by), _value(p_N >= 0.5, gold_N, by)
    return cal.threshold(p_N, gold_N, by) if held_out > plain else 0.5


def _value(said_N: np.ndarray, gold_N: np.ndarray, by: By) -> float:
    hits, called = np.array((said_N & gold_N).sum()), np.array(said_N.sum())
    return float(cal.score_at(hits, called, int(gold_N.sum()), len(gold_N), by))
