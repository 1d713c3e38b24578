"""Files that are each one example, sounds or pictures: which there are, and what is known of them.

    open_media(SourceConfig(path="recordings/"), DataConfig(pattern="{label}_{speaker}_{take}"), want)

Four layouts:

    a folder, a glob or one file    the label is the name of the folder that a file stands in, or a part of
                                    its name by `data.pattern`; a text stands in a file of the same name
                                    with the suffix .txt
    a manifest                      a table (.csv .tsv .jsonl .json .parquet) with a column of paths, which
                                    are relative to the manifest's folder
    a folder with metadata.csv,     the same (.jsonl, .tsv): the layout of Hugging Face's audiofolder and
    metadata.jsonl                  imagefolder
    a .tar, an idx file             pictures inside one file (`archives`, `bundles`): as in a folder; the
                                    labels of train-images-idx3-ubyte.gz stand in train-labels-idx1-ubyte.gz

An example holds the path; what reads the file is the codec, in the threads that encode. A file's content is
part of the source's fingerprint, and tells which files occur twice. `data.group` names the part of a name (or
the column) that is not to stand on both sides of the split: the speaker, the recording.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from exnihilo.config import DataConfig, SourceConfig
from exnihilo.data import archives, files, tables
from exnihilo.data import cache as cached
from exnihilo.data.base import MEDIA, Drops, Example
from exnihilo.data.sources import FileSource, Source, Want
from exnihilo.data.text import plain_suffix
from exnihilo.errors import ConfigError, DataError

MEMBER = 4096
"""Bytes that a picture inside an archive is taken for while batches are made."""
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.tsv")
_FIELD = re.compile(r"\{(\w+)\}")


def open_media(config: SourceConfig, data: DataConfig, want: Want) -> Source:
    """A source of files that are each one example.

    Raises:
        DataError: there is none, or the files tell nothing of a role that is needed.
        ConfigError: a pattern that is none, or has not the parts that are named.
    """
    role = next(role for role in want.roles if role in MEDIA)
    path = Path(config.path).expanduser()
    if role == "picture":
        from exnihilo.data import bundles

        if (found := bundles.find(path)) is not None:
            return bundles.open_bundle(config, data, want, role, found)
    if path.is_file() and plain_suffix(path) in tables.SUFFIXES:
        return Manifest(config, data, want, role, path)
    if path.is_dir() and data.pattern is None:
        found = next((path / name for name in METADATA if (path / name).is_file()), None)
        if found is not None:
            return Manifest(config, data, want, role, found)
    return Folder(config, data, want, role)


class Entry(NamedTuple):
    """One file of a folder, or of an archive.

    Attributes:
        path: what an example holds. name: relative to the folder. size: in bytes.
        known: what is known of it already, by part.
    """

    path: str
    name: str
    size: int
    known: Mapping[str, str] = {}


class Folder(Source):
    """A folder, a glob or a single file; of archives see `bundles`."""

    def __init__(self, config: SourceConfig, data: DataConfig, want: Want, role: str) -> None:
        super().__init__(config, data, want)
        self.role = role
        found, self.skipped = self._entries()
        pattern = None if data.pattern is None else compiled(data.pattern)
        self.known: list[dict[str, str]] = []
        self.entries: list[Entry] = []
        for entry in found:
            name = PurePosixPath(entry.name)
            folder = name.parent.name or Path(entry.path).parent.name
            told = {"folder": folder, "name": name.stem, **entry.known}
            if pattern is not None:
                stem = name.with_suffix("").as_posix()
                match = pattern.fullmatch(stem if "/" in (data.pattern or "") else name.stem)
                if match is None:
                    key = "of another name than data.pattern"
                    self.skipped[key] = self.skipped.get(key, 0) + 1
                    continue
                told |= match.groupdict()
            self.known.append(told)
            self.entries.append(entry)
        if not self.entries:
            raise DataError(
                f"none of {len(found):,} files is named as data.pattern={data.pattern!r} says",
                expected=f"names like it; found e.g. {found[0].name}",
                next='a pattern of the name without its suffix, e.g. data.pattern="{label}_{speaker}_{take}"',
            )
        self.names = tuple(entry.name for entry in self.entries)
        self.size = sum(entry.size for entry in self.entries)
        self.format = f"{len(self.names):,} {role}s"
        self.fields = {role: "file", **self._fields(data)}
        if data.group is not None and data.group not in self.known[0]:
            raise ConfigError(
                f"data.group={data.group} is no part of the files' names",
                expected=f"one of {', '.join(self.known[0])}",
                next="name it in data.pattern",
            )
        self._group = data.group
        self._hashes: list[str] = []

    def _entries(self) -> tuple[list[Entry], dict[str, int]]:
        """The files there are, and what was left out, by reason."""
        paths, names, skipped = _listed(self.path, self.role)
        entries = [
            Entry(str(p.absolute()), name, p.stat().st_size) for p, name in zip(paths, names, strict=True)
        ]
        return entries, skipped

    def _beside(self, file: int) -> Path:
        return Path(self.entries[file].path).with_suffix(".txt")

    def _has_text(self, file: int) -> bool:
        """Whether a text of the same name stands beside a file."""
        return self._beside(file).is_file()

    def _text(self, file: int) -> str | None:
        """That text."""
        if not self._has_text(file):
            return None
        return self._beside(file).read_text(encoding=self.config.encoding, errors="replace")

    def _fields(self, data: DataConfig) -> dict[str, str]:
        """Role -> what of a file tells it."""
        told = self.known[0]
        found: dict[str, str] = {}
        folders = len({known["folder"] for known in self.known}) > 1
        for role in (*self.roles, *(r for r in self.want.extras if r not in self.roles)):
            if role == self.role or role == "record":
                continue
            given = self.given.get(role)
            if given is not None and given not in told:
                raise ConfigError(
                    f"data.fields sets {role}={given}, which is no part of the files' names",
                    expected=f"one of {', '.join(told)}",
                    next="name it in data.pattern",
                )
            if given is not None or role in told:
                found[role] = given or role
            elif role in ("text", "events") and any(map(self._has_text, range(len(self.entries)))):
                found[role] = ".txt beside it"
            elif role == "label" and folders:
                found[role] = "folder"
            elif role in self.roles:
                raise DataError(
                    f"{self.path}: nothing tells the {role} of {self.entries[0].name}",
                    expected=f"{self._how(role)}, a part of the files' names, or a table",
                    next=f'data.pattern="{{{role}}}_{{take}}", or a table that has {self.role} and {role}',
                )
        return found

    def _how(self, role: str) -> str:
        """Where a role is looked for."""
        return "a folder for each" if role == "label" else "a .txt of the same name beside each file"

    def read(self, file: int, drops: Drops | None = None) -> Iterator[Example]:
        entry, told = self.entries[file], self.known[file]
        example: dict[str, Any] = {self.role: entry.path}
        for role, source in self.fields.items():
            if role == self.role:
                continue
            if source != ".txt beside it":
                example[role] = told[source]
                continue
            body = self._text(file)
            if body is None:
                if role in self.roles:
                    if drops is not None:
                        drops.add("without a .txt beside it", entry.name)
                    return
                continue
            example[role] = _audacity(body) if role == "events" else body.strip()
        content = self._content(file)
        group = told[self._group] if self._group is not None else (content or entry.name)
        example |= {"_group": group, "_file": file, "_index": 0, "_at": "", "_size": entry.size}
        if content:
            example["_content"] = content
        yield example

    def _content(self, file: int) -> str:
        return self._hashes[file] if self._hashes else ""

    def content(self, cache: Path, workers: int) -> object:
        where = os.path.abspath(self.path)
        if not self._hashes:
            paths = [Path(entry.path) for entry in self.entries]
            self._hashes = cached.hash_files(paths, cache, where, workers)
        texts = ".txt beside it" in self.fields.values()
        present = [self._beside(n) for n in range(len(self.entries)) if texts and self._has_text(n)]
        beside = cached.hash_files(present, cache, where + "#texts", workers) if present else []
        told = [[known.get(name, "") for name in sorted(known)] for known in self.known]
        return [list(row) for row in zip(self._hashes, told, strict=True)] + [beside, self._group]


class Manifest(FileSource):
    """A table with a column of paths."""

    def __init__(self, config: SourceConfig, data: DataConfig, want: Want, role: str, path: Path) -> None:
        self.role, self.folder = role, path.parent
        wanted = Want(want.roles, want.extras, want.view)
        super().__init__(config, data, wanted, files.Files((path,), (path.name,)))
        if data.group is not None:
            self.fields["group"] = data.group
        self._hashes: dict[str, str] = {}
        self._below: dict[str, list[Path]] | None = None

    def _found(self, name: str) -> Path:
        """The file that a cell names: from the table's folder; a bare name also in the folders below, where
        one file has it."""
        path = self.folder / name
        if path.name != name or path.is_file() or archives.parted(str(path)) is not None:
            return path
        if self._below is None:
            self._below = {}
            for other in files.walk(self.folder):
                if other.suffix.lower() in MEDIA[self.role]:
                    self._below.setdefault(other.name, []).append(other)
        known = self._below.get(name, [])
        return known[0] if len(known) == 1 else path

    def read(self, file: int, drops: Drops | None = None) -> Iterator[Example]:
        for given in super().read(file, drops):
            example = dict(given)
            group = example.pop("group", None)
            path = self._found(example[self.role])
            inside = archives.parted(str(path))
            if not (path if inside is None else inside[0]).is_file():
                if drops is not None:
                    drops.add("whose file is not there", f"{self.paths[file]}, {example[self.role]}")
                continue
            place = f"record {int(example['_index']) + 1}: {example[self.role]}"
            size = path.stat().st_size if inside is None else MEMBER
            example |= {self.role: str(path.absolute()), "_at": place, "_size": size}
            if content := self._hashes.get(str(path)):
                example["_content"] = content if inside is None else f"{content}{archives.MARK}{inside[1]}"
            same = example.get("_content", path.name)
            example["_group"] = same if group is None else str(group)
            yield example

    def content(self, cache: Path, workers: int) -> object:
        if not self._hashes:
            listed: set[str] = set()
            for file in range(len(self.names)):
                for example in super().read(file):
                    listed.add(str(self._found(example[self.role])))
            parted = {name: archives.parted(name) for name in listed}
            held = {name: str(part[0]) if part else name for name, part in parted.items()}
            present = [Path(p) for p in sorted(set(held.values())) if Path(p).is_file()]
            hashes = cached.hash_files(present, cache, os.path.abspath(self.path) + "#media", workers)
            known = dict(zip(map(str, present), hashes, strict=True))
            self._hashes = {name: known[file] for name, file in held.items() if file in known}
        return [super().content(cache, workers), sorted(self._hashes.values())]


def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern of names as a regular expression: ``{part}`` is as short as it can be, the rest is itself.

    Raises:
        ConfigError: it names no part, or one twice.

    Example:
        >>> compiled("{label}_{speaker}_{take}").fullmatch("7_theo_12").groupdict()
        {'label': '7', 'speaker': 'theo', 'take': '12'}
    """
    parts = _FIELD.findall(pattern)
    if not parts or len(set(parts)) < len(parts):
        raise ConfigError(
            f"data.pattern={pattern!r} names {'no part' if not parts else 'a part twice'}",
            expected='parts in braces, each once, e.g. "{label}_{speaker}_{take}"',
        )
    out, at = "", 0
    for field in _FIELD.finditer(pattern):
        out += re.escape(pattern[at : field.start()]) + f"(?P<{field[1]}>[^/]+?)"
        at = field.end()
    return re.compile(out + re.escape(pattern[at:]))


def _listed(path: str, role: str) -> tuple[list[Path], list[str], dict[str, int]]:
    """The files of a role that a path stands for, their relative names, and what was left out."""
    root = Path(path).expanduser()
    if root.is_file():
        return [root], [root.name], {}
    if root.is_dir():
        found, base = sorted(files.walk(root)), root
    elif glob.has_magic(path):
        found = sorted({Path(p) for p in glob.glob(str(root), recursive=True) if Path(p).is_file()})
        if not found:
            raise DataError(f"nothing matches {path}", expected="a glob of files", next="check data=GLOB")
        base = Path(os.path.commonpath([p.parent for p in found]))
    else:
        files.find(path)  # says what is wrong with it
        raise DataError(f"no such file or folder: {path}", next="check data=PATH")
    kept = [p for p in found if p.suffix.lower() in MEDIA[role]]
    if not kept:
        raise DataError(
            f"{path} has no file of a {role}: {len(found):,} files of other kinds",
            expected=" ".join(sorted(MEDIA[role])) + ", or a table with their paths",
            next="check data=PATH",
        )
    others = [p for p in found if p.suffix.lower() not in MEDIA[role] and p.suffix.lower() != ".txt"]
    skipped = {f"that are no {role}s": len(others)} if others else {}
    return kept, [p.relative_to(base).as_posix() for p in kept], skipped


def _audacity(body: str) -> list[dict[str, Any]]:
    """Events from lines of ``start TAB end TAB label``, as Audacity exports them; bad lines are left out."""
    out: list[dict[str, Any]] = []
    for line in body.splitlines():
        cells = line.split("\t")
        if len(cells) < 3:
            continue
        try:
            out.append({"start": float(cells[0]), "end": float(cells[1]), "label": cells[2].strip()})
        except ValueError:
            continue
    return out
