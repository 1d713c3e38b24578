"""Series as examples: which files and rows are one each, and which side of the split their parts are on.

    open_series(SourceConfig(path="ETTh1.csv"), DataConfig(), want)       # an example a part of its rows
    open_series(SourceConfig(path="ETTh1.csv:test"), DataConfig(), want)  # the part that is kept for the test

    .csv .tsv .txt .parquet    rows are moments, columns are channels: a file is one example (several series,
                               where a column tells them apart)
    .jsonl .json, .parquet     with a column of lists: a row is a series
    .npy, .npz (x and y)       (series, moments) or (series, moments, channels): a row is a series

With labels (classification) a table has a series a row, its label in a column (or in the first, without a
header: the layout of the UCR archive), or there is a folder of files for each label. A series with a label
stands on one side of the split; without one its rows are divided by time: the example says which ``part`` it
is about, and how rows are divided is the objective's business.

An example holds a path, or a row as JSON; what reads it is the codec.
"""

from __future__ import annotations

import csv
import glob
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from exnihilo.config import DataConfig, SourceConfig
from exnihilo.data import cache as cached
from exnihilo.data import fields, files, tables
from exnihilo.data.base import Drops, Example
from exnihilo.data.sources import Source, Want
from exnihilo.data.text import plain_suffix, strings
from exnihilo.errors import ConfigError, DataError

TABLES = frozenset({".csv", ".tsv", ".txt", ".parquet"})
ROWS = frozenset({".jsonl", ".ndjson", ".json"})
ARRAYS = frozenset({".npy", ".npz"})
PARTS = ("train", "val", "test", "all")
COLUMNS = ("target", "values", "value", "series", "x", "data", "signal")
"""Columns of rows that hold a series."""
LABELS = ("label", "class", "labels", "y", "category")
KEPT = (
    *("start", "freq", "item_id", "id", "feat_dynamic_real", "past_feat_dynamic_real"),
    *("feat_static_real", "feat_static_cat", "channels"),
)
"""What else of a row is a part of its series (GluonTS' names)."""
_TOLD = "by time, as options.split says"


def open_series(config: SourceConfig, data: DataConfig, want: Want) -> Source:
    """A source of series.

    Raises:
        DataError: there are none, or nothing tells a role that is needed.
    """
    path, part = config.path, ""
    head, _, tail = path.rpartition(":")
    if tail in PARTS and head and not Path(path).exists():
        path, part = head, tail
    return SeriesSource(config.model_copy(update={"path": path}), data, want, part)


class SeriesSource(Source):
    """Files of series."""

    def __init__(self, config: SourceConfig, data: DataConfig, want: Want, part: str) -> None:
        super().__init__(config, data, want)
        self.part, self.labelled = part, "label" in want.roles
        if self.labelled and part:
            raise DataError(
                f"data={config.path}:{part}: series with labels stand on one side of the split each",
                expected="a file or folder of its own for each part",
                next=f"data={config.path}",
            )
        self.told = "" if self.labelled else _TOLD
        self.paths, self.names = self._listed()
        self.size = None
        self.fields = {"series": "rows" if self.rows_of(self.paths[0]) else "file"}
        if given := {k: v for k, v in self.given.items() if k not in ("series", "label")}:
            raise DataError(
                f"data.fields names {', '.join(given)}: series have the roles series and label",
                next="columns of a table are named by options.time, options.targets, options.known ...",
            )
        self._refuse(data)
        kinds = sorted({plain_suffix(p) for p in self.paths})
        self.format = f"{len(self.paths):,} files of series ({' '.join(kinds)})"

    def _refuse(self, data: DataConfig) -> None:
        """Options that nothing here reads."""
        plain = DataConfig()
        if self.told and data.val_fraction not in (0.0, plain.val_fraction):
            raise ConfigError(
                f"data.val_fraction={data.val_fraction}: series are divided by time",
                expected="options.split=[train,val,test]; or data.val_fraction=0: nothing is held out",
                next=f"options.split=[{1 - data.val_fraction:g},{data.val_fraction:g},0]",
            )
        unread = ["format", "pattern", "group", "columns", "header", "quotes", "separator", "unit"]
        if self.fields["series"] == "file":  # the codec reads it
            unread.append("encoding")
        for name in unread:
            if getattr(data, name) != getattr(plain, name):
                raise ConfigError(
                    f"data.{name} has no meaning for series",
                    expected="options.time, options.targets ... say what columns are; tables are UTF-8",
                    next=f"leave data.{name} out",
                )

    def _listed(self) -> tuple[tuple[Path, ...], tuple[str, ...]]:
        root = Path(self.path).expanduser()
        if root.is_file():
            found, base = [root], root.parent
        elif root.is_dir():
            found, base = sorted(files.walk(root)), root
        else:
            found = sorted({Path(p) for p in glob.glob(str(root), recursive=True) if Path(p).is_file()})
            if not found:
                raise DataError(f"no such file or folder: {self.path}", next="check data=PATH")
            base = Path(os.path.commonpath([p.parent for p in found]))
        kept = [p for p in found if plain_suffix(p) in TABLES | ROWS | ARRAYS]
        if not kept:
            raise DataError(
                f"{self.path} has no file of series: {len(found):,} files of other kinds",
                expected=" ".join(sorted(TABLES | ROWS | ARRAYS)),
                next="check data=PATH",
            )
        if lost := len(found) - len(kept):
            self.skipped = {"that hold no series": lost}
        return tuple(kept), tuple(p.relative_to(base).as_posix() for p in kept)

    def rows_of(self, path: Path) -> bool:
        """Whether each row of a file is a series."""
        suffix = plain_suffix(path)
        if suffix in ROWS | ARRAYS:
            return True
        if suffix == ".parquet":
            first = next(iter(tables.records(path)), {})
            return any(isinstance(value, (list, np.ndarray)) for value in first.values())
        return self.labelled and len({p.parent for p in self.paths}) == 1

    def read(self, file: int, drops: Drops | None = None) -> Iterator[Example]:
        path = self.paths[file]
        if self.rows_of(path):
            for index, (value, label, at) in enumerate(self._rows(path, drops)):
                yield from self._parts(value, label, file, index, at, value)
            return
        label = path.parent.name if self.labelled else None
        where = str(path.absolute())
        yield from self._parts(where, label, file, 0, "", self._hash(file) or where)

    def _parts(self, value: str, label: Any, file: int, index: int, at: str, group: str) -> Iterator[Example]:
        """The examples of a series: itself with its label, or one for each part."""
        example: dict[str, Any] = {
            "series": value, "_file": file, "_index": index, "_at": at, "_group": group, "_size": len(value)
        }  # fmt: skip
        if self.labelled:
            yield {**example, "label": label}
        elif self.part:
            yield {**example, "part": self.part}
        else:
            yield {**example, "part": "train", "_side": 0, "_split": True}
            yield {**example, "part": "val", "_side": 1, "_split": True}
            yield {**example, "part": "all", "_side": 0, "_split": False}

    # rows ---------------------------------------------------------------------------------------

    def _rows(self, path: Path, drops: Drops | None) -> Iterator[tuple[str, Any, str]]:
        """(a path with its row, or JSON; label; where it stands) of each row."""
        suffix = plain_suffix(path)
        if suffix in ARRAYS:
            yield from self._array(path)
        elif suffix in (".csv", ".tsv", ".txt"):
            yield from self._wide(path, drops)
        else:
            yield from self._records(path, suffix, drops)

    def _records(self, path: Path, suffix: str, drops: Drops | None) -> Iterator[tuple[str, Any, str]]:
        if suffix == ".parquet":
            rows: Iterator[Any] = iter(tables.records(path))
        elif suffix == ".json":
            rows = iter(tables.json_records(path, strings(path, self.config.encoding), drops))
        else:
            rows = iter(tables.jsonl(path, strings(path, self.config.encoding), drops))
        for number, record in enumerate(rows, 1):
            at = f"record {number}"
            column = self.given.get("series") or next((c for c in COLUMNS if c in record), None)
            if column is None or column not in record:
                if column is not None or not any(isinstance(v, list) for v in record.values()):
                    raise fields.missing(str(path), "series", column, list(record))
                column = next(k for k, v in record.items() if isinstance(v, list))
            value, label = record[column], None
            if self.labelled:
                name = self.given.get("label") or next((c for c in LABELS if c in record), None)
                if name is None or name not in record:
                    raise fields.missing(str(path), "label", name, list(record))
                label = record[name]
            if value is None or (isinstance(value, (list, np.ndarray)) and len(value) == 0):
                if drops is not None:
                    drops.add("without numbers", f"{path}, {at}")
                continue
            more = {k: record[k] for k in KEPT if record.get(k) is not None}
            text = value if isinstance(value, str) else json.dumps(value, default=_plain)
            if more:
                text = json.dumps({**more, "target": value}, default=_plain)
            yield text, label, at

    def _array(self, path: Path) -> Iterator[tuple[str, Any, str]]:
        try:
            with open(path, "rb") as file:
                held = np.load(file, allow_pickle=False)
                pair = isinstance(held, np.lib.npyio.NpzFile)
                count = len(held["x"]) if pair else 1 if held.ndim == 1 else len(held)
                labels = held["y"].tolist() if pair and "y" in held else None
        except (ValueError, OSError, EOFError, KeyError) as error:
            raise DataError(
                f"{path} cannot be read as an array: {error}",
                expected=".npy of numbers, or .npz with the arrays x and y",
            ) from error
        if self.labelled and (labels is None or len(labels) != count):
            raise DataError(
                f"{path} has no labels for its {count:,} series",
                expected=".npz with x, (series, moments), and y, (series,)",
                next="numpy.savez(path, x=series, y=labels)",
            )
        for row in range(count):
            yield f"{path.absolute()}#{row}", labels[row] if labels else None, f"row {row + 1}"

    def _wide(self, path: Path, drops: Drops | None) -> Iterator[tuple[str, Any, str]]:
        """Rows of numbers with a label."""
        lines = "".join(strings(path, self.config.encoding)).splitlines()
        first = next((line for line in lines if line.strip()), "")
        delimiter = max(("\t", ",", ";"), key=first.count)
        names: list[str] | None = None
        label = 0
        for number, cells in enumerate(csv.reader(lines, delimiter=delimiter), 1):
            if not any(cell.strip() for cell in cells):
                continue
            if names is None:
                names = [cell.strip() for cell in cells]
                wanted = self.given.get("label")
                known = [
                    i for i, n in enumerate(names) if n == wanted or (not wanted and n.lower() in LABELS)
                ]
                if wanted and not known:
                    raise fields.missing(str(path), "label", wanted, names)
                label = known[0] if known else 0
                if known or not all(_numeric(cell) for cell in names[1:]):
                    continue  # a header
            values = [cell for i, cell in enumerate(cells) if i != label]
            while values and not values[-1].strip():
                values.pop()
            if not values:
                if drops is not None:
                    drops.add("without numbers", f"{path}, row {number}")
                continue
            bad = next((v for v in values if not _numeric(v)), None)
            if bad is not None:
                if drops is not None:
                    drops.add("with cells that are no numbers", f"{path}, row {number}: {bad!r:.20}")
                continue
            numbers = [float(v) if v.strip() and np.isfinite(float(v)) else None for v in values]
            yield json.dumps(numbers), cells[label].strip(), f"row {number}"

    def content(self, cache: Path, workers: int) -> object:
        self._hashes = cached.hash_files(self.paths, cache, os.path.abspath(self.path), workers)
        return [
            "series",
            self._hashes,
            list(self.names),
            self.part,
            self.labelled,
            sorted(self.given.items()),
        ]

    def _hash(self, file: int) -> str:
        return getattr(self, "_hashes", [""] * len(self.paths))[file]


def _numeric(cell: str) -> bool:
    """Whether a cell is a number, or empty."""
    try:
        float(cell.strip() or "nan")
    except ValueError:
        return cell.strip().lower() in ("na", "?", "null")
    return True


def _plain(value: Any) -> Any:
    """NumPy's arrays for JSON."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if hasattr(value, "isoformat"):
        return value.isoformat(sep=" ")
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)
