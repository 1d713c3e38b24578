"""``countdown``: an expression of the given numbers that reaches the target.

::

    grade = create("countdown")                 # each number exactly once; countdown:any: at most once
    grade({"numbers": [3, 4, 7], "target": 25}, "3 * (4 + 7) - 8")      # 0.0: 8 was not given
    grade({"record": {"nums": [3, 4], "target": 7}}, "<answer>3 + 4</answer>")      # 1.0

The example (or its record) has ``numbers`` (or ``nums``) and ``target``; its ``use``, "all" or "any", goes
before the grader's argument. The expression stands between ``<answer>`` tags, else it is the reply's last
line that is not blank, after ``<think>``; "3 + 4 = 7" is read as its left side, and the right one must be the
target. Written × ÷ · − are the signs that they look like.

What counts is decided on the syntax tree, by a list of what may stand in it: + - * / on whole numbers, a
minus before a term, parentheses. ``2**3``, ``7//2``, ``1.5*2``, names, calls and comparisons are no
expressions here (a well-known checker pays for the first three). Values are exact fractions; nothing is
ever run.

Reference: Countdown as in TinyZero (Pan et al. 2025) and Stream of Search (Gandhi et al. 2024,
arXiv:2404.03683).
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

from exnihilo.errors import UsageError
from exnihilo.eval.graders import fields
from exnihilo.eval.graders.base import Checker
from exnihilo.eval.graders.number import final
from exnihilo.eval.graders.tagged import after_thought, answered

Use = Literal["all", "any"]
LONGEST = 400  # characters of an expression
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "\u00a0": " "})
_LETTERS = frozenset("0123456789+-*/() ")


class Countdown(Checker):
    """1 where the expression is of the given numbers and reaches the target, else 0; None without a task."""

    name = "countdown"

    def __init__(self, use: Use = "all") -> None:
        self.use: Use = use

    def grade(self, example: Mapping[str, Any], completion: str) -> float | None:
        task = read(example)
        if task is None:
            return None
        numbers, target = task
        own = fields.value(example, "use")
        use = own if own in ("all", "any") else self.use
        return float(reaches(expression(completion), numbers, target, use=use))


def read(example: Mapping[str, Any]) -> tuple[list[int], Fraction] | None:
    """(numbers, target) of an example; None where it has none that can be read."""
    numbers = fields.value(example, "numbers", "nums")
    if not isinstance(numbers, (list, tuple)) or not numbers:
        return None
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in numbers):
        return None
    target = fields.value(example, "target")  # an answer beside it is somebody's expression
    if target is None:
        target = fields.value(example, "answer")
    if isinstance(target, bool) or not isinstance(target, (int, str)):
        return None
    value = Fraction(target) if isinstance(target, int) else final(target)
    return None if value is None else (list(numbers), value)


def expression(completion: str) -> str:
    """The expression of a reply: what it marks, else its last line.

    >>> expression("Let us see.\\n3 * 4\\n")
    '3 * 4'
    """
    marked = answered(completion)
    if marked is not None:
        return marked
    lines = [line.strip() for line in after_thought(completion).splitlines() if line.strip()]
    return lines[-1] if lines else ""


def reaches(text: str, numbers: Sequence[int], target: int | Fraction, *, use: Use = "all") -> bool:
    """Whether an expression uses the numbers as it should and has the target's value.

    >>> reaches("(1 + 2) * 3 = 9", [1, 2, 3], 9), reaches("2 ** 3", [2, 3], 8), reaches("12", [1, 2], 12)
    (True, False, False)
    """
    text = text.translate(_SIGNS).strip()
    left, equals, right = text.partition("=")
    if equals and right.strip().rstrip(".") not in _spellings(target):
        return False
    found = value(left)
    if found is None or found[0] != target:
        return False
    used, given = Counter(found[1]), Counter(numbers)
    return used == given if use == "all" else used <= given


def _spellings(target: int | Fraction) -> set[str]:
    return {str(target), f"({target})"}


def value(text: str) -> tuple[Fraction, list[int]] | None:
    """(value, the numbers it is made of) of an expression of + - * / ( ); None for anything else.

    >>> value("6 / 4"), value("7 // 2"), value("1.5 * 2")
    ((Fraction(3, 2), [6, 4]), None, None)
    """
    text = text.strip()
    if not text or len(text) > LONGEST or not set(text) <= _LETTERS:
        return None
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    used: list[int] = []
    try:
        found = _walk(tree.body, used)
    except ZeroDivisionError:
        return None
    return None if found is None else (found, used)


def _walk(node: ast.AST, used: list[int]) -> Fraction | None:
    if isinstance(node, ast.Constant):
        if type(node.value) is not int:
            return None
        used.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _walk(node.operand, used)
        return None if inner is None else -inner
    if not isinstance(node, ast.BinOp):
        return None
    left = _walk(node.left, used)
    right = _walk(node.right, used)
    if left is None or right is None:
        return None
    if isinstance(node.op, ast.Add):
        return left + right
    if isinstance(node.op, ast.Sub):
        return left - right
    if isinstance(node.op, ast.Mult):
        return left * right
    return left / right if isinstance(node.op, ast.Div) else None


def make(name: str, argument: str) -> Checker:
    """``countdown``, ``countdown:all`` or ``countdown:any``."""
    if argument not in ("", "all", "any"):
        raise UsageError(
            f"grader {name}:{argument}",
            expected="countdown:all (each number exactly once) or countdown:any (at most once)",
        )
    return Countdown("any" if argument == "any" else "all")
