"""What span_qa learns from its data: what the questions are like, before training; when to say "no answer"
and how sure to sound, after it.

    survey = Survey()
    for example in examples: survey.add(example)
    survey.facts()["unanswerable"], survey.facts()["notes"]
    tune(drafts, golds, threshold=None, tuned=True)      # {"null_threshold", "temperature", ...}

Key: N questions, S scores of one question's answers
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from exnihilo.errors import DataError
from exnihilo.metrics import calibration, squad
from exnihilo.objective import _answers
from exnihilo.objective._calibrate import FEW
from exnihilo.objective.base import Example

NAMED = 5  # odd rows that are named
_ANSWERS = 20_000  # different answers counted at once


class Survey:
    """Counts over one pass of the examples; memory does not grow with their number."""

    def __init__(self) -> None:
        self._rows = 0
        self._how: Counter[str] = Counter()
        self._texts: Counter[str] = Counter()
        self._named: dict[str, list[str]] = {"moved": [], "lost": [], "bad": []}

    def add(self, example: Example) -> None:
        """One training example."""
        name = repr(example["id"]) if "id" in example else f"row {int(example.get('_index', self._rows)) + 1}"
        self._rows += 1
        try:
            golds = _answers.golds(example)
            context = example.get("context")
            if golds is None or not isinstance(context, str) or not isinstance(example.get("question"), str):
                raise DataError("no question, context or answers", expected="all three")
        except DataError as error:
            self._count("bad", f"{name}: {error.given}")
            return
        placed = _answers.place(context, golds)
        self._count(placed.how, f"{name}: {golds[0][0][:40]!r}" if golds else name)
        if placed.how != "lost":
            self._texts[context[placed.start : placed.end]] += 1
            if len(self._texts) > 2 * _ANSWERS:
                self._texts = Counter(dict(self._texts.most_common(_ANSWERS)))

    def _count(self, how: str, name: str) -> None:
        self._how[how] += 1
        if how in self._named and len(self._named[how]) < NAMED:
            self._named[how].append(name)

    def facts(self) -> dict[str, Any]:
        """JSON: counts, the commonest answer, what was odd, and notes to be said.

        Raises:
            DataError: not one question that can be learnt from.
        """
        how, named = self._how, self._named
        if not how["exact"] + how["moved"] + how["none"]:
            first = f"; {'; '.join(named['lost'] + named['bad'])}" if self._rows else ""
            raise DataError(
                f"no question with a usable answer in {self._rows} examples{first}",
                expected="question, context and answers that stand in the context",
                next="check data=PATH and data.fields",
            )
        notes = []
        if how["none"]:
            notes.append(
                f"{how['none']} of {self._rows} questions have no answer: a threshold is tuned on val="
            )
        if how["moved"]:
            near = "; ".join(named["moved"])
            notes.append(f"{how['moved']} answers are not at their offset, and were found elsewhere: {near}")
        if how["lost"]:
            lost = "; ".join(named["lost"])
            notes.append(f"{how['lost']} questions skipped, the answer is not in the context: {lost}")
        if how["bad"]:
            notes.append(f"{how['bad']} rows skipped: {'; '.join(named['bad'])}")
        top = max(self._texts.items(), key=lambda pair: (pair[1], pair[0]))[0]
        return {
            "questions": self._rows,
            "unanswerable": how["none"],
            "moved_answers": how["moved"],
            "skipped_rows": how["lost"] + how["bad"],
            "skipped_first": named["lost"] + named["bad"],
            "majority_answer": top,
            "notes": notes,
        }


class Draft(NamedTuple):
    """Candidates of a question before a decision: texts and scores, best first, and the score of none."""

    texts: list[str]
    scores: list[float]
    null: float

    @property
    def difference(self) -> float:
        """Score of none minus the best answer's; inf where there is no answer to give."""
        return self.null - self.scores[0] if self.scores else np.inf


def tune(
    drafts: Sequence[Draft], golds: Sequence[Sequence[str]], *, threshold: float | None, tuned: bool
) -> dict[str, float]:
    """Facts from a validation split.

    Args:
        drafts, golds: one a question; no gold answer: there is none.
        threshold: the one in force; None: an answer is always given.
        tuned: seek the best threshold, if there are questions with and without an answer.

    Returns:
        null_threshold, where sought; temperature (1 with few questions), ece_before and ece_after of the
        given answer's probability (right = exact match), calibrated_on.
    """
    out: dict[str, float] = {}
    if not drafts:
        return out
    has = np.array([bool(g) for g in golds])
    if tuned and has.any() and not has.all():
        threshold = out["null_threshold"] = _threshold(drafts, golds, has)
    scores: list[np.ndarray] = []
    right: list[bool] = []
    picked: list[int] = []
    for draft, gold in zip(drafts, golds, strict=True):
        silent = not draft.scores or (threshold is not None and draft.difference > threshold)
        all_S = draft.scores + ([draft.null] if threshold is not None or not draft.scores else [])
        scores.append(np.array(all_S, np.float64))
        picked.append(len(all_S) - 1 if silent else 0)
        right.append(bool(squad.answer_scores("" if silent else draft.texts[0], gold, "2.0")[0]))
    wide = np.full((len(scores), max(map(len, scores))), -np.inf)
    for row, values in zip(wide, scores, strict=True):
        row[: len(values)] = values
    at, hit = np.array(picked), np.array(right)

    def sure(warm: float) -> np.ndarray:
        return calibration.softmax(wide / warm)[np.arange(len(wide)), at]

    def loss(warm: float) -> float:
        p = np.clip(sure(warm), 1e-12, 1 - 1e-12)
        return float(-np.where(hit, np.log(p), np.log1p(-p)).mean())

    few = len(drafts) < FEW
    warm = out["temperature"] = 1.0 if few else _least(loss, calibration.COLDEST, calibration.HOTTEST)
    out["ece_before"] = calibration.ece_binary(sure(1.0), hit)
    out["ece_after"] = calibration.ece_binary(sure(warm), hit)
    out["calibrated_on"] = len(drafts)
    return out


def _threshold(drafts: Sequence[Draft], golds: Sequence[Sequence[str]], has: np.ndarray) -> float:
    """Of the best F1, half way to the next difference: what lies between decides alike."""
    differences = np.array([d.difference for d in drafts])
    texts = [d.texts[0] if d.texts else "" for d in drafts]
    f1 = [squad.answer_scores(t, g, "2.0")[1] for t, g in zip(texts, golds, strict=True)]
    finite = differences[np.isfinite(differences)]
    if not len(finite):
        return 0.0
    lowest = float(finite.min()) - 1.0
    _, at = squad.best_threshold(differences, f1, has, [bool(t) for t in texts], lowest=lowest)
    above = finite[finite > at]
    return float((at + above.min()) / 2) if len(above) else float(at)


def _least(loss: Any, low: float, high: float) -> float:
    """Where a function of one number is least, to a thousandth: a grid in logarithms, then a finer one."""
    a, b = np.log(low), np.log(high)
    for _ in range(3):
        grid = np.linspace(a, b, 33)
        best = int(np.argmin([loss(float(np.exp(x))) for x in grid]))
        a, b = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
    return float(np.exp(grid[best]))
