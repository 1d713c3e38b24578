"""Tables whose rows may name files: a picture, a sound, both, or neither, beside columns of text.

    source = Mixed(SourceConfig(path="questions.jsonl"), DataConfig(), want)

Paths are relative to the folder of their table. A row whose file is not there, or that lacks what is needed,
is left out and counted by its reason; a row without a picture or a sound stays as it is. Rows of one picture
(without one: of one sound) stand on one side of a split, unless `data.group` names a column.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from exnihilo.config import DataConfig, SourceConfig
from exnihilo.data import cache as cached
from exnihilo.data import files, tables
from exnihilo.data.base import MEDIA, Drops, Example
from exnihilo.data.formats import choose
from exnihilo.data.roles import Mapper
from exnihilo.data.sources import FileSource, Want
from exnihilo.errors import DataError


class Mixed(FileSource):
    """A table, or a folder or glob of tables."""

    lenient = True

    def __init__(self, config: SourceConfig, data: DataConfig, want: Want) -> None:
        super().__init__(config, data, want, files.find(config.path, encoding=data.encoding, texts=False))
        self.skipped.pop("binary", None)  # the pictures and sounds themselves
        if data.group is not None:
            self.fields["group"] = data.group
        self._hashes: dict[str, str] = {}

    def read(self, file: int, drops: Drops | None = None) -> Iterator[Example]:
        path = self.paths[file]
        for example, place in self._rows(file, drops):
            group, hashes, lost = example.pop("group", None), [], ""
            for role in MEDIA:
                if role in example:
                    whole = path.parent / str(example[role])
                    if not whole.is_file():
                        lost = f"whose {role} is not there"
                        place += f": {example[role]}"
                        break
                    example[role] = str(whole.absolute())
                    example["_size"] = int(example.get("_size", 0)) + whole.stat().st_size
                    hashes.append(self._hashes.get(str(whole), example[role]))
            if lost:
                if drops is not None:
                    drops.add(lost, f"{path}, {place}")
                continue
            if hashes:
                example["_content"], example["_group"] = " ".join(hashes), hashes[0]
            if group is not None:
                example["_group"] = str(group)
            yield {**example, "_at": place}

    def _rows(self, file: int, drops: Drops | None) -> Iterator[tuple[dict[str, Any], str]]:
        """Rows by roles, as they stand in the table, each with its place."""
        path, kind = self.paths[file], self.kinds[file]
        names = tables.class_names(path) if kind == "parquet" else {}
        mapper = Mapper(self.fields, names, str(path), ())
        records: Iterator[Mapping[str, Any]] = choose.read(path, kind, self.reading, drops, lenient=True)
        for index, record in enumerate(records):
            place = f"record {index + 1}"
            try:
                example = mapper.example(record, index, file, None)
            except DataError:
                reason = "with a value of another kind than text"
                example = None
            else:
                lacking = [r for r in self.roles if example is None or r not in example]
                reason = f"without {lacking[0]}" if lacking else ""
            if example is None or reason:
                if drops is not None:
                    drops.add(reason, f"{path}, {place}")
                continue
            yield _placed(example), place

    def content(self, cache: Path, workers: int) -> object:
        if not self._hashes:
            listed = {
                str(self.paths[file].parent / str(example[role]))
                for file in range(len(self.names))
                for example, _ in self._rows(file, None)
                for role in MEDIA
                if role in example
            }
            present = [Path(p) for p in sorted(listed) if Path(p).is_file()]
            hashes = cached.hash_files(present, cache, os.path.abspath(self.path) + "#media", workers)
            self._hashes = dict(zip(map(str, present), hashes, strict=True))
        return [super().content(cache, workers), sorted(self._hashes.values()), self.config.group]


def _placed(example: dict[str, Any]) -> dict[str, Any]:
    """A file under the role that its suffix tells, where a column of another name was taken for another."""
    for role in MEDIA:
        suffix = Path(str(example.get(role, ""))).suffix.lower()
        other = next((r for r in MEDIA if r != role and suffix in MEDIA[r]), None)
        if other is not None and other not in example:
            example[other] = example.pop(role)
    return example
