"""What a grader is, and how many replies are graded without any of them doing harm.

::

    grader = create("number")
    grader({"answer": "7"}, "The answer is 7.")             # 1.0
    grade_many(grader, examples, completions, seconds=5)    # [Graded(score=1.0, error=None, ...), ...]

A grader is any function of an example (its roles: ``answer``, ``record`` ...) and a completion. It returns a
score, or None where it cannot judge: no gold, or gold that it cannot read. None is never a point. What
`grade_many` catches: a grader that raises, hangs, or returns NaN, an infinity or no number. Each is an error
of that one reply, counted by the caller; nothing of it ends a run.

A grader that is a plain function runs in a thread of this process. A thread can be given up and interrupted
between two of its instructions, but not killed inside of one (``time.sleep``, a catastrophic pattern):
graders that may hang run in processes of their own (`worker`), and so does the user's file.
"""

from __future__ import annotations

import ctypes
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from exnihilo.errors import ExNihiloError, UsageError

Grader = Callable[[Mapping[str, Any], str], float | None]
"""``grade(example, completion) -> score``; None: it cannot be judged."""

SECONDS = 5.0
"""How long one completion may take to be graded, where nothing else is said."""

FULL = 1.0 - 1e-6
"""Scores from here on are full marks: what pass@k counts."""


class GraderError(ExNihiloError):
    """A grader failed on one completion: what `grade_many` turns into `Graded.error`."""


@dataclass(frozen=True)
class Graded:
    """What became of one completion.

    Attributes:
        score: the reward; None where it could not be judged, or the grader failed.
        error: why there is no score; None where there is one.
        parts: of a sum: part -> its own score before the weight, in the order given.
        failed: the grader itself failed (raised, hung, returned no number), rather than finding no gold.
    """

    score: float | None
    error: str | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    failed: bool = False

    @property
    def right(self) -> bool:
        """Whether the first part (the only one, where there are no others) gave full marks."""
        if self.score is None:
            return False
        first = next(iter(self.parts.values()), self.score)
        return first >= FULL


NO_GOLD = "no gold that can be read"


class Checker(ABC):
    """A grader of this room: a callable with a name, and a way to grade many at once.

    Subclasses give `grade`. What it takes is bounded by the length of its input, so it runs where it is
    called; graders whose work is not bounded override `many`.
    """

    name: str = ""

    @abstractmethod
    def grade(self, example: Mapping[str, Any], completion: str) -> float | None:
        """The score of one completion; None where it cannot be judged."""

    def __call__(self, example: Mapping[str, Any], completion: str) -> float | None:
        """The score of one completion.

        Raises:
            GraderError: it failed; `grade_many` reports that instead.
        """
        [graded] = self.many([example], [completion], seconds=SECONDS)
        if graded.failed:
            raise GraderError(f"{self.name}: {graded.error}", expected="a score, or none")
        return graded.score

    def many(
        self, examples: Sequence[Mapping[str, Any]], completions: Sequence[str], *, seconds: float
    ) -> list[Graded]:
        """One `Graded` a completion, in order; never raises for what a completion or a grader does."""
        del seconds  # linear in the length of the input
        return [_direct(self.grade, e, c) for e, c in zip(examples, completions, strict=True)]

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """End processes that it holds; it starts new ones when it is called again."""


def grade_many(
    grader: Grader,
    examples: Sequence[Mapping[str, Any]],
    completions: Sequence[str],
    *,
    seconds: float = SECONDS,
) -> list[Graded]:
    """Grade completions; a failure is the failure of one reply, and scores nothing.

    Args:
        grader: from `create`, or any function.
        examples: one a completion: repeat an example for each of its samples.
        completions: texts of replies, without the terminator.
        seconds: that one completion may take; then it is an error.

    Raises:
        UsageError: not as many examples as completions.

    Example:
        >>> grade_many(lambda example, text: float("nan"), [{}], ["7"])[0].error
        'returned nan'
    """
    if len(examples) != len(completions):
        raise UsageError(
            f"{len(examples)} examples and {len(completions)} completions", expected="one example each"
        )
    if not 0 < seconds < math.inf:
        raise UsageError(f"seconds={seconds}", expected="a number above 0")
    if isinstance(grader, Checker):
        return grader.many(examples, completions, seconds=seconds)
    return [_watched(grader, e, c, seconds) for e, c in zip(examples, completions, strict=True)]


def graded(value: object) -> Graded:
    """A grader's return value as a `Graded`: what is no finite number is an error.

    >>> graded(True).score, graded("1").error, graded(None).failed
    (1.0, "returned '1' (str), which is no number", False)
    """
    if value is None:
        return Graded(None, NO_GOLD)
    number = value.item() if _scalar(value) else value  # type: ignore[attr-defined]
    if not isinstance(number, Real):
        return Graded(
            None, f"returned {value!r:.60} ({type(value).__name__}), which is no number", failed=True
        )
    score = float(number)
    if not math.isfinite(score):
        return Graded(None, f"returned {score}", failed=True)
    return Graded(score)


def raised(error: BaseException) -> Graded:
    """A grader's exception as a `Graded`."""
    text = " ".join(str(error).split())
    return Graded(None, f"raised {type(error).__name__}: {text}"[:300].rstrip(": "), failed=True)


def took(seconds: float) -> Graded:
    """A grader that hung, as a `Graded`."""
    return Graded(None, f"took longer than {seconds:g} s", failed=True)


def _scalar(value: object) -> bool:
    """NumPy's and torch's numbers of one element."""
    return hasattr(value, "item") and getattr(value, "ndim", None) == 0


def _direct(grade: Grader, example: Mapping[str, Any], completion: str) -> Graded:
    try:
        return graded(grade(example, completion))
    except Exception as error:
        told = raised(error)
        return told


def _watched(grade: Grader, example: Mapping[str, Any], completion: str, seconds: float) -> Graded:
    """A plain function, in a thread that is given up after `seconds`."""
    found: list[Graded] = []

    def work() -> None:
        try:
            found.append(graded(grade(example, completion)))
        except BaseException as error:  # SystemExit too: it would end the thread in silence
            found.append(raised(error))

    thread = threading.Thread(target=work, daemon=True, name="grader")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        # ends a loop of Python instructions; inside one long instruction it waits for that one
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)
        )
        return took(seconds)
    return found[0] if found else Graded(None, "ended without a result", failed=True)
