"""Shown examples: which they are, and how they stand before a question.

shots, questions = split(asked, read)           # the first `shots` items are shown, the others asked
text = shown(["Question: 1 + 1?\\nAnswer: 2"]) + "Question: 2 + 2?\\nAnswer:"
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import TypeVar

from exnihilo.errors import DataError
from exnihilo.eval.suites.base import Asked

T = TypeVar("T")
BETWEEN = "\n\n"
"""Stands behind each shown example."""


def split(asked: Asked, read: Callable[[Asked], Iterable[T]]) -> tuple[list[T], list[T]]:
    """(shown, asked) items: what is shown comes from `shots_from`, or from the beginning of the data, and is
    then not asked.

    Raises:
        DataError: there are fewer than `shots`.
    """
    if asked.shots_from is not None:
        shots = list(islice(read(replace(asked, data=asked.shots_from)), asked.shots))
        items = list(islice(read(asked), asked.max_examples))
    else:
        most = None if asked.max_examples is None else asked.shots + asked.max_examples
        items = list(islice(read(asked), most))
        shots, items = items[: asked.shots], items[asked.shots :]
    if len(shots) < asked.shots:
        raise DataError(
            f"shots={asked.shots}, and the data has {len(shots)} that can be shown",
            expected="at least as many", next="shots=N with a smaller N, or shots_from=FILE",
        )  # fmt: skip
    return shots, items


def shown(texts: Sequence[str]) -> str:
    """Shown examples as the beginning of a prompt."""
    return "".join(text + BETWEEN for text in texts)
