"""Tables of cells divided by commas, semicolons or tabs, with or without a header.

    for record in read(path, strings(path, "utf-8"), reading, drops): ...

Tabs divide where every one of the first lines has one, else what the first line has most of. Between tabs
quotes are literal, as in GLUE's files; elsewhere ``"`` quotes. (`Reading.quotes` says otherwise.)

The first row is no header where a cell of it is empty, repeated, a number or very long, comes again further
down its own column, or is a sentence above sentences. Then the columns are ``column_1``, ``column_2`` ...,
or `Reading.columns`.

A row with another number of cells than the header is an error; between tabs, where a stray tab is a frequent
fault of large files, it is left out and counted, unless most rows are so. A row that is longer than the first
one of a table without a header has cells that no column is for.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from exnihilo.data.base import Drops
from exnihilo.data.formats.reading import KNOWN, Reading, lines_of
from exnihilo.errors import ConfigError, DataError

_PEEK = 20  # rows that detection looks at
_HEADER_CELL = 200  # characters: a longer cell in the first row means that the file has no header
_WORDS = 4  # of a cell that is a sentence
Row = tuple[int, list[str]]


def read(
    path: Path, source: Iterator[str], reading: Reading, drops: Drops | None, *, tabs: bool
) -> Iterator[dict[str, Any]]:
    """The records of a table; every cell is a string.

    Args:
        source: the text, in blocks.
        drops: counts rows that are left out.
        tabs: the file's name says that tabs divide its cells.
    """
    lines = lines_of(source)
    first = list(islice(lines, _PEEK))
    delimiter = "\t" if tabs else _delimiter(first)
    rows = _rows(path, chain(first, lines), delimiter, reading)
    head = list(islice(rows, _PEEK))
    if not head:
        return
    names, headed = _names(path, head, reading)
    rows = chain(head[1:] if headed else head, rows)
    wrong, right, place = 0, 0, ""
    for number, cells in rows:
        if len(cells) == len(names) or (not headed and len(cells) > len(names)):
            right += 1
            yield dict(zip(names, cells, strict=False))
            continue
        if delimiter != "\t":
            raise _ragged(path, number, cells, names)
        wrong += 1
        place = place or f"{path}, row {number}"
        if drops is not None:
            drops.add("rows with another number of cells", f"{path}, row {number}")
    if wrong > right:
        raise DataError(
            f"{path}: {wrong} of {wrong + right} rows do not have {len(names)} cells; the first: {place}",
            expected=f"the columns {', '.join(names)}",
            next="correct the file, or set data.format",
        )


def _delimiter(first: Sequence[str]) -> str:
    full = [line for line in first if not line.isspace()]
    if full and all("\t" in line for line in full):
        return "\t"
    return max(",;\t", key=(first[0] if first else "").count)


def _rows(path: Path, lines: Iterator[str], delimiter: str, reading: Reading) -> Iterator[Row]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    quoted = reading.quotes if reading.quotes is not None else delimiter != "\t"
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=delimiter, strict=True, quoting=quoting)
    number = 0
    try:
        for number, row in enumerate(reader, 1):
            if row:
                yield number, row
    except csv.Error as error:
        raise DataError(
            f"{path}, row {number + 1}: broken CSV ({error})",
            expected=f"cells divided by {delimiter!r}" + (', quoted with "' if quoted else ""),
            next="correct the row; a file that ends inside quotes was cut short"
            + ("; if quotes are literal: data.quotes=false" if quoted else ""),
        ) from error


def _names(path: Path, head: Sequence[Row], reading: Reading) -> tuple[list[str], bool]:
    """The columns' names, and whether the first row holds them."""
    row = [cell.strip() for cell in head[0][1]]
    given = list(reading.columns)
    if given:
        if [c.lower() for c in row[: len(given)]] == [c.lower() for c in given]:
            return given + row[len(given) :], True
        if reading.header or len({c.lower() for c in row} & KNOWN) > 1:
            raise ConfigError(
                f"{path} has a header ({', '.join(row)}), but data.columns={','.join(given)} is set",
                expected="data.columns for tables without a header only",
                next="use data.fields={ROLE = COLUMN} to choose among the columns there are",
            )
        if len(given) > len(row):
            raise ConfigError(
                f"data.columns names {len(given)} columns; {path}, row {head[0][0]} has {len(row)}",
                expected=f"at most {len(row)} names",
                next="data.columns=NAME,NAME,...",
            )
        return given, False
    headed = not _headless(path, row, [r for _, r in head[1:]]) if reading.header is None else reading.header
    if not headed:
        return [f"column_{i}" for i in range(1, len(row) + 1)], False
    twice = sorted({c for c in row if row.count(c) > 1})
    if twice:
        raise _twice(path, twice)
    return [cell or f"column_{i}" for i, cell in enumerate(row, 1)], True


def _headless(path: Path, row: list[str], below: Sequence[list[str]]) -> bool:
    def number(cell: str) -> bool:
        return cell.replace(".", "").lstrip("-").isdigit()

    if any(number(cell) or len(cell) > _HEADER_CELL for cell in row):
        return True
    known = any(cell.lower() in KNOWN for cell in row)
    twice = sorted({c for c in row if c and row.count(c) > 1})
    if twice:
        if known and any(c.lower() in KNOWN for c in twice):
            raise _twice(path, twice)
        return True
    if not all(row):
        # a table's index is often written under an empty name
        return not (known and all(row[1:]))
    if known:
        return False
    for i, cell in enumerate(row):
        column = [r[i] for r in below if i < len(r)]
        if cell in column:
            return True
        words = [len(c.split()) for c in column]
        if words and len(cell.split()) >= _WORDS <= sum(words) / len(words):
            return True
    return False


def _twice(path: Path, names: Sequence[str]) -> DataError:
    return DataError(
        f"{path}: two columns are named {', '.join(map(repr, names))}",
        expected="a name for each column once",
        next="rename one in the file's first row; if that row is no header: data.header=false",
    )


def _ragged(path: Path, number: int, cells: Sequence[str], names: Sequence[str]) -> DataError:
    return DataError(
        f"{path}, row {number}: {len(cells)} cells under {len(names)} columns",
        expected=f"the columns {', '.join(names)}",
        next="correct the row (a cell with a delimiter or a line break needs quotes)",
    )
