"""``regex``: a regular expression is found in the reply.

``regex:^(yes|no)$`` gives the pattern; ``regex`` alone reads it from the example (``pattern`` or ``regex``,
of it or its record). ``re.search`` is used: anchor with ``^`` and ``$`` what must be the whole reply. A
pattern
that the example gives and that is none is an error of that example, never a point.

Patterns such as ``(a+)+$`` take exponential time on some replies: they are tried in a process of their own,
which is killed after the grader's time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exnihilo.errors import UsageError
from exnihilo.eval.graders import fields
from exnihilo.eval.graders.base import SECONDS, Checker, Graded
from exnihilo.eval.graders.worker import Served

WORK = Path(__file__).with_name("_work.py")


class Regex(Checker):
    """1 where the pattern is found, else 0; None where there is no pattern."""

    name = "regex"

    def __init__(self, pattern: str | None) -> None:
        self.pattern = pattern
        self._served = Served(WORK, "regex", {"pattern": pattern})

    def grade(self, example: Mapping[str, Any], completion: str) -> float | None:
        return self.many([example], [completion], seconds=SECONDS)[0].score

    def many(
        self, examples: Sequence[Mapping[str, Any]], completions: Sequence[str], *, seconds: float
    ) -> list[Graded]:
        asked = [{} if self.pattern is not None else {"pattern": _pattern(e)} for e in examples]
        return self._served.many(asked, completions, seconds=seconds)

    def close(self) -> None:
        self._served.close()


def _pattern(example: Mapping[str, Any]) -> str | None:
    found = fields.value(example, "pattern", "regex")
    return found if isinstance(found, str) and found else None


def make(name: str, argument: str) -> Checker:
    """``regex:PATTERN``, or ``regex`` for patterns that stand in the data."""
    if not argument:
        return Regex(None)
    try:
        re.compile(argument)
    except re.error as error:
        raise UsageError(
            f"grader {name}:{argument}: {error}", expected="a regular expression of Python's re"
        ) from error
    return Regex(argument)
