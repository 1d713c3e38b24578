"""Exact match and F1 of extractive answers, as the official SQuAD 1.1 and 2.0 scripts compute them.

::

    evaluate(["the Fox"], [["fox", "a red fox"]])      # {"exact_match": 100.0, "f1": 100.0, "total": 1.0}

Answers are compared without case, punctuation, the articles a, an, the, and white space; an answer is
compared with every gold answer, and the best counts. Figures are per cent, as in the scripts. Where the
versions differ, `version` decides: 2.0 leaves out gold answers of which nothing is left when normalised, and
gives F1 1 where neither side has a word; 1.1 gives 0 there.

Reference: Rajpurkar et al., *SQuAD*, 2016; Rajpurkar, Jia & Liang, *Know what you don't know*, 2018; the
rules are those of evaluate-v1.1.py and evaluate-v2.0.py at https://rajpurkar.github.io/SQuAD-explorer/
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

Version = Literal["1.1", "2.0"]
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """Lower case, no punctuation (ASCII's), no articles, single spaces.

    >>> normalize("The  U.S. (of\\tan) A.!")
    'us of'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact(prediction: str, gold: str) -> int:
    """1 where both are the same when normalised."""
    return int(normalize(prediction) == normalize(gold))


def f1(prediction: str, gold: str, version: Version = "1.1") -> float:
    """F1 of the words of both, as multisets.

    >>> f1("the red fox", "a fox"), f1("the", "a", "1.1"), f1("the", "a", "2.0")
    (0.6666666666666666, 0.0, 1.0)
    """
    given, want = normalize(prediction).split(), normalize(gold).split()
    if version == "2.0" and not (given and want):
        return float(given == want)
    same = sum((Counter(given) & Counter(want)).values())
    if not same:
        return 0.0
    precision, recall = same / len(given), same / len(want)
    return 2 * precision * recall / (precision + recall)


def answer_scores(prediction: str, golds: Sequence[str], version: Version = "1.1") -> tuple[int, float]:
    """(exact match, F1), the best over the gold answers; no gold answer means that "" is right."""
    if version == "2.0":
        golds = [g for g in golds if normalize(g)]
    golds = golds or [""]
    return max(exact(prediction, g) for g in golds), max(f1(prediction, g, version) for g in golds)


def evaluate(
    predictions: Sequence[str],
    golds: Sequence[Sequence[str]],
    *,
    version: Version | None = None,
    no_answer: Sequence[float] | None = None,
    threshold: float = 1.0,
    lowest: float = 0.0,
) -> dict[str, float]:
    """The scripts' figures over a whole split, per cent.

    Args:
        predictions: one answer a question; "" says that there is none.
        golds: all accepted answers of each; an empty list where there is none.
        version: whose rules; default 2.0 where some question has no answer.
        no_answer: how sure it is that there is none, one number a question. Above `threshold` the answer
            counts as "", and the best threshold is sought too.
        lowest: the threshold that stands for never answering; the script's 0 is for probabilities.

    Returns:
        exact_match, f1, total; with version 2.0 and both kinds of questions HasAns_exact, HasAns_f1,
        HasAns_total, NoAns_exact, NoAns_f1, NoAns_total; with `no_answer` best_exact, best_exact_thresh,
        best_f1, best_f1_thresh.

    Raises:
        ValueError: the lists differ in length.
    """
    if len(predictions) != len(golds) or (no_answer is not None and len(no_answer) != len(golds)):
        raise ValueError(f"{len(predictions)} predictions for {len(golds)} questions")
    if not predictions:
        return {"exact_match": 0.0, "f1": 0.0, "total": 0.0}
    answered = np.array([any(map(len, g)) for g in golds])
    version = version or ("1.1" if answered.all() else "2.0")
    pairs = [answer_scores(p, g, version) for p, g in zip(predictions, golds, strict=True)]
    raw = {"exact": np.array([p[0] for p in pairs], float), "f1": np.array([p[1] for p in pairs], float)}
    final = raw
    if no_answer is not None:
        silent = np.asarray(no_answer, float) > threshold
        final = {name: np.where(silent, ~answered, values) for name, values in raw.items()}
    out = {"exact_match": _mean(final["exact"]), "f1": _mean(final["f1"]), "total": float(len(pairs))}
    if version == "2.0" and answered.any() and not answered.all():
        for part, mask in (("HasAns", answered), ("NoAns", ~answered)):
            out |= {f"{part}_{name}": _mean(values[mask]) for name, values in final.items()}
            out[f"{part}_total"] = float(mask.sum())
    if no_answer is not None:
        spoken = np.array([bool(p) for p in predictions])
        for name, values in raw.items():
            best, at = best_threshold(no_answer, values, answered, spoken, lowest=lowest)
            out |= {f"best_{name}": 100.0 * best, f"best_{name}_thresh": at}
    return out


def best_threshold(
    no_answer: Sequence[float] | np.ndarray,
    scores: Sequence[float] | np.ndarray,
    answered: Sequence[bool] | np.ndarray,
    spoken: Sequence[bool] | np.ndarray | None = None,
    *,
    lowest: float = 0.0,
) -> tuple[float, float]:
    """The threshold on `no_answer` at which saying "no answer" above it scores best, and that mean score.

    Args:
        no_answer: how sure it is that there is no answer, any scale.
        scores: of the answer, were it given: exact match or F1, 0 to 1.
        answered: whether the question has an answer.
        spoken: False where the prediction is "" anyway; default: all speak.
        lowest: the threshold that stands for never answering; the script's 0 is for probabilities.

    >>> best_threshold([0.2, 0.9], [1.0, 0.0], [True, False])
    (1.0, 0.2)
    """
    no, s = np.asarray(no_answer, float), np.asarray(scores, float)
    has = np.asarray(answered, bool)
    says = np.ones(len(no), bool) if spoken is None else np.asarray(spoken, bool)
    order = np.argsort(no, kind="stable")
    gain = np.where(has, s, np.where(says, -1.0, 0.0))[order]
    totals = (~has).sum() + np.concatenate([[0.0], np.cumsum(gain)])
    best = int(totals.argmax())  # the first of equals, as the script's >
    return float(totals[best] / len(no)), float(lowest if best == 0 else no[order[best - 1]])


def _mean(values: np.ndarray) -> float:
    return float(100.0 * values.mean()) if len(values) else 0.0
