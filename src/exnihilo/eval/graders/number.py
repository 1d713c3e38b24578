"""``number``: the reply's final number is the gold number, exactly.

::

    grade = create("number")                    # number:0.01 allows an absolute difference of 0.01
    grade({"answer": "#### 10"}, "... so 4 + 6 = 10.\\n#### 10.")      # 1.0

Where the final number of a reply stands, in this order: between ``<answer>`` tags, behind the last ``####``,
in the last ``\\boxed{}``, behind the last "answer is" or "answer:", else it is the last number of all, a
``<think>`` block left out. A place that is marked and holds no number, an unfinished sum ("3 + 4", "2^3") or
several ("7 or 8") gives no answer, and nothing is looked for elsewhere.

Read as numbers: 7, 7., -7, −7, +7, 007, 1,000.50, .5, 3/4, 1 1/2, 1e3, $5, 50%. Values are exact fractions,
so that 0.50 is 1/2 and no rounding decides. A percent or currency sign is taken for a unit: 50% is 50.

References: answers of GSM8K (Cobbe et al. 2021, arXiv:2110.14168). Well-known checkers read "#### 10." as
"10." and fail it, or reject "the answer is 7.".
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from exnihilo.errors import UsageError
from exnihilo.eval.graders import fields
from exnihilo.eval.graders.base import Checker
from exnihilo.eval.graders.tagged import after_thought, answered

LONGEST = 60  # digits and signs of a number: more are no number that anybody writes
_MOST = 20_000  # characters read, from the end

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?![\d,]*\d)|\d+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d+)?|\.\d+)"
_NUMBER = re.compile(
    rf"(?P<sign>[-+−–](?=[$€£]?\s?[\d.]))?(?:[$€£]\s?)?(?P<minus>-(?=[\d.]))?"
    rf"(?:(?P<whole>\d{{1,9}})\s+(?P<top>\d{{1,9}})/(?P<under>\d{{1,9}})(?![\d/.])"
    rf"|(?P<num>{_DECIMAL})(?:[eE](?P<exp>[+-]?\d{{1,3}})(?![\w.]))?(?:/(?P<den>\d{{1,18}})(?![\d/]))?)",
    re.ASCII,
)
SAID = re.compile(r"\banswer\s*(?:is|are|was|:|=)(?:\s*[:=])?", re.IGNORECASE)
_OPERATOR = re.compile(r"\s*(?:[*^×÷·]|[-+−/]\s*[\d(]|\\(?:cdot|times|div))")
_MORE = re.compile(r"\s*(?:,|or\b|and\b|/|;|\|)\s*(?:or\b|and\b)?\s*[-+−]?[$€£]?\d", re.IGNORECASE)
_BEFORE = re.compile(r"(?:[\d)}\]][ ]?[-+−*/^×÷·]|[*/^×÷·])\s*$")
_EMPHASIS = re.compile(r"(?<![\w)])(\*{1,3}|_{1,2})(?=\S)([^*_\n]{1,80}?)\1(?![\w(])")
NEGATED = re.compile(r"\s*(?:not|never|neither)\b|n['’]t\b", re.IGNORECASE)
_ENDS = re.compile(r"\n|(?<=[^\d\W])[.!?]\s|(?<=\d)[.!?]\s+(?=[^\d\s])")


class Number(Checker):
    """1 where the final numbers agree, else 0; None where the gold holds no number."""

    name = "number"

    def __init__(self, tolerance: Fraction = Fraction(0)) -> None:
        self.tolerance = tolerance

    def grade(self, example: Mapping[str, Any], completion: str) -> float | None:
        text = fields.answer(example)
        gold = None if text is None else final(text)
        if gold is None:
            return None
        found = final(completion)
        return float(found is not None and abs(found - gold) <= self.tolerance)


def final(text: str) -> Fraction | None:
    """The final number of a text; None where it says none, or none that is clear.

    >>> final("the answer is 7."), final("It is 3 + 4 = 7"), final("7 or 8, the answer is 7 or 8")
    (Fraction(7, 1), Fraction(7, 1), None)
    """
    text = text[-_MOST:]
    marked = answered(text)
    if marked is not None:
        return _said(marked)
    spoken = _EMPHASIS.sub(r"\2", after_thought(text))
    if "####" in spoken:
        return _said(_sentence(spoken.rpartition("####")[2]))
    if "\\boxed" in spoken:
        return _said(_braced(spoken.rpartition("\\boxed")[2]))
    said = list(SAID.finditer(spoken))
    if said:
        rest = spoken[said[-1].end() :]
        return None if NEGATED.match(rest) else _said(_sentence(rest))
    return _last(spoken)


def _sentence(text: str) -> str:
    """Up to the end of the sentence or line."""
    text = text.lstrip()
    end = _ENDS.search(text)
    return text[: end.start()] if end else text


def _braced(text: str) -> str:
    """The inside of the braces that a text begins with; "" where they are not closed."""
    if not text.startswith("{"):
        return ""
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return text[1:at]
    return ""


def _said(text: str) -> Fraction | None:
    """The one number of a place that is marked as the answer."""
    sum_of, equals, result = text.rpartition("=")
    if equals and not re.search(r"[^\W\d_]{2}", sum_of):  # "3 + 4 = 7", "x = 7"; not "7, for 3 + 4 = 7"
        text = result
    text = _EMPHASIS.sub(r"\2", text)
    text = re.sub(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}", r"\1/\2", text)
    text = re.sub(r"\\[,;!$]|\\(?:text|mathrm)\b|[{}]|\$(?!-?\d)", " ", text)
    found = _NUMBER.search(text)
    if found is None or _glued(text, found) or _OPERATOR.match(text, found.end()):
        return None
    if _MORE.match(text, found.end()):
        return None
    return _value(found)


def _last(text: str) -> Fraction | None:
    """The last number of a text that marks none; an operand of an unfinished sum is none, nor is "7 or 8"."""
    found = next(iter(deque(_NUMBER.finditer(text), 1)), None)
    if found is not None and re.search(r"\d\W{0,3}\bor\s+$", text[: found.start()], re.IGNORECASE):
        return None
    if found is None or _glued(text, found) or _OPERATOR.match(text, found.end()):
        return None
    return _value(found)


def _glued(text: str, found: re.Match[str]) -> bool:
    """Whether what is before a number makes it a part of a word, of a sum or of a list of digits."""
    before = text[: found.start()]
    if found["sign"] is not None and re.search(r"[\d)}\]]\s*$", before):
        return True  # "10 - 7": the sign is an operator, and the sum is not carried out
    if re.search(r"(?<!\d)\d{1,3}[ \u00a0\u202f]$", before) and re.fullmatch(r"\d{3}", found[0]):
        return True  # "1 000": one number or two
    return bool(re.search(r"[A-Za-z_]$|\d[.,:]$|[\d+−–-]$", before) or _BEFORE.search(before))


def _value(found: re.Match[str]) -> Fraction | None:
    if found.end() - found.start() > LONGEST:
        return None
    if found["whole"] is not None:
        if int(found["under"]) == 0:
            return None
        value = int(found["whole"]) + Fraction(int(found["top"]), int(found["under"]))
    else:
        value = Fraction(found["num"].replace(",", ""))
        if found["exp"] is not None:
            value *= Fraction(10) ** int(found["exp"])
        if found["den"] is not None:
            if int(found["den"]) == 0:
                return None
            value /= int(found["den"])
    negative = bool(found["minus"]) != bool(found["sign"] and found["sign"] in "-−–")
    return -value if negative else value


def make(name: str, argument: str) -> Checker:
    """``number`` or ``number:TOLERANCE``."""
    if not argument:
        return Number()
    try:
        tolerance = Fraction(argument)
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(
            f"grader {name}:{argument}", expected="number:TOLERANCE, e.g. number:0.01"
        ) from error
    if tolerance < 0:
        raise UsageError(f"grader {name}:{argument}", expected="a tolerance of 0 or above")
    return Number(tolerance)
