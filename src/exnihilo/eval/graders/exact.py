"""``exact``: the reply is the gold answer, letter by letter, but for white space.

``exact`` compares whole replies; ``exact:fold`` ignores case, and punctuation and quotes at the ends, so that
"Paris." is "paris". Both compare in Unicode's composed form (NFC), and runs of white space as one space.

Where the reply marks its answer (``<answer>...</answer>``), the marked text is compared.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

from exnihilo.errors import UsageError
from exnihilo.eval.graders import fields
from exnihilo.eval.graders.base import Checker
from exnihilo.eval.graders.tagged import answered

_ENDS = "\"'“”‘’«»`*_.,;:!?()[]"


class Exact(Checker):
    """1 where the reply is the answer (or one of a list of answers), else 0; None without gold."""

    name = "exact"

    def __init__(self, fold: bool) -> None:
        self.fold = fold

    def grade(self, example: Mapping[str, Any], completion: str) -> float | None:
        found = fields.value(example, "answer", "answers", "solution")
        golds = list(found) if isinstance(found, (list, tuple)) else [found]
        wanted = {plain(str(g), self.fold) for g in golds if g is not None} - {""}
        if not wanted:
            return None
        marked = answered(completion)
        return float(plain(completion if marked is None else marked, self.fold) in wanted)


def plain(text: str, fold: bool) -> str:
    """Text as it is compared.

    >>> plain(" New  York.", True)
    'new york'
    """
    text = " ".join(unicodedata.normalize("NFC", text).split())
    return text.strip(_ENDS + " ").casefold() if fold else text


def make(name: str, argument: str) -> Checker:
    """``exact`` or ``exact:fold``."""
    if argument not in ("", "fold"):
        raise UsageError(f"grader {name}:{argument}", expected="exact or exact:fold")
    return Exact(argument == "fold")
