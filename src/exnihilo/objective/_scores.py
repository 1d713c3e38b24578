"""Predictions against the truth of a whole split -> figures: classes, sets of labels, numbers.

Labels that training never saw cannot be predicted: they count as mistakes, and are counted ("unseen").

Key: N examples, C classes, L labels
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from exnihilo.metrics import calibration as cal
from exnihilo.metrics import classification as cls
from exnihilo.metrics import regression as reg

Found = Sequence[Mapping[str, Any]]


def numbers(found: Found, gold: Sequence[float]) -> dict[str, float]:
    """pearson, spearman (0 where the predictions or the truth are constant), mse, mae."""
    y_N, x_N = np.array(gold, np.float64), np.array([p["score"] for p in found], np.float64)
    r, rho = (0.0 if math.isnan(v) else v for v in (reg.pearson(y_N, x_N), reg.spearman(y_N, x_N)))
    return {"pearson": r, "spearman": rho, "mse": reg.mse(y_N, x_N), "mae": reg.mae(y_N, x_N)}


def classes(
    found: Found, gold: Sequence[str], names: Sequence[str], positive: int | None
) -> dict[str, float]:
    """`metrics.classification.summary`, ece, nll, and with a positive class auc (where both occur)."""
    unseen = unseen_in(gold, names)
    ids = {name: i for i, name in enumerate([*names, *unseen])}
    y_N, x_N = np.array([ids[g] for g in gold]), np.array([ids[p["label"]] for p in found])
    probs_NC = _probabilities(found, names)
    out = cls.summary(cls.confusion(y_N, x_N, len(ids)), positive)
    out["ece"] = cal.ece(probs_NC, y_N)
    known_N = y_N < len(names)
    if known_N.any():
        out["nll"] = cal.nll(probs_NC[known_N], y_N[known_N])
    if positive is not None and 0 < (y_N == positive).sum() < len(y_N):
        out["auc"] = cls.auc(y_N == positive, probs_NC[:, positive])
    return out | _counted(unseen)


def sets(found: Found, gold: Sequence[Sequence[str]], names: Sequence[str]) -> dict[str, float]:
    """`metrics.classification.multilabel` and ece."""
    unseen = unseen_in(gold, names)
    every = [*names, *unseen]
    held_NL = table(gold, every)
    out = cls.multilabel(held_NL, table([p["labels"] for p in found], every))
    out["ece"] = cal.ece_binary(_probabilities(found, names), held_NL[:, : len(names)])
    return out | _counted(unseen)


def table(sets: Sequence[Sequence[str]], names: Sequence[str]) -> np.ndarray:
    """Sets of names as booleans (N, L); names that are no column are left out."""
    ids = {name: i for i, name in enumerate(names)}
    held_NL = np.zeros((len(sets), len(names)), bool)
    for row, held in enumerate(sets):
        held_NL[row, [ids[name] for name in held if name in ids]] = True
    return held_NL


def _probabilities(found: Found, names: Sequence[str]) -> np.ndarray:
    return np.array([[p["probabilities"][name] for name in names] for p in found], np.float64)


def unseen_in(gold: Sequence[str | Sequence[str]], names: Sequence[str]) -> dict[str, int]:
    """Labels that training never saw, and how often they stand there."""
    known = set(names)
    out: dict[str, int] = {}
    for held in gold:
        for name in (held,) if isinstance(held, str) else held:
            if name not in known:
                out[name] = out.get(name, 0) + 1
    return out


def _counted(unseen: Mapping[str, int]) -> dict[str, float]:
    return {"unseen": float(sum(unseen.values()))} if unseen else {}
