"""Files that are no text: any file as its bytes, and arrays of ids of the user's own vocabulary.

    Ids(SourceConfig(path="ids.npy"), DataConfig(), want)                # documents of decimal numbers
    Bytes(SourceConfig(path="song.wav"), DataConfig(format="bytes"), want)

Both give documents of text, which is what the room knows how to split, cut, hash, compare and cache. Ids are
written as decimal numbers with spaces between (`codec.kind=ids` reads them back); bytes are decoded as UTF-8
where they are, and the others become surrogates (Python's ``surrogateescape``, PEP 383), which
`codec.kind=bytes` turns back into the very bytes.

Ids: a .npy file of whole numbers. One dimension is one stream; two are a document a row. `data.separator` is
an id that ends a document and is left out (the end mark takes its place); rows of unequal length are filled
with it.
"""

from __future__ import annotations

import codecs
import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from exnihilo.config import DataConfig, SourceConfig
from exnihilo.data import cache as cached
from exnihilo.data import files
from exnihilo.data.base import BLOCK, TEXT, Drops, Example
from exnihilo.data.sources import Source, Want
from exnihilo.errors import ConfigError, DataError

ARRAY = ".npy"
MOST = 1 << 20
"""Ids that a vocabulary may have."""
_IDS = 100_000  # of one part of a document: about half a megabyte of numbers


def is_ids(path: str) -> bool:
    """Whether a path names arrays: a file or a glob that ends in .npy."""
    return path.lower().endswith(ARRAY)


class _Files(Source):
    """What both have in common: a file, a folder or a glob."""

    def __init__(self, config: SourceConfig, data: DataConfig, want: Want, suffix: str = "") -> None:
        super().__init__(config, data, want)
        if not set(want.roles) <= set(TEXT):
            raise DataError(
                f"{config.path} has no columns for {', '.join(want.roles)}",
                expected="a table (.jsonl .csv .tsv .parquet)",
                next="ids and bytes alone are for next-token and masked-token training",
            )
        self.paths, self.names = _listed(config.path, suffix)
        self.size = sum(path.stat().st_size for path in self.paths)

    def content(self, cache: Path, workers: int) -> object:
        hashes = cached.hash_files(self.paths, cache, os.path.abspath(self.path), workers)
        return [type(self).__name__, self.format, *hashes]


def _listed(path: str, suffix: str) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    root = Path(path).expanduser()
    if root.is_file():
        found, base = [root], root.parent
    elif root.is_dir():
        found, base = sorted(files.walk(root)), root
    elif glob.has_magic(path):
        found = sorted({Path(p) for p in glob.glob(str(root), recursive=True) if Path(p).is_file()})
        base = Path(os.path.commonpath([p.parent for p in found])) if found else root
    else:
        files.find(path)  # says what is wrong with it
        raise DataError(f"{path} cannot be read", next="check data=PATH")
    kept = [p for p in found if p.suffix.lower() == suffix] if suffix else found
    kept = [p for p in kept if p.stat().st_size]
    if not kept:
        raise DataError(
            f"nothing to read in {path}", expected="a file that is not empty", next="check data=PATH"
        )
    return tuple(kept), tuple(p.relative_to(base).as_posix() for p in kept)


class Bytes(_Files):
    """Each file is a document, as it is: nothing is unpacked, no line end changed."""

    kind = "bytes"

    def __init__(self, config: SourceConfig, data: DataConfig, want: Want) -> None:
        super().__init__(config, data, want)
        if data.separator is not None:
            raise ConfigError(
                f"data.separator={data.separator!r} with data.format=bytes",
                expected="none: each file is a document",
                next="leave data.separator out",
            )
        self.format = "bytes"

    def read(self, file: int, drops: Drops | None = None) -> Iterator[Example]:
        decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        path, begin, held = self.paths[file], True, ""
        try:
            with path.open("rb") as stream:
                while True:
                    block = stream.read(BLOCK)
                    text = decoder.decode(block, final=not block)
                    if held:
                        yield self._part(held, file, begin, end=not block and not text)
                        begin = False
                    held = text
                    if not block:
                        break
        except OSError as error:
            raise DataError(
                f"cannot read {path}: {error.strerror or error}", next="check the path"
            ) from error
        if held:
            yield self._part(held, file, begin, end=True)

    @staticmethod
    def _part(text: str, file: int, begin: bool, end: bool) -> Example:
        example: dict[str, Any] = {"text": text, "_file": file, "_index": 0, "_raw": True}
        if not (begin and end):
            example["_begin"], example["_end"] = begin, end
        return example


class Ids(_Files):
    """Arrays of whole numbers."""

    kind = "ids"

    def __init__(self, config: SourceConfig, data: DataConfig, want: Want) -> None:
        super().__init__(config, data, want, ARRAY)
        self.end: int | None = None
        if data.separator is not None:
            if not data.separator.strip().lstrip("-").isdigit():
                raise ConfigError(
                    f"data.separator={data.separator!r} with ids",
                    expected="an id that ends a document, e.g. data.separator=0",
                )
            self.end = int(data.separator)
        self.arrays = [self._checked(path) for path in self.paths]
        kinds = sorted({f"{a.dtype} {'stream' if a.ndim == 1 else 'rows'}" for a in self.arrays})
        self.format = f"ids ({', '.join(kinds)})"

    def _checked(self, path: Path) -> np.ndarray:
        """The array, mapped into memory; every id has been looked at."""
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"{path} cannot be read as an array: {error}",
                expected="a file that numpy.save has written, of whole numbers",
                next="numpy.save('ids.npy', numpy.asarray(ids, numpy.uint16))",
            ) from error
        what = f"{path} holds {array.dtype} of shape {'×'.join(map(str, array.shape)) or '()'}"
        if array.dtype.kind not in "iu":
            hint = "rows of words need a vocabulary: numpy.unique(words, return_inverse=True)"
            raise DataError(
                what,
                expected="whole numbers: uint8, uint16, int32, int64",
                next="array.astype(numpy.int32), if the numbers are ids" if array.dtype.kind == "f" else hint,
            )
        if array.ndim not in (1, 2) or array.size == 0:
            raise DataError(what, expected="one dimension (a stream) or two (a document a row), not empty")
        self._look(path, array)
        return array

    def _look(self, path: Path, array: np.ndarray) -> None:
        flat = array.reshape(-1)
        for at in range(0, flat.size, 1 << 24):
            part = flat[at : at + (1 << 24)]
            low, high = int(part.min()), int(part.max())
            if low >= 0 and high < MOST:
                continue
            wrong = (part < 0) | (part >= MOST)
            if self.end is not None:
                wrong &= part != self.end  # a mark that is no id, such as -1
            if not wrong.any():
                continue
            first = int(np.flatnonzero(wrong)[0])
            place = at + first
            where = (
                f"place {place}"
                if array.ndim == 1
                else "row {}, place {}".format(*divmod(place, array.shape[1]))
            )
            value, more = int(part[first]), int(wrong.sum()) - 1
            raise DataError(
                f"{path}, {where}: id {value:,}" + f", and {more:,} more like it" * (more > 0),
                expected=f"ids from 0 to {MOST - 1:,}",
                next=f"data.separator={value}, if it ends a document"
                if value < 0
                else "number what occurs from 0 on: numpy.unique(ids, return_inverse=True)",
            )

    def read(self, file: int, drops: Drops | None = None) -> Iterator[Example]:
        array, index = self.arrays[file], 0
        rows = (array,) if array.ndim == 1 else array
        for row in rows:
            for document in self._documents(row):
                for at in range(0, len(document), _IDS):
                    part = np.asarray(document[at : at + _IDS])
                    example: dict[str, Any] = {
                        "text": " ".join(map(str, part.tolist())),
                        "_file": file,
                        "_index": index,
                    }
                    begin, end = at == 0, at + _IDS >= len(document)
                    if not (begin and end):
                        example["_begin"], example["_end"] = begin, end
                    yield example
                index += 1

    def _documents(self, row: np.ndarray) -> Iterator[np.ndarray]:
        if self.end is None:
            yield row
            return
        start = 0
        for at in np.flatnonzero(row == self.end).tolist():
            if at > start:
                yield row[start:at]
            start = at + 1
        if start < len(row):
            yield row[start:]
