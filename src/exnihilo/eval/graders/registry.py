"""Graders by name, with arguments, weights, sums and products.

::

    create("number")                            # one of `names()`
    create("regex:^(yes|no)$")                  # NAME:ARGUMENT
    create("number*1,length*-0.01")             # a weighted sum
    create("format&number")                     # a product: no point for the number without the form
    create("my.py:grade")                       # the user's own function
    create("reward_model:runs/rm")              # a trained reward model

    SPEC    = TERM {"," TERM}
    TERM    = FACTOR {"&" FACTOR} ["*" WEIGHT]
    FACTOR  = NAME [":" ARGUMENT] | PATH.py:FUNCTION

A comma or an ampersand divides only before a grader's name, so that ``regex:a{1,2}&b`` is one grader. A list
of specs is their sum.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from exnihilo.errors import UsageError, nearest
from exnihilo.eval.graders.base import SECONDS, Checker, Graded, Grader, grade_many

_MODULES = {
    "exact": "exact", "number": "number", "math": "mathematics", "countdown": "countdown",
    "json": "schema", "regex": "pattern", "code": "code", "reward_model": "reward_model",
    "format": "forms", "length": "forms",
}  # fmt: skip
_OWN = r"[^\s,&]+\.py:[A-Za-z_]\w*"
_NAME = rf"(?:{_OWN}|(?:{'|'.join(_MODULES)})(?=$|[:*,&]))"
_WEIGHT = re.compile(r"\*\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*$")


def names() -> tuple[str, ...]:
    """The built-in graders.

    >>> "number" in names()
    True
    """
    return tuple(sorted(_MODULES))


def create(spec: str | Sequence[str]) -> Grader:
    """A grader from its spec.

    Args:
        spec: see above; a list is a sum.

    Raises:
        UsageError: an unknown name (with the nearest), an argument that cannot be, a file or function that is
            not there.
        MissingExtra: a grader whose package is not installed.

    Example:
        >>> create("number*1,length*-0.01")({"answer": "7"}, "#### 7")
        0.94
    """
    text = spec if isinstance(spec, str) else ",".join(spec)
    if not text.strip():
        raise UsageError(
            "no grader was given", expected=f"one of {', '.join(names())}, or FILE.py:FUNCTION",
            next="grader=number",
        )  # fmt: skip
    terms = [_term(part) for part in re.split(rf",\s*(?={_NAME})", text.strip())]
    if len(terms) == 1 and terms[0][1] == 1.0:
        return terms[0][0]
    return Sum(terms)


def _term(text: str) -> tuple[Checker, float]:
    found = _WEIGHT.search(text)
    weight = float(found[1]) if found else 1.0
    if not math.isfinite(weight):
        raise UsageError(f"grader {text!r}: weight {weight}", expected="a finite number")
    body = text[: found.start()] if found else text
    factors = [_factor(part.strip()) for part in re.split(rf"&\s*(?={_NAME})", body.strip())]
    return (factors[0] if len(factors) == 1 else Product(factors)), weight


def _factor(text: str) -> Checker:
    if re.search(r"\.py(:|$)", text):
        from exnihilo.eval.graders.user import Own

        path, colon, function = text.rpartition(":")
        return Own(path, function) if colon and path.endswith(".py") else Own(text, "grade")
    name, _, argument = text.partition(":")
    if name not in _MODULES:
        raise UsageError(
            f"grader {text!r}", expected=nearest(name, _MODULES),
            next="the user's own is FILE.py:FUNCTION; see docs/graders.md",
        )  # fmt: skip
    module = importlib.import_module(f"exnihilo.eval.graders.{_MODULES[name]}")
    return module.make(name, argument)


class Sum(Checker):
    """Σ weight × score. Where one part cannot be judged, nothing is: a reward is never half a reward."""

    def __init__(self, terms: Sequence[tuple[Checker, float]]) -> None:
        self.terms = list(terms)
        self.name = ",".join(f"{part.name}*{weight:g}" for part, weight in self.terms)
        self.labels: list[str] = []
        for part, _ in self.terms:
            n = sum(label == part.name or label.startswith(f"{part.name}-") for label in self.labels)
            self.labels.append(part.name if not n else f"{part.name}-{n + 1}")

    def grade(self, example: Mapping[str, Any], completion: str) -> float | None:
        return self.many([example], [completion], seconds=SECONDS)[0].score

    def many(
        self, examples: Sequence[Mapping[str, Any]], completions: Sequence[str], *, seconds: float
    ) -> list[Graded]:
        columns = [grade_many(part, examples, completions, seconds=seconds) for part, _ in self.terms]
        return [self._one(row) for row in zip(*columns, strict=True)]

    def _one(self, row: Sequence[Graded]) -> Graded:
        bad = next(((n, g) for n, g in zip(self.labels, row, strict=True) if g.score is None), None)
        parts = {n: g.score for n, g in zip(self.labels, row, strict=True) if g.score is not None}
        if bad is not None:
            return Graded(None, f"{bad[0]}: {bad[1].error}", parts, failed=any(g.failed for g in row))
        pairs = zip(self.terms, row, strict=True)
        return Graded(math.fsum(weight * (g.score or 0.0) for (_, weight), g in pairs), None, parts)

    def close(self) -> None:
        for part, _ in self.terms:
            part.close()


class Product(Checker):
    """The product of scores: the gate ``format&number`` pays for the number only where the form is right."""

    def __init__(self, factors: Sequence[Checker]) -> None:
        self.factors = list(factors)
        self.name = "&".join(part.name for part in self.factors)

    def grade(self, example: Mapping[str, Any], completion: str) -> float | None:
        return self.many([example], [completion], seconds=SECONDS)[0].score

    def many(
        self, examples: Sequence[Mapping[str, Any]], completions: Sequence[str], *, seconds: float
    ) -> list[Graded]:
        columns = [grade_many(part, examples, completions, seconds=seconds) for part in self.factors]
        return [self._one(row) for row in zip(*columns, strict=True)]

    def _one(self, row: Sequence[Graded]) -> Graded:
        bad = next(((f.name, g) for f, g in zip(self.factors, row, strict=True) if g.score is None), None)
        if bad is not None:
            return Graded(None, f"{bad[0]}: {bad[1].error}", failed=any(g.failed for g in row))
        return Graded(math.prod(g.score or 0.0 for g in row))

    def close(self) -> None:
        for part in self.factors:
            part.close()
