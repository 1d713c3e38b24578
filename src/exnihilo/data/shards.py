"""Folders of flat arrays, written once and memory-mapped ever after, with a manifest of sizes and hashes.

    writer = ArrayWriter(folder); writer.append("tokens", ids); writer.finish({"anything": 1})
    shard = Shard(folder); shard["tokens"]; shard.meta; shard.verify()

Each array is one file ``NAME.bin`` of raw little-endian numbers, of the narrowest integer type that holds
what it holds (it is widened, by rewriting, when a larger number comes). ``manifest.json`` names each file's
type, count, size and SHA-256, and its own.

What is checked on opening: the manifest's hash, that each file is there and has its size; and where a file's
time stamp is not the one it was written with (so somebody has touched or copied it), its hash. `verify`
hashes all.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from exnihilo.data.cache import write_failed
from exnihilo.errors import DataError

FORMAT = 3
MANIFEST = "manifest.json"
_COPY = 1 << 20  # entries

_UNSIGNED = (np.uint8, np.uint16, np.uint32, np.uint64)
_SIGNED = (np.int8, np.int16, np.int32, np.int64)


def narrowest(low: int, high: int) -> np.dtype:
    """The narrowest integer type for numbers from low to high: unsigned unless some are negative."""
    for kind in _SIGNED if low < 0 else _UNSIGNED:
        info = np.iinfo(kind)
        if info.min <= low and high <= info.max:
            return np.dtype(kind)
    raise ValueError(f"no 64-bit integer type holds both {low} and {high}")


class _Column:
    """One growing file."""

    def __init__(self, path: Path, dtype: np.dtype | None) -> None:
        self.path, self.dtype, self.fixed = path, dtype, dtype is not None
        self.low, self.high, self.count = 0, 0, 0
        self.hash = hashlib.sha256()
        self.file: BinaryIO = open(path, "wb")

    def append(self, values: np.ndarray) -> None:
        if values.size == 0:
            return
        if values.dtype.kind not in "iu" or self.fixed:
            want = values.dtype if self.dtype is None or values.dtype.kind in "S" else self.dtype
        else:
            self.low, self.high = min(self.low, int(values.min())), max(self.high, int(values.max()))
            want = narrowest(self.low, self.high)
        if self.dtype is None or (want != self.dtype and self.count == 0):
            self.dtype = want
        elif want != self.dtype:
            self._widen(want)
        data = np.ascontiguousarray(values, dtype=self.dtype.newbyteorder("<")).data.cast("B")
        self.file.write(data)
        self.hash.update(data)
        self.count += values.size

    def _widen(self, dtype: np.dtype) -> None:
        """Rewrites what is there in a wider type: at most twice for a column of ids."""
        assert self.dtype is not None
        self.file.close()
        aside = self.path.with_suffix(".wide")
        self.hash = hashlib.sha256()
        out = open(aside, "wb")
        with open(self.path, "rb") as old:
            while data := old.read(_COPY * self.dtype.itemsize):
                wide = np.frombuffer(data, self.dtype).astype(dtype).data.cast("B")
                out.write(wide)
                self.hash.update(wide)
        os.replace(aside, self.path)
        self.file, self.dtype = out, dtype

    def close(self) -> None:
        self.file.close()


class ArrayWriter:
    """Appends to any number of named arrays. Integers get the narrowest type, unless `dtypes` fixes it."""

    def __init__(self, folder: Path, dtypes: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.dtypes = {k: np.dtype(v) for k, v in (dtypes or {}).items()}
        self.columns: dict[str, _Column] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, dtype in self.dtypes.items():
                self.columns[name] = _Column(self._path(name), dtype)
        except OSError as error:
            self._failed(error)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.bin"

    def append(self, name: str, values: np.ndarray) -> None:
        try:
            column = self.columns.get(name)
            if column is None:
                column = self.columns[name] = _Column(self._path(name), None)
            column.append(values)
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> NoReturn:
        self.abort()
        write_failed(error, self.folder)

    def abort(self) -> None:
        """Closes the files; what they hold is of no use."""
        for column in self.columns.values():
            try:
                column.close()
            except OSError:
                continue  # a full disk fails again when what is buffered is written

    def finish(self, meta: Mapping[str, Any]) -> None:
        """Flushes everything to the disk and writes the manifest."""
        arrays: dict[str, Any] = {}
        try:
            for name, column in sorted(self.columns.items()):
                column.file.flush()
                os.fsync(column.file.fileno())
                column.close()
                stat = column.path.stat()
                dtype = column.dtype if column.dtype is not None else np.dtype(np.uint8)
                arrays[name] = {
                    "dtype": dtype.str.replace(">", "<"),
                    "count": column.count,
                    "size": stat.st_size,
                    "sha256": column.hash.hexdigest(),
                    "mtime_ns": stat.st_mtime_ns,
                }
            body = {"format": FORMAT, "arrays": arrays, "meta": dict(meta)}
            text = json.dumps({**body, "sha256": _self_hash(body)}, indent=1, ensure_ascii=False)
            with open(self.folder / MANIFEST, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self._failed(error)


def _self_hash(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class Shard:
    """A finished folder of arrays.

    Attributes:
        meta: what was given to `ArrayWriter.finish`.
        hash: of all contents, independent of when and where they were written.

    Raises:
        DataError: a file is missing, cut short or altered; the message names it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / MANIFEST
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            claimed = manifest.pop("sha256")
            good = claimed == _self_hash(manifest) and manifest["format"] == FORMAT
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise self._broken(path, f"cannot be read ({error})") from error
        if not good:
            raise self._broken(path, "is altered, or of another version")
        self.meta: dict[str, Any] = manifest["meta"]
        self._arrays: dict[str, Any] = manifest["arrays"]
        self._maps: dict[str, np.ndarray] = {}
        for name, entry in self._arrays.items():
            file = self._path(name)
            try:
                stat = file.stat()
            except OSError as error:
                raise self._broken(file, "is missing") from error
            if stat.st_size != entry["size"]:
                raise self._broken(file, f"has {stat.st_size} bytes instead of {entry['size']}")
            if stat.st_mtime_ns != entry["mtime_ns"]:
                self._verify(name)
        hashes = {name: entry["sha256"] for name, entry in self._arrays.items()}
        self.hash = _self_hash(hashes)[:32]

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.bin"

    def _broken(self, file: Path, what: str) -> DataError:
        return DataError(
            f"{file} {what}",
            expected="the prepared data as it was written",
            next=f"delete the folder {self.folder}: it is made anew from the source",
        )

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def __getitem__(self, name: str) -> np.ndarray:
        """The array, memory-mapped, read-only."""
        if name not in self._maps:
            entry = self._arrays[name]
            dtype = np.dtype(entry["dtype"])
            if entry["count"] == 0:
                self._maps[name] = np.zeros(0, dtype)
            else:
                # a plain ndarray over the map: slices of np.memmap cost ten times as much
                self._maps[name] = np.asarray(
                    np.memmap(self._path(name), dtype, "r", shape=(entry["count"],))
                )
        return self._maps[name]

    @property
    def names(self) -> list[str]:
        return list(self._arrays)

    def verify(self) -> None:
        """Reads every file and compares its hash with the manifest's.

        Raises:
            DataError: one is altered.
        """
        for name in self._arrays:
            self._verify(name)

    def _verify(self, name: str) -> None:
        file = self._path(name)
        with open(file, "rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != self._arrays[name]["sha256"]:
            raise self._broken(
                file, f"is altered (SHA-256 {found[:12]}, not {self._arrays[name]['sha256'][:12]})"
            )
