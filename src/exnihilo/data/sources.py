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
from typing import Any, NamedTuple, NoReturn
from weakref import WeakKeyDictionary

from exnihilo import log
from exnihilo.config import DataConfig, SourceConfig
from exnihilo.data import cache as cached
from exnihilo.data import fields, files, hub, layout_names, layouts, tables, text
from exnihilo.data.base import MEDIA, SEGMENT, TEXT, Drops, Example
from exnihilo.data.formats import choose
from exnihilo.data.formats.reading import Reading
from exnihilo.data.roles import Mapper
from exnihilo.data.split import inputs_hash
from exnihilo.errors import ConfigError, DataError, nearest

WORLD_DOCUMENTS = 20_000
"""Stories of the source `world` where no number is given."""


class Want(NamedTuple):
    """What examples are to have: roles; extras, where the data has them; and the world's view of them."""

    roles: tuple[str, ...]
    extras: tuple[str, ...] = ()
    view: str = "stories"


class Source(ABC):
    """One source of examples.

    Attributes:
        name: unique among the sources of a configuration; names the source's loss in the metrics.
        kind: files, code, world or hub.
        fields: role -> column that was detected or set; empty for plain text.
        names: of its files (or what stands for them), in order: `_file` of an example counts them.
        skipped: reason -> count of files left out.
        size: bytes to be read, as far as is known; else None.
        format: what files are read as, where their suffix does not tell.
        told: where examples say their side of the split themselves: how, in words.
    """

    kind: str = "files"
    told: str = ""

    def __init__(self, config: SourceConfig, data: DataConfig, want: Want) -> None:
        self.path, self.config, self.want = config.path, data, want
        self.roles = want.roles
        self.name = config.name or default_name(config.path)
        self.weight = config.weight
        self.given = {**data.fields, **config.fields}
        self.fields: dict[str, str] = {}
        self.names: tuple[str, ...] = ()
        self.skipped: dict[str, int] = {}
        self.size: int | None = None
        self.format = ""
        self.talks = layouts.is_talk(want.roles)
        self.layouts: tuple[layouts.Layout, ...] = ()  # of its files, where they are conversations

    @abstractmethod
    def read(self, file: int, drops: Drops | None = None) -> Iterator[Example]:
        """The examples of one file, in order, documents of more than `SEGMENT` characters in parts.

        Args:
            drops: counts the records that are left out.
        """

    @abstractmethod
    def content(self, cache: Path, workers: int) -> object:
        """What identifies the bytes it reads (JSON-able)."""

    def examples(self, drops: Drops | None = None) -> Iterator[Example]:
        """All examples, file by file."""
        for file in range(len(self.names)):
            yield from self.read(file, drops)

    def fingerprint(self, cache: Path, workers: int = 1) -> str:
        """Hash of content and settings."""
        c, w = self.config, self.want
        settings = (c.unit, c.separator, c.encoding, c.columns, c.header, c.quotes, SEGMENT)
        content = self.content(cache, workers)
        if self.layouts:
            settings = (*settings, [repr(layout) for layout in self.layouts])
        return cached.digest(content, self.fields, w.roles, w.extras, w.view, *settings)

    def _located(self, parts: Iterator[text.Part], file: int) -> Iterator[Example]:
        """Parts of plain text as examples."""
        index = -1
        for begin, end, body in parts:
            index += begin
            example: dict[str, Any] = {"text": body, "_file": file, "_index": index}
            if not (begin and end):
                example["_begin"], example["_end"] = begin, end
            yield example

    def _mapped(
        self,
        rows: Iterator[Mapping[str, Any]],
        file: int,
        where: str,
        drops: Drops | None,
        names: Mapping[str, Sequence[str]],
    ) -> Iterator[Example]:
        """Records as examples, by the field mapping; a long document in parts."""
        if self.talks:
            talks = layouts.Talks(self.layouts[file], self.roles, self.want.extras, where)
            for index, record in enumerate(rows):
                yield from talks.examples(record, index, file, drops)
            return
        needed = [role for role in self.fields if role not in self.want.extras or role in self.roles]
        mapper = Mapper(self.fields, names, where, needed)
        alone = set(self.fields) == {"text"}
        for index, record in enumerate(rows):
            example = mapper.example(record, index, file, drops)
            if example is None:
                continue
            if alone and len(example["text"]) > SEGMENT:
                for begin, end, part in text.parts([(example["text"], False)]):
                    yield {"text": part, "_file": file, "_index": index, "_begin": begin, "_end": end}
            else:
                yield example


class FileSource(Source):
    """Files of text or records.

    Attributes:
        lenient: lines of JSON that are no records are counted, not an error.
    """

    lenient: bool = False

    def __init__(self, config: SourceConfig, data: DataConfig, want: Want, found: files.Files) -> None:
        super().__init__(config, data, want)
        self.reading = Reading.of(data)
        kinds = [
            choose.choose(p, roles=want.roles, setting=data.format, reading=self.reading, code=found.code)
            for p in found.paths
        ]
        self.skipped = dict(found.skipped)
        if all(kind is None for kind in kinds):
            self._refuse(found.paths[0])
        kept = [i for i, kind in enumerate(kinds) if kind is not None]
        if self.talks:
            these = [found.paths[i] for i in kept], [str(kinds[i]) for i in kept]
            known = layout_names.of_files(
                *these, self.reading, wanted=want.roles, given=self.given, extras=want.extras
            )
            kept = [i for i, layout in zip(kept, known, strict=True) if layout is not None]
            self.layouts = tuple(layout for layout in known if layout is not None)
        if lost := len(kinds) - len(kept):
            self.skipped["of no known format"] = lost
        self.paths = tuple(found.paths[i] for i in kept)
        self.names = tuple(found.names[i] for i in kept)
        self.kinds = tuple(str(kinds[i]) for i in kept)
        self.kind = "code" if found.code else "files"
        self.size = sum(p.stat().st_size for p in self.paths)
        shown = (choose.said(p, k) for p, k in zip(self.paths, self.kinds, strict=True))
        self.format = ", ".join(sorted({s for s in shown if s}))
        if self.talks:
            self._talk()
            return
        first = next((i for i, kind in enumerate(self.kinds) if kind != "text"), None)
        if first is not None:
            path, lost_rows = self.paths[first], Drops()
            found_rows = choose.read(path, self.kinds[first], self.reading, lost_rows, lenient=self.lenient)
            rows = list(islice(found_rows, fields.SAMPLE))
            if not rows:
                raise DataError(
                    f"{path} has no records{lost_rows.summary(' (', ')')}",
                    expected="at least one",
                    next="check data=PATH",
                )
            self.fields = fields.detect(
                rows, roles=self.roles, given=self.given, where=str(path), extras=want.extras
            )
        elif set(self.roles) != set(TEXT) or self.given:
            self._refuse(self.paths[0])

    def _talk(self) -> None:
        """What is shown of conversations."""
        self.format = ", ".join(
            dict.fromkeys((*(y.name for y in self.layouts), *filter(None, [self.format])))
        )
        self.fields = {
            role: " or ".join(
                dict.fromkeys(f[role] for f in map(layouts.Layout.fields, self.layouts) if role in f)
            )
            for role in dict.fromkeys(role for layout in self.layouts for role in layout.fields())
        }

    def _refuse(self, path: Path) -> NoReturn:
        columns = ", ".join(dict.fromkeys((*self.roles, *self.given)))
        raise DataError(
            f"{path} is plain text, which has no columns for {columns}",
            expected="files of records (.jsonl .json .csv .tsv .parquet), SQuAD JSON, CoNLL or CoNLL-U "
            "columns, tab-separated cells, or lines of LABEL TEXT",
            next="give such files, or say what it is: data.format=records, squad, conll, conllu or labelled",
        )

    def read(self, file: int, drops: Drops | None = None) -> Iterator[Example]:
        path, kind, c = self.paths[file], self.kinds[file], self.config
        if kind != "text":
            columns = {n for column in self.fields.values() for n in (column, *fields.parts(column, ()))}
            only = tuple(columns | {"title", "is_impossible", "answer_start"})
            names = tables.class_names(path) if kind == "parquet" else {}
            rows = choose.read(
                path, kind, self.reading, drops, None if self.talks else only, lenient=self.talks
            )
            return self._mapped(rows, file, str(path), drops, names)
        parts = text.documents(path, encoding=c.encoding, unit=c.unit, separator=c.separator)
        return self._located(parts, file)

    def content(self, cache: Path, workers: int) -> object:
        hashes = cached.hash_files(self.paths, cache, os.path.abspath(self.path), workers)
        suffixes = [
            text.plain_suffix(p) if k == "table" else "" for p, k in zip(self.paths, self.kinds, strict=True)
        ]
        packed = [p.suffix.lower() if p.suffix.lower() in (".gz", ".zst") else "" for p in self.paths]
        return [list(row) for row in zip(hashes, self.kinds, suffixes, packed, strict=True)]


class WorldSource(Source):
    """The embedded world: `world[:N][:VIEW[:KIND]]`."""

    kind = "world"

    def __init__(self, config: SourceConfig, data: DataConfig, want: Want) -> None:
        from exnihilo.world import views

        super().__init__(config, data, want)
        count, view, kind = "", want.view, ""
        for part in config.path.split(":")[1:]:
            if part in views.VIEWS and not kind:
                view = part
            elif view in views.VIEWS and part in views.VIEWS[view].kinds and not kind:
                kind = part
            elif count or not part.isdigit() or int(part) < 1:
                raise ConfigError(
                    f"data={config.path}: {part!r} is no number of documents, and no view",
                    expected=f"world, world:N, world:VIEW or world:N:VIEW, N >= 1; "
                    f"views: {', '.join(views.VIEWS)}"
                    + "".join(
                        f"; kinds of {v}: {', '.join(x.kinds)}"
                        for v, x in views.VIEWS.items()
                        if v == view and x.kinds
                    ),
                )
            else:
                count = part
        if view not in views.VIEWS:
            raise ConfigError(f"the world has no view {view!r}", expected=nearest(view, views.VIEWS))
        if self.given:
            raise ConfigError(f"data={config.path} has no columns to choose from", next="remove `fields`")
        self.view, self.documents = view, views.VIEWS[view]
        if kind:
            self.documents = self.documents.of(kind)
        self.kind_of_view = kind
        has = layouts.given_by(self.documents.roles) if self.talks else self.documents.roles
        lacking = [role for role in self.roles if role not in has]
        if lacking:
            raise ConfigError(
                f"data={config.path}: the world's view {view!r} has no {', '.join(lacking)}",
                expected=f"its roles: {', '.join(self.documents.roles)}",
                next="data=world:VIEW with another view: " + ", ".join(views.VIEWS),
            )
        self.count = int(count) if count else self.documents.count or WORLD_DOCUMENTS
        self.names = ("world",)
        self.format = "" if view == "stories" else f"its view {view!r}" + (f", {kind} alone" if kind else "")

    def read(self, file: int, drops: Drops | None = None) -> Iterator[Example]:
        from exnihilo.world import World

        wanted = {*self.roles, *self.want.extras}
        told: set[int] = set()
        index = 0
        for document in self.documents.documents(World(0), self.count):
            for values in self.documents.make(document):
                if self.documents.once:  # else it could stand on both sides of the split
                    if (inputs := inputs_hash(values)) in told:
                        if drops is not None:
                            drops.add("that an earlier story told", f"{self.path}, story {document.index}")
                        continue
                    told.add(inputs)
                for example in layouts.derive(values, wanted) if self.talks else (values,):
                    found = {role: value for role, value in example.items() if role in wanted}
                    if self.view != "stories":  # a group a story, the same in all views
                        found["_group"] = values.get("_group", document.text)
                    yield {**found, "_file": file, "_index": index}
                    index += 1

    def content(self, cache: Path, workers: int) -> object:
        # the generator's own source is its content: another version may tell other stories
        import exnihilo.world

        room = Path(exnihilo.world.__path__[0])
        sources = sorted(room.rglob("*.py"))
        return [
            "world",
            self.count,
            self.view,
            self.kind_of_view,
            *cached.hash_files(sources, cache, str(room), workers),
        ]


class HubSource(Source):
    """`hub:owner/name[/config][:split]`, or `hub:FOLDER[:split]`, through the package `datasets`."""

    kind = "hub"

    def __init__(self, config: SourceConfig, data: DataConfig, want: Want) -> None:
        super().__init__(config, data, want)
        self.names = (config.path,)
        self.rows = hub.load(config.path)
        held = {r: c for r, c in hub.media(self.rows.features).items() if r in (*want.roles, *want.extras)}
        self.given = {**held, **self.given}
        sample = [self.rows[i] for i in range(min(fields.SAMPLE, len(self.rows)))]
        if not sample:
            raise DataError(f"{config.path} has no records", expected="at least one", next="check its split")
        if self.talks:
            layout = layout_names.detect(
                sample, wanted=self.roles, given=self.given, where=config.path, extras=want.extras
            )
            self.layouts, self.fields, self.format = (layout,), layout.fields(), layout.name
        else:
            self.fields = fields.detect(
                sample, roles=self.roles, given=self.given, where=config.path, extras=want.extras
            )
        self.class_names = hub.class_names(self.rows.features)

    def read(self, file: int, drops: Drops | None = None) -> Iterator[Example]:
        return self._mapped(iter(self.rows), file, self.path, drops, self.class_names)

    def content(self, cache: Path, workers: int) -> object:
        arrow = [Path(f["filename"]) for f in self.rows.cache_files]
        if arrow:
            return ["hub", len(self.rows), *cached.hash_files(arrow, cache, self.path, workers)]
        return ["hub", cached.digest([list(map(str, row.items())) for row in self.rows])]


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


def inherit(val: DataConfig, data: DataConfig) -> DataConfig:
    """The validation data's settings; how files are read is as for `data` where it says nothing."""
    plain = DataConfig()
    keys = ("format", "columns", "header", "quotes", "fields", "pattern", "group")
    kept = {k: getattr(data, k) for k in keys if getattr(val, k) == getattr(plain, k)}
    return val.model_copy(update=kept)


def open_source(
    config: SourceConfig,
    data: DataConfig,
    *,
    roles: Sequence[str] = TEXT,
    extras: Sequence[str] = (),
    view: str = "stories",
    cache: Path | None = None,
) -> Source:
    """One source. Standard input is copied into the cache first, so that it can be read again."""
    path, want = config.path, Want(tuple(roles), tuple(extras), view)
    if path == "-":
        path = str(_standard_input(cache))
    if path == "world" or path.startswith("world:"):
        return WorldSource(config, data, want)
    if path.startswith("recall:"):
        from exnihilo.data.recalls import RecallSource

        return RecallSource(config, data, want)
    if path.startswith("hub:") and MEDIA.keys() & {*want.roles, *want.extras}:
        from exnihilo.data import hub_media

        return hub_media.open_hub(config, data, want, cache)
    if path.startswith("hub:"):
        return HubSource(config, data, want)
    if "series" in want.roles:
        from exnihilo.data import series

        return series.open_series(config, data, want)
    if data.format == "bytes" or (path.lower().endswith(".npy") and set(want.roles) <= set(TEXT)):
        from exnihilo.data import raw

        return (raw.Bytes if data.format == "bytes" else raw.Ids)(config, data, want)
    if MEDIA.keys() & {*want.roles}:
        from exnihilo.data import media

        return media.open_media(config, data, want)
    if MEDIA.keys() & {*want.extras}:
        from exnihilo.data import mixed

        return mixed.Mixed(config, data, want)
    documents = set(want.roles) <= set(TEXT) and data.format in ("auto", "text")
    return FileSource(config, data, want, files.find(path, encoding=data.encoding, texts=documents))


def open_sources(
    config: DataConfig,
    *,
    roles: Sequence[str] = TEXT,
    extras: Sequence[str] = (),
    view: str = "stories",
    cache: Path | None = None,
) -> list[Source]:
    """The sources of a configuration, under names that differ.

    Args:
        roles: what each example must have; `text` for documents.
        extras: roles that are read where the data has them.
        view: which view of the embedded world gives these roles.
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
        source = open_source(entry, config, roles=roles, extras=extras, view=view, cache=cache)
        taken, base, n = {s.name for s in out} | ({*named} - {entry.name}), source.name, 1
        while source.name in taken:
            n += 1
            source.name = f"{base}-{n}"
        out.append(source)
    return out
