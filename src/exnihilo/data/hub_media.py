"""Data sets of the hub whose rows hold sounds or pictures: `data=hub:owner/name`, `data=hub:FOLDER`.

    source = open_hub(SourceConfig(path="hub:owner/speech"), DataConfig(), want, cache)

Columns of the types Audio and Image come as the bytes of a file, or as its path (`decode=False`: torchcodec
is not needed). An example holds a path, as it does of other sources: bytes are written once to the cache,
under the name of their hash. Rows of one file stand on one side of a split; `data.group` names a column (the
speaker) that is not to stand on both.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exnihilo.config import DataConfig, SourceConfig
from exnihilo.data import cache as cached
from exnihilo.data.base import MEDIA, Drops, Example
from exnihilo.data.roles import Mapper
from exnihilo.data.sources import HubSource, Source, Want
from exnihilo.errors import ConfigError, DataError

_HEADS = {
    b"RIFF": ".wav",
    b"fLaC": ".flac",
    b"OggS": ".ogg",
    b"ID3": ".mp3",
    b"FORM": ".aiff",
    b"\x89PNG": ".png",
    b"\xff\xd8\xff": ".jpg",
    b"GIF8": ".gif",
    b"BM": ".bmp",
}
"""How files begin; MP3 without a tag does not say."""


def open_hub(config: SourceConfig, data: DataConfig, want: Want, cache: Path | None) -> Source:
    """A data set with sounds or pictures. A local folder of such files, in folders for each split or each
    label or with metadata, is read as `data=FOLDER` is: `datasets` would need torchcodec for it."""
    name, split = config.path.removeprefix("hub:"), ""
    stem, colon, last = name.rpartition(":")
    if colon and "/" not in last and "\\" not in last:
        name, split = stem, last
    folder = Path(name).expanduser()
    suffixes = frozenset().union(*(MEDIA[role] for role in MEDIA if role in (*want.roles, *want.extras)))
    if folder.is_dir() and any(path.suffix.lower() in suffixes for path in folder.rglob("*")):
        from exnihilo.data import media, mixed

        inside = folder / (split or "train")
        if split and not inside.is_dir():
            raise DataError(
                f"{config.path} has no split {split!r}",
                expected=f"a folder {inside}",
                next=f"hub:{name} or hub:{name}:SPLIT",
            )
        plain = config.model_copy(update={"path": str(inside if inside.is_dir() else folder)})
        if MEDIA.keys() & {*want.roles}:
            return media.open_media(plain, data, want)
        return mixed.Mixed(plain, data, want)
    return HubMedia(config, data, want, cache)


class HubMedia(HubSource):
    """A data set with a column of files."""

    def __init__(self, config: SourceConfig, data: DataConfig, want: Want, cache: Path | None) -> None:
        super().__init__(config, data, want)
        self.kept = cached.folder(cache) / "media"
        self.columns = {role: self.fields[role] for role in MEDIA if role in self.fields}
        self.group = data.group
        if self.group is not None and self.group not in self.rows.features:
            raise ConfigError(
                f"data.group={self.group} is no column of {config.path}",
                expected=f"one of {', '.join(self.rows.features)}",
            )

    def read(self, file: int, drops: Drops | None = None) -> Iterator[Example]:
        needed = [role for role in self.fields if role not in self.want.extras or role in self.roles]
        mapper = Mapper(self.fields, self.class_names, self.path, needed)
        for index, record in enumerate(self.rows):
            found, place, keys, size = dict(record), f"record {index + 1}", list[str](), 0
            for role, column in self.columns.items():
                path, key, name = self._file(role, record[column])
                found[column] = None if path is None else str(path.absolute())
                if path is not None:
                    keys.append(key)
                    size += path.stat().st_size
                if name:
                    place += f": {name}"
            example = mapper.example({**found, "_at": place}, index, file, drops)
            if example is None:
                continue
            if keys:
                example |= {"_content": " ".join(keys), "_group": keys[0]}
            if self.group is not None:
                example["_group"] = str(record[self.group])
            yield {**example, "_at": place, "_size": size}

    def _file(self, role: str, value: Any) -> tuple[Path | None, str, str]:
        """A cell as a file that is there, what tells it from others, and its name for messages."""
        held, name = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (None, value)
        name = str(name or "")
        if held:
            key = hashlib.sha256(held).hexdigest()
            return self._written(held, key, _suffix(role, name, held)), key, Path(name).name
        path = Path(name)
        return (path, name, path.name) if name and path.is_file() else (None, "", path.name)

    def _written(self, held: bytes, key: str, suffix: str) -> Path:
        path = self.kept / key[:2] / f"{key[:32]}{suffix}"
        if path.is_file() and path.stat().st_size == len(held):
            return path
        aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_bytes(held)
            aside.replace(path)
        except OSError as error:
            cached.write_failed(error, path)
        return path

    def content(self, cache: Path, workers: int) -> object:
        """What the rows are hashed by, and the files that stand outside of them."""
        compute: Any = importlib.import_module("pyarrow.compute")  # made at run time: unknown to checkers
        paths: set[str] = set()
        for column in self.columns.values():
            for chunk in self.rows.data.column(column).chunks:
                names = chunk
                if hasattr(chunk.type, "num_fields") and chunk.type.num_fields:
                    names = compute.struct_field(chunk, "path").filter(
                        compute.is_null(compute.struct_field(chunk, "bytes"))
                    )
                paths.update(name for name in names.to_pylist() if name)
        present = [Path(path) for path in sorted(paths) if Path(path).is_file()]
        hashes = cached.hash_files(present, cache, self.path + "#media", workers) if present else []
        return [super().content(cache, workers), hashes, self.group]


def _suffix(role: str, name: str, held: bytes) -> str:
    """That of the name, where it is one of such files; else by how the file begins."""
    own = Path(name).suffix.lower()
    if own in MEDIA[role]:
        return own
    return next((suffix for head, suffix in _HEADS.items() if held.startswith(head)), ".mp3")
