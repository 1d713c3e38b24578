"""``format`` and ``length``: about a reply's form, not its content.

``format`` is 1 where a reply is ``<think>THOUGHT</think>`` and then ``<answer>ANSWER</answer>``, each once,
both with words or digits in them, and nothing else but white space around them. An empty thought is no
thought. As a gate (``format&number``) it can be learnt without being gamed; added to a reward
(``number,format*0.1``) it pays for empty form, which is known to destabilise training.

``length`` is the number of words and signs of a reply, for a penalty: ``number*1,length*-0.01``.
``length:N`` counts only what is beyond N. Tokens are not seen here; words and signs follow them closely.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from exnihilo.errors import UsageError
from exnihilo.eval.graders.base import Checker
from exnihilo.eval.graders.tagged import answered, thought

_PIECES = re.compile(r"\w+|[^\w\s]")
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


class Format(Checker):
    """1 for a thought and an answer, in this order and with nothing beside them, else 0."""

    name = "format"

    def grade(self, example: Mapping[str, Any], completion: str) -> float | None:
        del example
        return float(formed(completion))


class Length(Checker):
    """Words and signs of a reply, those beyond `free`."""

    name = "length"

    def __init__(self, free: int = 0) -> None:
        self.free = free

    def grade(self, example: Mapping[str, Any], completion: str) -> float | None:
        del example
        return float(max(0, len(_PIECES.findall(completion)) - self.free))


def formed(text: str) -> bool:
    """Whether a reply is a thought and then an answer.

    >>> formed("<think>3 + 4</think><answer>7</answer>"), formed("<think> </think><answer>7</answer>")
    (True, False)
    """
    if any(text.count(tag) != 1 for tag in _TAGS):
        return False
    places = [text.index(tag) for tag in _TAGS]
    if places != sorted(places):
        return False
    inner, answer = thought(text), answered(text)
    if not inner or not answer or not re.search(r"\w", inner) or not re.search(r"\w", answer):
        return False
    around = (
        text[: places[0]],
        text[places[1] + len(_TAGS[1]) : places[2]],
        text[places[3] + len(_TAGS[3]) :],
    )
    return not any(piece.strip() for piece in around)


def make(name: str, argument: str) -> Checker:
    """``format``, ``length`` or ``length:N``."""
    if name == "format":
        if argument:
            raise UsageError(f"grader {name}:{argument}", expected="format alone")
        return Format()
    if argument and not re.fullmatch(r"\d{1,9}", argument, re.ASCII):
        raise UsageError(f"grader {name}:{argument}", expected="length:N, N words and signs that are free")
    return Length(int(argument or 0))
