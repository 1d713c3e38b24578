"""Completions that a grader gave no score, and batches that taught nothing: said when they come, and why.

::

    troubles = Troubles("number")
    troubles.add(graded, examples)        # warns at the first, and whenever there are ten times as many
    troubles.taught(figures)              # warns after ten batches whose groups scored alike throughout
    troubles.close()                      # how many it came to

A grader that fails (raises, hangs, returns NaN) and gold that it cannot read cost their completions a score
and a run nothing, so without this nobody would know. How many they are is in `metrics.jsonl` as
``grader_errors``. So it is with rewards that never differ: there is no gradient, and a loss of 0 looks like
any other.

Key: no tensors
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from exnihilo import log
from exnihilo.data.base import Drops
from exnihilo.eval.graders.base import Graded

REASONS = 8  # kept apart; further ones are counted together
FLAT = 10  # batches in a row that taught nothing, from which it is said


def place(example: Mapping[str, Any], number: int | None = None) -> str:
    """Where a task stands in the data, for people; of one that came from no file its `number`, from 0.

    >>> place({"_at": "line 7", "_file": 0, "_index": 6}), place({"_file": 1, "_index": 6}), place({}, 0)
    ('line 7', 'file 2, record 7', 'number 1')
    """
    if "_index" not in example and "_at" not in example:
        return "a task" if number is None else f"number {number + 1}"
    at = str(example.get("_at") or f"record {int(example.get('_index', 0)) + 1}")
    number = int(example.get("_file", 0) or 0)
    return f"file {number + 1}, {at}" if number else at


class Troubles:
    """Counts what has no score.

    Args:
        grader: its name, for the messages.

    Attributes:
        graded: completions so far. lost: those without a score.
    """

    def __init__(self, grader: str) -> None:
        self.grader, self.graded, self.lost = grader, 0, 0
        self._drops = Drops()
        self._next, self._said = 1, 0
        self._batches = self._flat = 0

    def add(self, graded: Sequence[Graded], examples: Sequence[Mapping[str, Any]]) -> None:
        """Count a batch; say so where it is time."""
        self.graded += len(graded)
        for one, example in zip(graded, examples, strict=True):
            if one.error is None:
                continue
            self.lost += 1
            reason = one.error
            if reason not in self._drops.counts and len(self._drops.counts) >= REASONS:
                reason = "other reasons"
            where, known = place(example), self._drops
            if where == known.first.get(reason) or where in known.later.get(reason, ()):
                known.counts[reason] += 1  # another completion of a task that is named already
            else:
                known.add(reason, where)
        if self.lost >= self._next:
            self._say("so far")
            while self._next <= self.lost:
                self._next *= 10

    def taught(self, figures: Mapping[str, float]) -> None:
        """Count a batch by its figures; say where many in a row had no group with a difference."""
        self._batches += 1
        self._flat = self._flat + 1 if figures["zero_variance"] >= 1 else 0
        if self._flat == FLAT:
            self._say_flat(figures)
        self._last = figures

    def close(self) -> None:
        """Say what it came to, where more has come since it was said last."""
        if self.lost > self._said:
            self._say("in all")
        if 0 < self._flat == self._batches < FLAT:
            self._say_flat(self._last)

    def _say_flat(self, figures: Mapping[str, float]) -> None:
        often = "the last batch has" if self._flat == 1 else f"the last {self._flat} batches have"
        right = figures["pass@1"]
        why = (
            "every reply is right"
            if right == 1
            else "no reply is right"
            if right == 0
            else "replies score alike"
        )
        log.warn(
            f"{often} taught nothing: {why} (mean reward {figures['reward']:.4g}), so that no group has a "
            "difference to learn from; see what `exnihilo doctor rlvr` says"
        )

    def _say(self, when: str) -> None:
        self._said = self.lost
        why = self._drops.summary().removeprefix("skipped ")
        log.warn(
            f"grader {self.grader}: {self.lost:,} of {self.graded:,} completions {when} have no score, and "
            f"count as 0: {why}"
        )
