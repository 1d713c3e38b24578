"""Sources of examples: files, folders, globs, standard input, hub names and the embedded world.

    for source in open_sources(config):
        print(source.name, source.fields)
        for example in source.examples(): ...

All have one face, `Source`. What a source yields depends on its content and settings alone; `fingerprint` is
a hash of both, and the key of everything that is made from it.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from exnihilo import log
from exnihilo.config import DataConfig, SourceConfig
from exnihilo.data import cache as cached
from exnihilo.data import fields, files, tables, text
from exnihilo.data.base import SEGMENT, TEXT, Example
from exnihilo.errors import ConfigError, DataError, MissingExtra

WORLD_DOCUMENTS = 20_000
"""Stories of the source `world` where no number is given."""


class Source(ABC):
    """One source of examples.

    Attributes:
        name: unique among the sources of a configuration; names the source's loss in the metrics.
        kind: files, code, world or hub.
        fields: role -> column that was detected or set; empty for plain text.
        names: of its files (or what stands for them), in order: `_file` of an example counts them.
        skipped: reason -> count of files left out.
        size: bytes to be read, as far as is known; else None.
    """

    kind: str = "files"

    def __init__(self, config: SourceConfig, data: DataConfig, roles: Sequence[str]) -> None:
        self.path, self.config, self.roles = config.path, data, tuple(roles)
        self.name = config.name or default_name(config.path)
        self.weight = config.weight
        self.given = dict(config.fields)
        self.fields: dict[str, str] = {}
        self.names: tuple[str, ...] = ()
        self.skipped: dict[str, int] = {}
        self.size: int | None = None

    @abstractmethod
    def read(self, file: int) -> Iterator[Example]:
        """The examples of one file, in order, documents of more than `SEGMENT` characters in parts."""

    @abstractmethod
    def content(self, cache: Path, workers: int) -> object:
        """What identifies the bytes it reads (JSON-able)."""

    def examples(self) -> Iterator[Example]:
        """All examples, file by file."""
        for file in range(len(self.names)):
            yield from self.read(file)

    def fingerprint(self, cache: Path, workers: int = 1) -> str:
        """Hash of content and settings."""
        c = self.config
        return cached.digest(
            self.content(cache, workers), self.fields, self.roles, c.unit, c.separator, c.encoding, SEGMENT
        )

    def _located(self, parts: Iterator[text.Part], file: int) -> Iterator[Example]:
        """Parts of plain text as examples."""
        index = -1
        for begin, end, body in parts:
            index += begin
            example: dict[str, Any] = {"text": body, "_file": file, "_index": index}
            if not (begin and end):
                example["_begin"], example["_end"] = begin, end
            yield example

    def _mapped(self, rows: Iterator[Mapping[str, Any]], file: int, where: str) -> Iterator[Example]:
        """Records as examples, by the field mapping; those whose text is empty are left out."""
        for index, record in enumerate(rows):
            values: dict[str, Any] = {}
            for role, column in self.fields.items():
                if column not in record:
                    raise fields.missing(f"{where}, record {index + 1}", role, column, list(record))
                values[role] = record[column]
            body = values.get("text", "-")
            if body is None or body == "" or (isinstance(body, str) and body.isspace()):
                continue
            if "text" in values and not isinstance(body, str):
                raise DataError(
                    f"{where}, record {index + 1}: column {self.fields['text']!r} holds "
                    f"{type(body).__name__} {str(body)[:40]!r}",
                    expected="strings",
                    next="set fields = { text = COLUMN } in its entry of data.sources",
                )
            if len(values) == 1 and isinstance(body, str) and len(body) > SEGMENT:
                for begin, end, part in text.parts([(body, False)]):
                    yield {"text": part, "_file": file, "_index": index, "_begin": begin, "_end": end}
            else:
                yield {**values, "_file": file, "_index": index}


class FileSource(Source):
    """Files of text or records."""

    def __init__(
        self, config: SourceConfig, data: DataConfig, roles: Sequence[str], found: files.Files
    ) -> None:
        super().__init__(config, data, roles)
        self.files = found
        self.names, self.skipped = found.names, found.skipped
        self.kind = "code" if found.code else "files"
        self.size = sum(p.stat().st_size for p in found.paths)
        first = next((p for p in found.paths if found.is_table(p)), None)
        if first is not None:
            rows = list(islice(tables.records(first, encoding=data.encoding), fields.SAMPLE))
            if not rows:
                raise DataError(f"{first} has no records", expected="at least one", next="check data=PATH")
            self.fields = fields.detect(rows, roles=self.roles, given=self.given, where=str(first))
        elif set(self.roles) != set(TEXT) or self.given:
            want = ", ".join(dict.fromkeys((*self.roles, *self.given)))
            raise DataError(
                f"{config.path} is plain text, which has no columns for {want}",
                expected="files of records (.jsonl .json .csv .tsv .parquet)",
                next="remove `fields`, or give files of records",
            )

    def read(self, file: int) -> Iterator[Example]:
        path, c = self.files.paths[file], self.config
        if self.files.is_table(path):
            rows = tables.records(path, encoding=c.encoding, columns=tuple(self.fields.values()))
            return self._mapped(rows, file, str(path))
        parts = text.documents(path, encoding=c.encoding, unit=c.unit, separator=c.separator)
        return self._located(parts, file)

    def content(self, cache: Path, workers: int) -> object:
        hashes = cached.hash_files(self.files.paths, cache, os.path.abspath(self.path), workers)
        kinds = [text.plain_suffix(p) if self.files.is_table(p) else "text" for p in self.files.paths]
        packed = [p.suffix.lower() if p.suffix.lower() in (".gz", ".zst") else "" for p in self.files.paths]
        return [list(row) for row in zip(hashes, kinds, packed, strict=True)]


class WorldSource(Source):
    """The embedded world: `world` or `world:N`."""

    kind = "world"

    def __init__(self, config: SourceConfig, data: DataConfig, roles: Sequence[str]) -> None:
        super().__init__(config, data, roles)
        count = config.path.partition(":")[2]
        if count and (not count.isdigit() or int(count) < 1):
            raise ConfigError(
                f"data={config.path}: {count!r} is no number of documents",
                expected="world or world:N, N >= 1",
            )
        if set(self.roles) != set(TEXT) or self.given:
            raise ConfigError(
                f"data={config.path} yields plain text: it has no columns", next="remove `fields`"
            )
        self.count = int(count) if count else WORLD_DOCUMENTS
        self.names = ("world",)

    def read(self, file: int) -> Iterator[Example]:
        from exnihilo.world import World

        for index, document in enumerate(World(0).stories(self.count)):
            yield {"text": document.text, "_file": file, "_index": index}

    def content(self, cache: Path, workers: int) -> object:
        # the generator's own source is its content: another version may tell other stories
        import exnihilo.world

        room = Path(exnihilo.world.__path__[0])
        sources = sorted(room.rglob("*.py"))
        return ["world", self.count, *cached.hash_files(sources, cache, str(room), workers)]


class HubSource(Source):
    """`hub:owner/name[/config][:split]`, or `hub:FOLDER[:split]`, through the package `datasets`."""

    kind = "hub"

    def __init__(self, config: SourceConfig, data: DataConfig, roles: Sequence[str]) -> None:
        super().__init__(config, data, roles)
        self.names = (config.path,)
        self.rows = _load_hub(config.path)
        sample = [self.rows[i] for i in range(min(fields.SAMPLE, len(self.rows)))]
        if not sample:
            raise DataError(f"{config.path} has no records", expected="at least one", next="check its split")
        self.fields = fields.detect(sample, roles=self.roles, given=self.given, where=config.path)

    def read(self, file: int) -> Iterator[Example]:
        return self._mapped(iter(self.rows), file, self.path)

    def content(self, cache: Path, workers: int) -> object:
        arrow = [Path(f["filename"]) for f in self.rows.cache_files]
        if arrow:
            return ["hub", len(self.rows), *cached.hash_files(arrow, cache, self.path, workers)]
        return ["hub", cached.digest([list(map(str, row.items())) for row in self.rows])]


def _load_hub(path: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra.of("datasets", "hub") from error
    name, split = path.removeprefix("hub:"), "train"
    stem, colon, last = name.rpartition(":")
    if colon and "/" not in last and "\\" not in last:
        name, split = stem, last
    config = None
    if not Path(name).expanduser().exists():
        owner = name.split("/")
        if len(owner) == 3:
            name, config = "/".join(owner[:2]), owner[2]
        elif len(owner) > 3 or not all(owner):
            raise ConfigError(
                f"data={path}", expected="hub:owner/name[/config][:split], or hub:FOLDER[:split]"
            )
    else:
        name = str(Path(name).expanduser())
    try:
        loaded = datasets.load_dataset(name, config)
    except Exception as error:  # the library raises errors of many kinds; all say that it could not be had
        raise DataError(
            f"{path} could not be loaded by `datasets`: {type(error).__name__}: {error}",
            expected="a data set on the Hugging Face hub that needs no code of its own, or a local folder",
            next="check the name and the network (HF_HUB_OFFLINE), or give local files: data=PATH",
        ) from error
    if split not in loaded:
        raise DataError(
            f"{path} has no split {split!r}",
            expected=f"one of: {', '.join(map(str, loaded))}",
            next=f"{path}:SPLIT",
        )
    return loaded[split]


def default_name(path: str) -> str:
    """The name of a source where none is given: `books` of ``data/books/*.txt.gz``."""
    if path == "-":
        return "stdin"
    if path.startswith("world"):
        return "world"
    pieces = [
        p for p in path.removeprefix("hub:").replace("\\", "/").split("/") if p not in ("", ".", "..", "~")
    ]
    plain = [p for p in pieces if not any(c in p for c in "*?[")] or pieces or ["data"]
    name = plain[-1]
    for suffix in reversed(Path(name).suffixes):
        if suffix.lower() in {*tables.SUFFIXES, ".txt", ".md", ".gz", ".zst"}:
            name = name.removesuffix(suffix)
    return name


_spooled: WeakKeyDictionary[Any, Path] = WeakKeyDictionary()  # a stream can be read only once


def _standard_input(cache: Path | None) -> Path:
    stream = sys.stdin.buffer
    if stream not in _spooled:
        _spooled[stream] = cached.spool(stream, cached.folder(cache))
        log.say(f"data: standard input is kept as {_spooled[stream]}; give this path to read it again")
    return _spooled[stream]


def settle(config: DataConfig, cache: Path | None = None) -> DataConfig:
    """The configuration with standard input replaced by the file it is kept in: for runs to be resumed."""
    if not any(s.path == "-" for s in config.sources):
        return config
    kept = str(_standard_input(cache))
    sources = tuple(
        s.model_copy(update={"path": kept, "name": s.name or "stdin"}) if s.path == "-" else s
        for s in config.sources
    )
    return config.model_copy(update={"sources": sources})


def open_source(
    config: SourceConfig, data: DataConfig, *, roles: Sequence[str] = TEXT, cache: Path | None = None
) -> Source:
    """One source. Standard input is copied into the cache first, so that it can be read again."""
    path = config.path
    if path == "-":
        path = str(_standard_input(cache))
    if path == "world" or path.startswith("world:"):
        return WorldSource(config, data, roles)
    if path.startswith("hub:"):
        return HubSource(config, data, roles)
    return FileSource(config, data, roles, files.find(path, encoding=data.encoding))


def open_sources(
    config: DataConfig, *, roles: Sequence[str] = TEXT, cache: Path | None = None
) -> list[Source]:
    """The sources of a configuration, under names that differ.

    Args:
        roles: what each example must have; `text` for documents.
        cache: where standard input is kept.

    Raises:
        DataError: a source that is missing, empty, binary or has not the columns.
        ConfigError: no source is given, or two have one name.

    Example:
        >>> [s.name for s in open_sources(DataConfig(sources="world:10"))]
        ['world']
    """
    if not config.sources:
        raise ConfigError(
            "no data is given", expected="data=PATH: a file, folder, glob, -, world or hub:owner/name"
        )
    named = [s.name for s in config.sources if s.name]
    if len(set(named)) < len(named):
        raise ConfigError(f"two sources have one name: {', '.join(named)}", next="give each its own `name`")
    out: list[Source] = []
    for entry in config.sources:
        source = open_source(entry, config, roles=roles, cache=cache)
        taken, base, n = {s.name for s in out} | ({*named} - {entry.name}), source.name, 1
        while source.name in taken:
            n += 1
            source.name = f"{base}-{n}"
        out.append(source)
    return out
