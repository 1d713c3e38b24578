"""The items of a suite from files: records of .jsonl .json .csv .tsv .parquet and hub names, or documents.

for place, record in records(DataConfig(sources="test.jsonl"), drops): ...
for place, text in documents(DataConfig(sources="books/"), drops): ...

What cannot be read is left out and counted in `drops`, with its reason, its file and its row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

from exnihilo.config import DataConfig, SourceConfig
from exnihilo.data import files, hub, tables
from exnihilo.data.base import Drops, begins, ends
from exnihilo.data.formats import choose
from exnihilo.data.formats.reading import Reading
from exnihilo.data.sources import open_sources, settle
from exnihilo.data.text import plain_suffix
from exnihilo.errors import ConfigError, DataError

Record = dict[str, Any]
T = TypeVar("T")
READING = ("sources", "unit", "separator", "encoding", "format", "columns", "header", "quotes", "fields")
"""The keys under `data` that suites obey."""


def is_world(data: DataConfig) -> bool:
    """Whether the data is the embedded world."""
    return any(s.path == "world" or s.path.startswith("world:") for s in data.sources)


def world_count(data: DataConfig, default: int) -> int:
    """N of ``world:N``.

    Raises:
        ConfigError: the world beside other data, or one of its views.
    """
    path = data.sources[0].path
    count = path.removeprefix("world").removeprefix(":")
    if len(data.sources) > 1 or data.fields or (count and (not count.isdigit() or int(count) < 1)):
        raise ConfigError(
            f"data={', '.join(s.path for s in data.sources)} for a suite",
            expected="world or world:N alone, N >= 1: held-out items of the embedded world",
            next="leave data= out, or give files",
        )
    return int(count) if count else default


def records(data: DataConfig, drops: Drops) -> Iterator[tuple[str, Record]]:
    """(place, record) of all sources in order, with `data.fields` obeyed: ``{role: column}`` renames.

    Raises:
        DataError: no such file, no records in it, or a format that has none.
    """
    for source in settle(data).sources:
        if source.path.startswith("hub:"):
            rows = hub.load(source.path)
            for number in range(len(rows)):
                yield from _named(dict(rows[number]), f"{source.path}, row {number + 1}", data, source, drops)
            continue
        yield from _of_files(data, source, drops)


def _of_files(data: DataConfig, source: SourceConfig, drops: Drops) -> Iterator[tuple[str, Record]]:
    reading = Reading.of(data)
    for path in files.find(source.path, encoding=data.encoding, texts=False).paths:
        kind = choose.choose(path, roles=("question", "answer"), setting=data.format, reading=reading)
        if kind is None or kind == "text":
            raise DataError(
                f"{path} is plain text, which has no columns",
                expected="records: .jsonl .json .csv .tsv .parquet",
                next="docs/eval.md has the shapes; or data.format=records",
            )
        found = choose.read(path, kind, reading, drops, None, lenient=True)
        for number, record in enumerate(found, 1):
            at = record.get("_at", f"record {number}")
            yield from _named(dict(record), f"{path}, {at}", data, source, drops)


def _named(
    record: Record, place: str, data: DataConfig, source: SourceConfig, drops: Drops
) -> Iterator[tuple[str, Record]]:
    for role, column in {**data.fields, **source.fields}.items():
        if column not in record:
            drops.add(f"without the column {column!r}", place)
            return
        record[role] = record[column]
    yield place, record


def usable(found: Iterable[tuple[str, T | str]], drops: Drops, what: str = "records") -> Iterator[T]:
    """Of (place, item, or why there is none) the items; the others are counted."""
    for place, item in found:
        if isinstance(item, str):
            drops.add(f"{what} {item}", place)
        else:
            yield item


def documents(data: DataConfig, drops: Drops) -> Iterator[tuple[str, str]]:
    """(place, text) of all documents in order; long ones whole.

    Raises:
        DataError: what cannot be read as text.
    """
    for source in open_sources(settle(data)):
        held: list[str] = []
        for example in source.examples(drops):
            held = [example["text"]] if begins(example) else [*held, example["text"]]
            if ends(example):
                file, index = int(example.get("_file", 0)), int(example.get("_index", 0))
                yield f"{source.names[file]}, document {index + 1}", "".join(held)
                held = []


def first(record: Mapping[str, Any], *names: str) -> Any:
    """The first of these columns that a record has, without regard to case; None where it has none."""
    low = {str(key).lower(): value for key, value in record.items()}
    return next((low[name] for name in names if low.get(name) is not None), None)


def only_text(data: DataConfig) -> bool:
    """Whether all that the data names is plain text, so that it has documents and no records."""
    if data.format == "text":
        return True
    if data.format != "auto" or any(s.path.startswith("hub:") for s in data.sources):
        return False
    paths = [p for s in settle(data).sources for p in files.find(s.path, encoding=data.encoding).paths]
    return not any(plain_suffix(path) in tables.SUFFIXES for path in paths)


def taken(items: Iterable[T], most: int | None) -> Iterator[T]:
    """The first `most` items; those behind are not even read."""
    return islice(items, most)
