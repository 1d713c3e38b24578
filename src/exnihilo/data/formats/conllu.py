"""Universal Dependencies' CoNLL-U: ten tab-separated columns a word, comments, a blank line after sentences.

Records have words (FORM), lemma, upos, xpos, feats, head, deprel, misc, and text (of the ``# text`` comment,
else the words with spaces); tags are upos: ``fields = { tags = "xpos" }`` takes another. The ranges of
multiword tokens (``3-4``) and empty nodes (``8.1``) are no words: tags stand at syntactic words.

A sentence with a broken line is left out and counted; if most are so, it is an error.

Reference: https://universaldependencies.org/format.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from exnihilo.data.base import Drops
from exnihilo.data.formats.reading import lines_of
from exnihilo.errors import DataError

COLUMNS = ("id", "words", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
_WORD = re.compile(r"[0-9]+\Z")
_NUMBER = re.compile(r"[0-9]+(?:[-.][0-9]+)?\Z")
_TEXT = "# text ="


def looks(head: Sequence[str]) -> bool:
    """Whether the beginning of a file, as complete lines, is this format."""
    lines = [line for line in head if line.strip() and not line.startswith("#")]
    return bool(lines) and all(
        line.count("\t") == 9 and _NUMBER.match(line.split("\t", 1)[0]) for line in lines[:50]
    )


def read(path: Path, source: Iterator[str], drops: Drops | None) -> Iterator[dict[str, Any]]:
    """One record a sentence.

    Raises:
        DataError: most sentences have lines that are not of this format.
    """
    drops = drops or Drops()
    rows: list[list[str]] = []
    text, broken, begun, good, bad, first = None, False, 0, 0, 0, ""
    for number, line in enumerate(_closed(lines_of(source)), 1):
        if line.startswith("#"):
            if line.startswith(_TEXT):
                text = line[len(_TEXT) :].strip()
            continue
        if line.strip():
            cells = line.rstrip("\n").split("\t")
            begun = begun or number
            if len(cells) != 10 or not _NUMBER.match(cells[0]) or not cells[1]:
                broken, first = True, first or f"line {number}: {line.strip()[:60]!r}"
            elif _WORD.match(cells[0]):
                rows.append(cells)
            continue
        if broken:
            bad += 1
            drops.add("sentences with broken lines", f"{path}, {first}")
        elif rows:
            good += 1
            yield _record(rows, text, f"the sentence from line {begun}")
        rows, text, broken, begun = [], None, False, 0
    if bad > good:
        raise DataError(
            f"{path}: {bad} of {bad + good} sentences have lines that are no CoNLL-U; the first: {first}",
            expected="ten cells divided by tabs, the first a number, the second a word",
            next="set data.format=conll for other columns",
        )


def _closed(lines: Iterator[str]) -> Iterator[str]:
    """The lines and a blank one, which ends the last sentence."""
    yield from lines
    yield "\n"


def _record(rows: list[list[str]], text: str | None, at: str) -> dict[str, Any]:
    columns = {name: [cells[i] for cells in rows] for i, name in enumerate(COLUMNS)}
    return {**columns, "tags": columns["upos"], "text": text or " ".join(columns["words"]), "_at": at}
