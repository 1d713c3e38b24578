"""Records of .jsonl, .json, .csv, .tsv and .parquet files, streamed: dictionaries of columns to values.

    for record in records(path, encoding="utf-8"): ...

JSON is read with the standard library, which names the place of a mistake; CSV too, because a cell may be
larger than any block size; Parquet with pyarrow, batch by batch. Every error names the file and the row.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from exnihilo.data.text import plain_suffix, strings
from exnihilo.errors import DataError

Record = Mapping[str, Any]
SUFFIXES = frozenset({".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"})

_WHOLE_JSON = 256 << 20  # characters of a file that is one JSON object, and so must be held whole
_HEADER_CELL = 200  # characters: a longer cell in the first row means that the file has no header


def records(
    path: Path, *, encoding: str = "utf-8", columns: tuple[str, ...] | None = None
) -> Iterator[Record]:
    """The records of a file, in order.

    Args:
        columns: read only these, where the format lets one choose (Parquet); a column that is missing is an
            error.

    Raises:
        DataError: a row that cannot be read; the message names its number, counted from 1.
    """
    suffix = plain_suffix(path)
    if suffix == ".parquet":
        yield from _parquet(path, columns)
    elif suffix in (".csv", ".tsv"):
        yield from _csv(path, strings(path, encoding), "\t" if suffix == ".tsv" else None)
    elif suffix == ".json":
        yield from _json(path, strings(path, encoding))
    else:
        yield from _jsonl(path, _lines(strings(path, encoding)))


def header(path: Path, *, encoding: str = "utf-8") -> list[str]:
    """The columns of a file, as far as its first record shows."""
    if plain_suffix(path) == ".parquet":
        return list(_open_parquet(path).schema_arrow.names)
    return list(next(iter(records(path, encoding=encoding)), {}))


def _lines(source: Iterator[str]) -> Iterator[str]:
    """Lines with their ends; only "\\n" ends one."""
    rest: list[str] = []
    for block in source:
        lines = block.split("\n")
        if len(lines) == 1:
            rest.append(block)
            continue
        yield "".join(rest) + lines[0] + "\n"
        for line in lines[1:-1]:
            yield line + "\n"
        rest = [lines[-1]]
    if last := "".join(rest):
        yield last


def _jsonl(path: Path, lines: Iterator[str]) -> Iterator[Record]:
    for number, line in enumerate(lines, 1):
        if line.isspace():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise _broken(path, f"line {number}", error, line) from error
        yield _record(path, f"line {number}", value)


def _record(path: Path, place: str, value: Any) -> Record:
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, dict):
        raise DataError(
            f"{path}, {place}: a JSON {type(value).__name__}, not a record",
            expected='an object such as {"text": "..."}, or a string',
            next="correct the file",
        )
    return value


def _broken(path: Path, place: str, error: Exception, text: str) -> DataError:
    shown = text.strip()[:60]
    return DataError(
        f"{path}, {place}: broken JSON ({error}): {shown!r}",
        expected="one complete JSON value",
        next=f"correct or remove {place}; a file that ends early was cut short: copy it again",
    )


def _json(path: Path, source: Iterator[str]) -> Iterator[Record]:
    """A list of records, one object that holds such a list, or JSON lines under the wrong suffix."""
    text = ""
    for text in source:
        if text := text.lstrip():
            break
    if text.startswith("["):
        yield from _array(path, text[1:], source)
        return
    if not text.startswith("{"):
        yield from _jsonl(path, _lines(chain([text], source)))
        return
    held = [text]
    first, newline, rest = text.partition("\n")
    if newline and rest.lstrip().startswith("{") and _complete(first):
        yield from _jsonl(path, _lines(chain(held, source)))
        return
    size = len(text)
    for block in source:
        held.append(block)
        size += len(block)
        if size > _WHOLE_JSON:
            raise DataError(
                f"{path} is one JSON object of more than {_WHOLE_JSON >> 20} million characters",
                expected="a list of records, or one record a line, which can be streamed",
                next="convert it to .jsonl",
            )
    try:
        value = json.loads("".join(held))
    except ValueError as error:
        raise _broken(path, "the object", error, text) from error
    lists = [v for v in value.values() if isinstance(v, list) and v and all(isinstance(x, dict) for x in v)]
    yield from lists[0] if len(lists) == 1 else [value]


def _complete(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _array(path: Path, text: str, source: Iterator[str]) -> Iterator[Record]:
    decode = json.JSONDecoder().raw_decode
    number, at, done = 1, 0, False

    def more(least: int) -> bool:
        """Reads at least so many characters on, so that a large value is not tried again at every block."""
        nonlocal text, at, done
        got = [text[at:]]
        size = 0
        while size < least and not done:
            block = next(source, None)
            done = block is None
            got.append(block or "")
            size += len(block or "")
        text, at = "".join(got), 0
        return size > 0

    while True:
        while at < len(text) and text[at] in " \t\n\r,":
            at += 1
        if at == len(text):
            if more(1):
                continue
            raise _broken(path, f"record {number}", ValueError("the list has no end"), text[-60:])
        if text[at] == "]":
            return
        try:
            value, end = decode(text, at)
        except ValueError as error:
            if not more(max(1 << 20, len(text) - at)):
                raise _broken(path, f"record {number}", error, text[at:]) from error
            continue
        at = end
        yield _record(path, f"record {number}", value)
        number += 1


def _csv(path: Path, source: Iterator[str], delimiter: str | None) -> Iterator[Record]:
    lines = _lines(source)
    first = next(lines, "")
    if delimiter is None:
        delimiter = max(",;\t", key=first.count)
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    literal = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL  # tab-separated files do not quote
    rows = csv.reader(chain([first], lines), delimiter=delimiter, strict=True, quoting=literal)
    names: list[str] = []
    number, headless = 0, False
    try:
        for number, row in enumerate(rows, 1):
            if not row:
                continue
            if not names:
                headless = _headless(row)
                names = [f"column_{i}" for i in range(1, len(row) + 1)] if headless else row
                if not headless:
                    continue
            if len(row) != len(names) and not (headless and len(row) > len(names)):
                raise DataError(
                    f"{path}, row {number}: {len(row)} cells under {len(names)} columns",
                    expected=f"the columns {', '.join(names)}",
                    next="correct the row (a cell with a delimiter or a line break needs quotes)",
                )
            yield dict(zip(names, row, strict=False))
    except csv.Error as error:
        raise DataError(
            f"{path}, row {number + 1}: broken CSV ({error})",
            expected=f'cells divided by {delimiter!r}, quoted with "',
            next="correct the row; a file that ends inside quotes was cut short",
        ) from error


def _headless(row: list[str]) -> bool:
    def bad(cell: str) -> bool:
        return not cell.strip() or len(cell) > _HEADER_CELL or cell.replace(".", "").lstrip("-").isdigit()

    return len(set(row)) < len(row) or any(map(bad, row))


def _open_parquet(path: Path) -> pyarrow.parquet.ParquetFile:
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise _bad_parquet(path, error) from error


def _bad_parquet(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} cannot be read as Parquet: {error}",
        expected="a complete .parquet file",
        next="copy or download it again",
    )


def _parquet(path: Path, columns: tuple[str, ...] | None) -> Iterator[Record]:
    with _open_parquet(path) as file:
        names = file.schema_arrow.names
        chosen = [c for c in columns if c in names] if columns else None
        try:
            for batch in file.iter_batches(batch_size=256, columns=chosen):
                yield from batch.to_pylist()
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise _bad_parquet(path, error) from error
