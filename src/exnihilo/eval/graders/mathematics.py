"""``math``: the reply's final expression equals the gold one, symbolically (math-verify, extra ``math``).

::

    grade = create("math")
    grade({"answer": "\\\\frac{1}{2}"}, "... so it is $0.5$")      # 1.0

For answers that are formulas: fractions, roots, intervals, sets, equations. For plain numbers take
``number``, which is exact, faster and needs no package. ``math:N`` rounds decimals to N places (6).

Gold that cannot be parsed gives None, never a point. An expression may take symbolic algebra any time, so it
runs in a process of its own, which is killed after the grader's time.

Reference: math-verify, https://github.com/huggingface/Math-Verify.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from typing import Any

from exnihilo.errors import MissingExtra, UsageError
from exnihilo.eval.graders import fields
from exnihilo.eval.graders.base import NO_GOLD, SECONDS, Checker, Graded
from exnihilo.eval.graders.number import NEGATED, SAID
from exnihilo.eval.graders.pattern import WORK
from exnihilo.eval.graders.tagged import after_thought, answered
from exnihilo.eval.graders.worker import Served

_OR = re.compile(r"\bor\b|\\text\{\s*or\s*\}")


class Math(Checker):
    """1 where both expressions are equal, else 0; None where the gold cannot be parsed."""

    name = "math"

    def __init__(self, digits: int = 6) -> None:
        self._served = Served(WORK, "math", {"digits": digits})

    def grade(self, example: Mapping[str, Any], completion: str) -> float | None:
        return self.many([example], [completion], seconds=SECONDS)[0].score

    def many(
        self, examples: Sequence[Mapping[str, Any]], completions: Sequence[str], *, seconds: float
    ) -> list[Graded]:
        golds = [fields.answer(example) for example in examples]
        asked = [n for n, gold in enumerate(golds) if gold is not None]
        found = self._served.many(
            [{"answer": golds[n]} for n in asked],
            [_spoken(completions[n], str(golds[n])) for n in asked],
            seconds=seconds,
        )
        out = [Graded(None, NO_GOLD)] * len(golds)
        for n, one in zip(asked, found, strict=True):
            out[n] = one
        return out

    def close(self) -> None:
        self._served.close()


def _spoken(completion: str, gold: str) -> str:
    """What of a reply is parsed: not its thought, and nothing where the answer is denied or hedged, for the
    parser would take what suits it from "7 or 8"."""
    marked = answered(completion)
    if marked is None:
        spoken = after_thought(completion)
        said = list(SAID.finditer(spoken))
        rest = spoken[said[-1].end() :] if said else spoken
        hedged = _OR.search(rest) and not _OR.search(gold)
        return "" if (said and NEGATED.match(rest)) or hedged else spoken
    return marked if "$" in marked or "\\boxed" in marked else f"${marked}$"


def make(name: str, argument: str) -> Checker:
    """``math`` or ``math:PLACES``."""
    if importlib.util.find_spec("math_verify") is None:
        raise MissingExtra.of("math-verify", "math")
    if argument and not re.fullmatch(r"\d{1,2}", argument, re.ASCII):
        raise UsageError(f"grader {name}:{argument}", expected="math:PLACES, a whole number")
    return Math(int(argument or 6))
