"""Gold answers of extractive questions: what forms they come in, and where they stand in their context.

    golds({"answers": {"text": ["Mia"], "answer_start": [0]}})      # [("Mia", 0)]
    place("Mia ran to Mia.", golds(example))                         # Placed(start, end, how)

Offsets in the wild are wrong: counted in bytes or in another normal form, or before white space was cleaned.
An answer that is not at its offset is searched in its context, the occurrence nearest to the offset; one that
is nowhere makes its row useless for training, and is counted and named.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from exnihilo.errors import DataError

Gold = tuple[str, int | None]
"""An accepted answer and its first character in the context, where that is said."""


class Placed(NamedTuple):
    """Characters of an answer in its context; `how` it was found. (0, 0) for none and lost."""

    start: int
    end: int
    how: Literal["exact", "moved", "none", "lost"]


def golds(example: Mapping[str, Any]) -> list[Gold] | None:
    """All accepted answers; [] where there is none; None without the role `answers` (a prediction).

    Read are lists of {"text", "start"} (or "answer_start") or of strings, {"text": [...], "answer_start":
    [...]}, one string. Empty answers are none.

    Raises:
        DataError: something else.
    """
    if "answers" not in example:
        return None
    given = example["answers"]
    if given is None:
        return []
    if isinstance(given, (str, Mapping)):
        given = _columns(given) if isinstance(given, Mapping) else [given]
    if not isinstance(given, Iterable):
        raise _bad(given)
    out: list[Gold] = []
    for entry in given:
        start: Any = None
        text = entry
        if isinstance(entry, Mapping):
            text = entry.get("text")
            start = entry.get("start", entry.get("answer_start"))
        if not isinstance(text, str) or isinstance(start, (str, bytes)):
            raise _bad(entry)
        if text.strip():
            out.append((text, None if start is None or int(start) < 0 else int(start)))
    return out


def _columns(given: Mapping[str, Any]) -> list[Any]:
    """{"text": [...], "answer_start": [...]}, as hubs have it, or one answer."""
    texts = given.get("text")
    if isinstance(texts, str):
        return [given]
    if texts is None:
        texts = []
    starts = given.get("start", given.get("answer_start"))
    starts = [None] * len(texts) if starts is None else list(starts)
    if len(starts) != len(texts):
        raise DataError(f"{len(texts)} answers with {len(starts)} offsets", expected="one offset an answer")
    return [{"text": t, "start": s} for t, s in zip(texts, starts, strict=True)]


def _bad(entry: Any) -> DataError:
    return DataError(
        f"an answer {str(entry)[:60]!r}",
        expected='{"text": ..., "start": first character in the context}',
        next="check the column 'answers'",
    )


def place(context: str, answers: Sequence[Gold]) -> Placed:
    """Where the first answer stands that can be found.

    >>> place("Mia ran.", [("ran", 0)])
    Placed(start=4, end=7, how='moved')
    >>> place("Mia ran.", [("Bob", 0)])
    Placed(start=0, end=0, how='lost')
    """
    if not answers:
        return Placed(0, 0, "none")
    for text, start in answers:
        if start is not None and context.startswith(text, start):
            return _trimmed(context, start, start + len(text), "exact")
        found = _nearest(context, text, start or 0)
        if found is not None:
            return _trimmed(context, *found, "exact" if start is None else "moved")
    return Placed(0, 0, "lost")


def _trimmed(context: str, start: int, end: int, how: Literal["exact", "moved"]) -> Placed:
    text = context[start:end]
    start += len(text) - len(text.lstrip())
    return Placed(start, start + len(text.strip()), how)


def _nearest(context: str, text: str, near: int) -> tuple[int, int] | None:
    """The occurrence that begins nearest to a place: letter by letter, else in another normal form, else with
    other white space."""
    text = text.strip()
    for form in (text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)):
        after = context.find(form, max(near, 0))
        before = context.rfind(form, 0, max(near, 0) + len(form))
        found = [at for at in (before, after) if at >= 0]
        if found:
            at = min(found, key=lambda at: (abs(at - near), at))
            return at, at + len(form)
    pattern = r"\s+".join(map(re.escape, text.split()))
    spans = [match.span() for match in re.finditer(pattern, context)]
    return min(spans, key=lambda span: (abs(span[0] - near), span[0])) if spans else None
