"""Records of .jsonl, .json, .csv, .tsv and .parquet files, streamed: dictionaries of columns to values.

    for record in records(path, encoding="utf-8"): ...

JSON is read with the standard library, which names the place of a mistake; CSV too, because a cell may be
larger than any block size; Parquet with pyarrow, batch by batch. Every error names the file and the row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from exnihilo.data.base import Drops
from exnihilo.data.formats import delimited
from exnihilo.data.formats.reading import Reading, lines_of
from exnihilo.data.text import plain_suffix, strings
from exnihilo.errors import DataError

Record = Mapping[str, Any]
SUFFIXES = frozenset({".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"})

_WHOLE_JSON = 256 << 20  # characters of a file that is one JSON object, and so must be held whole


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
        yield from parquet(path, columns)
    elif suffix in (".csv", ".tsv"):
        reading = Reading(encoding)
        yield from delimited.read(path, strings(path, encoding), reading, None, tabs=suffix == ".tsv")
    elif suffix == ".json":
        yield from json_records(path, strings(path, encoding))
    else:
        yield from jsonl(path, strings(path, encoding))


def header(path: Path, *, encoding: str = "utf-8") -> list[str]:
    """The columns of a file, as far as its first record shows."""
    if plain_suffix(path) == ".parquet":
        return list(_open_parquet(path).schema_arrow.names)
    return list(next(iter(records(path, encoding=encoding)), {}))


def jsonl(path: Path, source: Iterator[str], drops: Drops | None = None) -> Iterator[Record]:
    """One JSON value a line.

    Args:
        drops: lines that are no record are counted here and left out, those that are lists are conversations,
            and each record has its line as ``_at``. None: such a line is an error.
    """
    for number, line in enumerate(lines_of(source), 1):
        if line.isspace():
            continue
        place = f"line {number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            if drops is None:
                raise _broken(path, place, error, line) from error
            drops.add("lines of broken JSON", f"{path}, {place}")
            continue
        if drops is None:
            yield _record(path, place, value)
        elif isinstance(value, dict):
            yield {**value, "_at": place}
        elif isinstance(value, list):
            yield {"messages": value, "_at": place}
        else:
            drops.add("lines that are no record", f"{path}, {place}")


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


def json_records(path: Path, source: Iterator[str], drops: Drops | None = None) -> Iterator[Record]:
    """A list of records, one object that holds such a list, or JSON lines under the wrong suffix.

    Args:
        drops: as for `jsonl`; a broken list is an error all the same, since where it goes on is not known.
    """
    text = ""
    for text in source:
        if text := text.lstrip():
            break
    if text.startswith("["):
        for number, value in enumerate(array(path, text[1:], source), 1):
            if drops is None or isinstance(value, dict):
                yield _record(path, f"record {number}", value)
            elif isinstance(value, list):
                yield {"messages": value}
            else:
                drops.add("values that are no record", f"{path}, record {number}")
        return
    if not text.startswith("{"):
        yield from jsonl(path, chain([text], source), drops)
        return
    held = [text]
    first, newline, rest = text.partition("\n")
    if newline and rest.lstrip().startswith("{") and _complete(first):
        yield from jsonl(path, chain(held, source), drops)
        return
    value = whole_object(path, chain(held, source))
    lists = [v for v in value.values() if isinstance(v, list) and v and all(isinstance(x, dict) for x in v)]
    yield from lists[0] if len(lists) == 1 else [value]


def whole_object(path: Path, source: Iterable[str]) -> dict[str, Any]:
    """A file that is one JSON object."""
    held: list[str] = []
    size = 0
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
        raise _broken(path, "the object", error, "".join(held[:1])) from error
    return value if isinstance(value, dict) else {"text": value}


def _complete(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def array(path: Path, text: str, source: Iterator[str], what: str = "record") -> Iterator[Any]:
    """The values of a JSON list, one after another; `text` and `source` are what follows its bracket."""
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
            raise _broken(path, f"{what} {number}", ValueError("the list has no end"), text[-60:])
        if text[at] == "]":
            return
        try:
            value, end = decode(text, at)
        except ValueError as error:
            if not more(max(1 << 20, len(text) - at)):
                raise _broken(path, f"{what} {number}", error, text[at:]) from error
            continue
        at = end
        yield value
        number += 1


def _open_parquet(path: Path) -> pyarrow.parquet.ParquetFile:
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise _bad_parquet(path, error) from error


def class_names(path: Path) -> dict[str, list[str]]:
    """Column -> names of its integer ids, where a Parquet file that `datasets` wrote tells them."""
    try:
        features = json.loads((_open_parquet(path).schema_arrow.metadata or {})[b"huggingface"])
        columns = features["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    out = {}
    for column, feature in columns.items():
        while isinstance(feature, (dict, list)) and "names" not in feature:
            feature = feature[0] if isinstance(feature, list) and feature else feature.get("feature")  # type: ignore[union-attr]
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
            out[column] = list(map(str, feature["names"]))
    return out


def _bad_parquet(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} cannot be read as Parquet: {error}",
        expected="a complete .parquet file",
        next="copy or download it again",
    )


def parquet(path: Path, columns: tuple[str, ...] | None) -> Iterator[Record]:
    """The rows of a Parquet file, batch by batch."""
    with _open_parquet(path) as file:
        names = file.schema_arrow.names
        chosen = [c for c in columns if c in names] if columns else None
        try:
            for batch in file.iter_batches(batch_size=256, columns=chosen):
                yield from batch.to_pylist()
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise _bad_parquet(path, error) from error
