"""Lines of a label and a text: ``1 some text``, ``DESC:manner How did ...``, ``__label__good some text``.

The label ends at the first space or tab. Records have label, text, fine (the label), and coarse: the part
before its colon; ``fields = { label = "coarse" }`` takes that. fastText's mark ``__label__`` is dropped, and
a line with several of them has a list of labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from exnihilo.data.base import Drops
from exnihilo.data.formats.reading import lines_of

_MARK = "__label__"
_SPLIT = re.compile(r"[ \t]+")
_PLAIN = re.compile(r"-?\d+(\.\d+)?|[A-Z]+(:\w+)?|__label__\S+")
_FEW = 30  # lines: with fewer, labels must look like labels


def looks(head: Sequence[str]) -> bool:
    """Whether the beginning of a file, as complete lines, is this format: first words that come again and
    again, two different ones at least (few lines: first words that look like labels)."""
    lines = [line.strip() for line in head if line.strip()]
    pairs = [_SPLIT.split(line, maxsplit=1) for line in lines]
    if not pairs or any(len(pair) < 2 for pair in pairs):
        return False
    labels = {label for label, _ in pairs}
    if len(labels) < 2:
        return False
    plain = all(_PLAIN.fullmatch(label) for label in labels)
    if len(pairs) < _FEW:
        return plain and (len(labels) < len(pairs) or len(pairs) < 4)
    return len(labels) <= (0.3 if plain else 0.05) * len(pairs)


def read(path: Path, source: Iterator[str], drops: Drops | None) -> Iterator[dict[str, Any]]:
    """One record a line; blank lines are none, lines without a text are counted."""
    for number, line in enumerate(lines_of(source), 1):
        line = line.strip(" \t\n\ufeff")
        if not line:
            continue
        labels: list[str] = []
        label, text = _halves(line)
        while label.startswith(_MARK):
            labels.append(label.removeprefix(_MARK))
            if not text.startswith(_MARK):
                break
            label, text = _halves(text)
        if not text:
            if drops is not None:
                drops.add("lines with a label only", f"{path}, line {number}")
            continue
        value: str | list[str] = labels if len(labels) > 1 else labels[0] if labels else label
        record = {"label": value, "text": text, "fine": value, "_at": f"line {number}"}
        if isinstance(value, str):
            record["coarse"] = value.split(":", 1)[0]
        yield record


def _halves(line: str) -> tuple[str, str]:
    first, *rest = _SPLIT.split(line, maxsplit=1)
    return first, rest[0] if rest else ""
