"""Accuracy, F1, Matthews correlation and the like, from counts over a whole split.

    matrix_CC = confusion(gold_N, predicted_N, classes=3)
    summary(matrix_CC)["macro_f1"]

A confusion matrix adds: those of two halves (or workers) sum to that of the whole, so no figure is a mean of
means. Undefined ratios (nothing predicted, nothing to find) are 0, as scikit-learn's ``zero_division=0``.

Key: N examples, C classes, L labels (several may hold at once)

Source: https://scikit-learn.org/stable/modules/model_evaluation.html, whose figures these are
"""

from __future__ import annotations

import math

import numpy as np

from exnihilo.metrics.regression import ranks


def confusion(gold_N: np.ndarray, predicted_N: np.ndarray, classes: int) -> np.ndarray:
    """Counts (C, C), int64: rows are the truth, columns what was predicted.

    Raises:
        ValueError: arrays of different lengths, or a class outside 0..classes-1.

    >>> confusion(np.array([0, 1, 1]), np.array([0, 1, 0]), 2).tolist()
    [[1, 0], [1, 1]]
    """
    gold_N, predicted_N = np.asarray(gold_N, np.int64), np.asarray(predicted_N, np.int64)
    if gold_N.shape != predicted_N.shape or gold_N.ndim != 1:
        raise ValueError(f"gold {gold_N.shape} and predicted {predicted_N.shape} are not two equal rows")
    for ids in (gold_N, predicted_N):
        if ids.size and (ids.min() < 0 or ids.max() >= classes):
            raise ValueError(f"classes {ids.min()}..{ids.max()} where there are {classes}")
    return np.bincount(gold_N * classes + predicted_N, minlength=classes * classes).reshape(classes, classes)


def ratios(hits: np.ndarray, false: np.ndarray, missed: np.ndarray) -> tuple[np.ndarray, ...]:
    """(precision, recall, F1) of each class from its true positives, false positives and false negatives.

    >>> [r.tolist() for r in ratios(np.array([1]), np.array([1]), np.array([0]))]
    [[0.5], [1.0], [0.6666666666666666]]
    """
    return (
        _divide(hits, hits + false),
        _divide(hits, hits + missed),
        _divide(2 * hits, 2 * hits + false + missed),
    )


def summary(matrix_CC: np.ndarray, positive: int | None = None) -> dict[str, float]:
    """Figures of a confusion matrix.

    Args:
        matrix_CC: as `confusion` gives it.
        positive: the class that "precision", "recall" and "f1" are of, where there is one.

    Returns:
        accuracy, macro_f1, micro_f1, weighted_f1, macro_precision, macro_recall, mcc; and with `positive`
        precision, recall, f1. Macro means are over classes that occur (in the truth or as a prediction), as
        scikit-learn's. Micro-averaged F1 of one label an example is accuracy.

    >>> summary(np.array([[1, 0], [1, 1]]))["accuracy"]
    0.6666666666666666
    """
    hits = np.diag(matrix_CC)
    support, predicted = matrix_CC.sum(1), matrix_CC.sum(0)
    precision_C, recall_C, f1_C = ratios(hits, predicted - hits, support - hits)
    met = support + predicted > 0
    accuracy = float(_divide(hits.sum(), support.sum()))
    out = {
        "accuracy": accuracy,
        "macro_f1": _mean(f1_C[met]),
        "micro_f1": accuracy,
        "weighted_f1": float(_divide((f1_C * support).sum(), support.sum())),
        "macro_precision": _mean(precision_C[met]),
        "macro_recall": _mean(recall_C[met]),
        "mcc": mcc(matrix_CC),
    }
    if positive is not None:
        out["precision"] = float(precision_C[positive])
        out["recall"] = float(recall_C[positive])
        out["f1"] = float(f1_C[positive])
    return out


def multilabel(gold_NL: np.ndarray, predicted_NL: np.ndarray) -> dict[str, float]:
    """Figures where several labels may hold at once: two boolean tables (N, L).

    Returns:
        exact_match (all labels of an example right), hamming (share of wrong decisions), macro_f1 (over all
        L labels), micro_f1, weighted_f1, micro_precision, micro_recall.

    >>> multilabel(np.array([[1, 0], [1, 1]]), np.array([[1, 0], [1, 0]]))["micro_f1"]
    0.8
    """
    gold_NL, predicted_NL = np.asarray(gold_NL, bool), np.asarray(predicted_NL, bool)
    hits = (gold_NL & predicted_NL).sum(0)
    false, missed = (predicted_NL & ~gold_NL).sum(0), (gold_NL & ~predicted_NL).sum(0)
    f1_L = ratios(hits, false, missed)[2]
    precision, recall, micro = ratios(*(np.atleast_1d(x.sum()) for x in (hits, false, missed)))
    support = gold_NL.sum(0)
    return {
        "exact_match": _mean((gold_NL == predicted_NL).all(1)),
        "hamming": _mean(gold_NL != predicted_NL),
        "macro_f1": _mean(f1_L),
        "micro_f1": float(micro[0]),
        "weighted_f1": float(_divide((f1_L * support).sum(), support.sum())),
        "micro_precision": float(precision[0]),
        "micro_recall": float(recall[0]),
    }


def mcc(matrix_CC: np.ndarray) -> float:
    """Matthews correlation of any number of classes, in [-1, 1]; 0 where truth or prediction is constant.

    Source: Gorodkin, *Comparing two K-category assignments by a K-category correlation coefficient*, 2004

    >>> mcc(np.array([[2, 0], [0, 3]]))
    1.0
    """
    # in Python's whole numbers: the products pass 2^63 from some 2 million examples on
    gold = [int(n) for n in matrix_CC.sum(1)]
    predicted = [int(n) for n in matrix_CC.sum(0)]
    total, hits = sum(gold), int(np.trace(matrix_CC))
    covariance = hits * total - sum(g * p for g, p in zip(gold, predicted, strict=True))
    spread = (total**2 - sum(p * p for p in predicted), total**2 - sum(g * g for g in gold))
    if 0 in spread:
        return 0.0
    return max(-1.0, min(1.0, covariance / math.sqrt(spread[0]) / math.sqrt(spread[1])))


def auc(gold_N: np.ndarray, score_N: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counted half.

    NaN where one of the two is missing.

    >>> auc(np.array([0, 1, 1]), np.array([0.1, 0.1, 0.9]))
    0.75
    """
    gold_N = np.asarray(gold_N, bool)
    positives = int(gold_N.sum())
    negatives = gold_N.size - positives
    if not positives or not negatives:
        return math.nan
    above = ranks(score_N)[gold_N].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def _divide(a: np.ndarray | np.integer, b: np.ndarray | np.integer) -> np.ndarray:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0
