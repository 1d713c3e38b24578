"""Words with tags, one word a line, columns divided by tabs or spaces, a blank line after each sentence.

    Redondo TAB B-location          EU NNP B-NP B-ORG

The first column is the word and the last one the tag; every column has a name: ``column_1`` ... or what
`Reading.columns` says, so ``fields = { tags = "column_2" }`` takes another. Tabs divide if the first line
with a word has one (then a word may have spaces), else spaces. A line of white space alone ends a sentence.
``-DOCSTART-`` lines are left out, and so are comments: lines that begin with ``#`` and have not the columns
of a word (``#photography O`` is a word).

A sentence with a line of another number of columns is left out and counted; if most are so, it is an error.

Reference: https://www.clips.uantwerpen.be/conll2003/ner/
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from exnihilo.data.base import Drops
from exnihilo.data.formats.reading import Reading, lines_of
from exnihilo.errors import ConfigError, DataError

_SPACES = re.compile(r"[ \t]+")
_WHITE = " \t\r\n\ufeff"
_DOCUMENT = "-DOCSTART-"


def cells_of(line: str, tabs: bool) -> list[str]:
    """The cells of a line. Only blanks and tabs divide: other white space may be a word's own."""
    line = line.rstrip("\n")
    return [c.strip(" ") for c in line.split("\t")] if tabs else _SPACES.split(line.strip(" \t"))


def looks(head: Sequence[str]) -> bool:
    """Whether the beginning of a file, as complete lines, is this format: lines of words with an equal number
    of columns, two at least, in sentences with blank lines between."""
    lines = [line for line in head if line.strip(_WHITE) and not line.startswith((_DOCUMENT, "# "))]
    if not lines or len(lines) == len(head) > 60:
        return False  # a sentence of more than 60 words, without a blank line
    tabs = "\t" in lines[0]
    counts = [len(cells_of(line, tabs)) for line in lines]
    most = max(set(counts), key=counts.count)
    words = [len(cells_of(line, tabs)[0].split(" ")) for line in lines]
    return most >= 2 and counts.count(most) >= 0.95 * len(counts) and sum(words) < 2 * len(words)


def read(
    path: Path, source: Iterator[str], reading: Reading, drops: Drops | None
) -> Iterator[dict[str, Any]]:
    """One record a sentence: words, tags, text (the words with spaces), and every column by its name.

    Raises:
        DataError: one column only, or most sentences are ragged.
        ConfigError: `Reading.columns` names another number of columns.
    """
    drops = drops or Drops()
    sentence: list[list[str]] = []
    width, tabs, begun, good, bad, first_bad = 0, False, 0, 0, 0, 0
    number = 0

    def close() -> Iterator[dict[str, Any]]:
        nonlocal sentence, good, bad, first_bad
        rows, sentence = sentence, []
        wrong = next((i for i, cells in enumerate(rows) if len(cells) != width), None)
        if wrong is not None:
            bad += 1
            first_bad = first_bad or begun
            drops.add("sentences with another number of columns", f"{path}, the sentence from line {begun}")
            return
        good += 1
        yield _record(rows, reading.columns, f"the sentence from line {begun}")

    for number, line in enumerate(lines_of(source), 1):
        if not line.strip(_WHITE):
            yield from close() if sentence else ()
            continue
        if line.startswith(_DOCUMENT):
            continue
        if not width and not line.startswith("#"):
            tabs = "\t" in line
            width = len(cells_of(line, tabs))
            _check(path, number, line, width, reading)
        cells = cells_of(line, tabs)
        if line.startswith("#") and (not width or len(cells) != width):
            continue
        if not sentence:
            begun = number
        sentence.append(cells)
    if sentence:
        yield from close()
    if bad > good:
        raise DataError(
            f"{path}: {bad} of {bad + good} sentences have lines without {width} columns; "
            f"the first begins at line {first_bad}",
            expected="one word a line with the same columns everywhere, a blank line after each sentence",
            next="correct the file, or set data.format",
        )


def _record(rows: list[list[str]], names: Sequence[str], at: str) -> dict[str, Any]:
    columns = [list(column) for column in zip(*rows, strict=True)]
    record: dict[str, Any] = {
        "words": columns[0],
        "tags": columns[-1],
        "text": " ".join(columns[0]),
        "_at": at,
    }
    for i, column in enumerate(columns):
        record[names[i] if names else f"column_{i + 1}"] = column
    return record


def _check(path: Path, number: int, line: str, width: int, reading: Reading) -> None:
    if width < 2:
        raise DataError(
            f"{path}, line {number}: one column: {line.strip()[:60]!r}",
            expected="a word and a tag on each line, divided by a tab or spaces",
            next="correct the file, or set data.format",
        )
    if reading.columns and len(reading.columns) != width:
        raise ConfigError(
            f"data.columns names {len(reading.columns)} columns; {path}, line {number} has {width}",
            expected=f"{width} names",
            next="data.columns=NAME,NAME,...",
        )
