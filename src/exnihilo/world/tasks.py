"""Verifiable tasks: a prompt, the answer, and a checker that reads free text.

    task = next(tasks(Draws(0), "countdown"))
    task.check("5 * 4 + 2")             # True if it reaches the target with the numbers given, each used at
    most once

Checkers are strict about the answer and lenient about its wrapping: the last line counts, with "Answer:"
or a full stop around it. No `eval`: expressions are read by a small parser.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from ..errors import UsageError, nearest
from .rng import Draws

TOKEN = re.compile(r"\s*(\d+|[-+*/()])")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Task:
    """A prompt with a verifiable answer: `check(reply)` says whether a reply is right."""

    kind: str
    prompt: str
    answer: str
    data: tuple = ()

    def check(self, reply: str) -> bool:
        given = final(reply)
        if self.kind == "countdown":
            return reaches(given, self.data[:-1], self.data[-1])
        if self.kind in ("add", "subtract", "multiply", "count", "largest"):
            return re.fullmatch(r"-?\d+", given) is not None and int(given) == int(self.answer)
        return given == self.answer


def final(reply: str) -> str:
    """The answer in a reply: its last line, without "Answer:" before it and a full stop after it."""
    lines = [line.strip() for line in reply.strip().splitlines() if line.strip()]
    if not lines:
        return ""
    text = re.sub(r"^(?:the\s+)?answer\s*(?:is|:|=)\s*", "", lines[-1], flags=re.IGNORECASE)
    return text.rstrip(".").strip()


def value(expression: str) -> tuple[Fraction, Counter[int]] | None:
    """The exact value of an expression (+ - * / and parentheses) and its numbers; None if it is not one."""
    if len(expression) > 500:
        return None
    tokens, at = [], 0
    expression = expression.strip()
    while at < len(expression):
        match = TOKEN.match(expression, at)
        if match is None:
            return None
        tokens.append(match.group(1))
        at = match.end()
    used: Counter[int] = Counter()
    pos = 0

    def peek() -> str:
        return tokens[pos] if pos < len(tokens) else ""

    def atom(depth: int) -> Fraction:
        nonlocal pos
        token = peek()
        pos += 1
        if token == "(" and depth < 50:
            inside = total(depth + 1)
            if peek() != ")":
                raise ValueError("a parenthesis is not closed")
            pos += 1
            return inside
        if not token.isdigit():
            raise ValueError("a number is missing")
        used[int(token)] += 1
        return Fraction(int(token))

    def product(depth: int) -> Fraction:
        nonlocal pos
        left = atom(depth)
        while peek() in ("*", "/") and peek():
            sign = peek()
            pos += 1
            right = atom(depth)
            left = left * right if sign == "*" else left / right
        return left

    def total(depth: int) -> Fraction:
        nonlocal pos
        left = product(depth)
        while peek() in ("+", "-") and peek():
            sign = peek()
            pos += 1
            right = product(depth)
            left = left + right if sign == "+" else left - right
        return left

    try:
        result = total(0)
    except (ValueError, ZeroDivisionError):
        return None
    return (result, used) if pos == len(tokens) else None


def reaches(expression: str, numbers: tuple[int, ...], target: int) -> bool:
    """Whether an expression, perhaps with "= target", uses each number at most once and gives the target."""
    left, equals, right = expression.partition("=")
    if equals and right.strip() != str(target):
        return False
    found = value(left)
    return found is not None and found[0] == target and not found[1] - Counter(numbers)


def add(d: Draws, size: int, words: list[str]) -> Task:
    a, b = d.below(10**size), d.below(10**size)
    return Task("add", f"What is {a} + {b}?", str(a + b))


def subtract(d: Draws, size: int, words: list[str]) -> Task:
    a, b = d.below(10**size), d.below(10**size)
    return Task("subtract", f"What is {a} - {b}?", str(a - b))


def multiply(d: Draws, size: int, words: list[str]) -> Task:
    a, b = d.below(10**size), d.below(10)
    return Task("multiply", f"What is {a} * {b}?", str(a * b))


def largest(d: Draws, size: int, words: list[str]) -> Task:
    numbers = [d.below(10**size) for _ in range(2 + size)]
    return Task("largest", f"Which is the largest of {', '.join(map(str, numbers))}?", str(max(numbers)))


def countdown(d: Draws, size: int, words: list[str]) -> Task:
    numbers = [1 + d.below(9 * size) for _ in range(1 + size)]
    text, total = str(numbers[0]), numbers[0]
    for n in numbers[1:]:
        sign = d.pick("+-*") if total > n else d.pick("+*")
        text = f"{text} {sign} {n}" if sign != "*" or text.isdigit() else f"({text}) * {n}"
        total = total + n if sign == "+" else total - n if sign == "-" else total * n
    shown = d.shuffled(numbers)
    prompt = (
        f"Reach {total} from the numbers {', '.join(map(str, shown))}, each used at most once, with + - * /."
    )
    return Task("countdown", prompt, text, (*numbers, total))


def copy(d: Draws, size: int, words: list[str]) -> Task:
    text = " ".join(d.sample(words, 1 + size))
    return Task("copy", f"Repeat these words: {text}", text)


def reverse(d: Draws, size: int, words: list[str]) -> Task:
    chosen = d.sample(words, 1 + size)
    return Task(
        "reverse", f"Write these words in reverse order: {' '.join(chosen)}", " ".join(reversed(chosen))
    )


def count(d: Draws, size: int, words: list[str]) -> Task:
    chosen = [d.pick(words) for _ in range(2 + 2 * size)]
    letter = d.pick(LETTERS) if d.below(4) == 0 else d.pick(d.pick(chosen))
    n = sum(word.count(letter) for word in chosen)
    return Task("count", f'How many times is the letter "{letter}" in: {" ".join(chosen)}?', str(n))


def sort(d: Draws, size: int, words: list[str]) -> Task:
    chosen = d.sample(words, 2 + size)
    return Task("sort", f"Sort these words by the alphabet: {' '.join(chosen)}", " ".join(sorted(chosen)))


def order(d: Draws, size: int, words: list[str]) -> Task:
    numbers = [d.below(10**size) for _ in range(2 + size)]
    prompt = f"Sort these numbers from small to large: {' '.join(map(str, numbers))}"
    return Task("order", prompt, " ".join(map(str, sorted(numbers))))


MAKERS: dict[str, Callable[[Draws, int, list[str]], Task]] = {
    make.__name__: make
    for make in (add, subtract, multiply, largest, countdown, copy, reverse, count, sort, order)
}


def tasks(draws: Draws, kind: str | None, words: list[str], size: int = 2) -> Iterator[Task]:
    """Tasks without end, of one kind or (None) of all kinds in turn.

    Args:
        size: 1 and up: digits of the numbers, number of words.

    Raises:
        UsageError: an unknown kind, or a size below 1.
    """
    if kind is not None and kind not in MAKERS:
        raise UsageError(f"there are no tasks of kind {kind!r}", expected=nearest(kind, MAKERS))
    if size < 1:
        raise UsageError(f"the size of a task is {size}", expected="1 or more")
    kinds = [kind] if kind else list(MAKERS)
    while True:
        for name in kinds:
            yield MAKERS[name](draws, size, words)
