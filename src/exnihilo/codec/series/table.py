"""A table or an array file -> named columns, whatever stands in its cells.

    table = load("ETTh1.csv")              # Table(columns={"date": [...], "HUFL": [...]}, ...)
    numbers, odd = numbers_of(table.columns["HUFL"])      # float64 with NaN where there is none

Comma, semicolon, tab or bar divide the cells of a text file, with `"` around them or not; it may be
compressed (.gz, .zst). Parquet is read by pyarrow. A row with another number of cells than the header is left
out and counted; a cell that is empty or says that there is nothing (``NA``, ``nan``, ``null``, ``-``, ``?``)
is missing, and so is one that is infinite; one that is a text is missing and counted apart.

Formats: RFC 4180 (CSV), Apache Parquet.

Key: N rows
"""

from __future__ import annotations

from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from exnihilo.data.text import plain_suffix, strings
from exnihilo.errors import DataError

TABLES = frozenset({".csv", ".tsv", ".txt", ".parquet"})
"""Suffixes of tables whose rows are moments."""
NOTHING = frozenset({"", "na", "n/a", "#n/a", "nan", "-nan", "null", "none", "nil", "?", "-", "--", "."})
"""Cells that say that there is no value, in lower case."""
_DELIMITERS = (",", ";", "\t", "|")
_PLACES = 5  # rows that are named of each kind


class Unreadable(DataError):
    """A series that is of no use.

    Attributes:
        reason: in a few words, without the file's name: what such files are counted under.
    """

    def __init__(self, reason: str, given: str, *, expected: str = "", next: str = "") -> None:
        super().__init__(given, expected=expected, next=next)
        self.reason = reason


@dataclass(frozen=True)
class Table:
    """Columns by name, all as long; and what was odd about the file, in words.

    Attributes:
        columns: strings (None where a cell is null), numbers, or times (datetime64).
        rows: how many.
        notes: what was left out or changed, with counts and row numbers.
    """

    path: str
    columns: dict[str, np.ndarray]
    rows: int
    notes: tuple[str, ...] = field(default=())


def load(path: str | Path, *, encoding: str = "utf-8") -> Table:
    """The columns of a table.

    Raises:
        Unreadable: empty, no table, or broken; names the file.
    """
    where = Path(path)
    if not where.is_file():
        raise Unreadable("that cannot be opened", f"{where} is not there", next="check the path")
    if where.stat().st_size == 0:
        raise Unreadable("empty", f"{where} is empty (0 bytes)", expected="a table", next="leave it out")
    if plain_suffix(where) == ".parquet":
        return _parquet(where)
    return _text(where, encoding)


def _parquet(path: Path) -> Table:
    try:
        read = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, OSError) as error:
        raise Unreadable(
            "that are no tables",
            f"{path} cannot be read as Parquet: {error}",
            expected="a complete .parquet file",
            next="copy it again, or leave it out",
        ) from error
    return Table(str(path), {name: _array(read[name]) for name in read.column_names}, read.num_rows)


def _array(column: Any) -> np.ndarray:
    kind = column.type
    if pyarrow.types.is_timestamp(kind) or pyarrow.types.is_date(kind):
        return column.cast(pyarrow.timestamp("ns")).to_numpy().astype("datetime64[ns]")
    if pyarrow.types.is_decimal(kind) or pyarrow.types.is_integer(kind) or pyarrow.types.is_boolean(kind):
        return column.cast(pyarrow.float64()).to_numpy()
    if pyarrow.types.is_floating(kind):
        return column.to_numpy().astype(np.float64)
    return np.array(column.to_pylist(), object)


def _text(path: Path, encoding: str) -> Table:
    body = "".join(strings(path, encoding))
    first, _, rest = body.partition("\n")
    if not first.strip() or not rest.strip():
        raise Unreadable(
            "without rows",
            f"{path} has no rows below its header",
            expected="at least one",
            next="leave it out",
        )
    delimiter = max(_DELIMITERS, key=lambda d: (first.count(d), -_DELIMITERS.index(d)))
    cells = [cell.strip().strip('"') for cell in first.split(delimiter)]
    headless = all(_is_number(cell) for cell in cells)
    bad: list[int] = []

    def odd(row: Any) -> str:
        bad.append(row.number or 0)
        return "skip"

    names = [f"column{i}" for i in range(1, len(cells) + 1)] if headless else None
    try:
        read = pyarrow.csv.read_csv(
            BytesIO(body.encode()),
            read_options=pyarrow.csv.ReadOptions(use_threads=False, column_names=names, block_size=1 << 24),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, invalid_row_handler=odd),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={
                    name.strip('"'): pyarrow.string() for name in (names or first.split(delimiter))
                },
                strings_can_be_null=False,
            ),
        )
    except (pyarrow.ArrowInvalid, pyarrow.ArrowKeyError) as error:
        raise Unreadable(
            "that are no tables",
            f"{path} cannot be read as a table: {error}",
            expected="rows of cells under one header",
            next="correct it, or leave it out",
        ) from error
    if len(set(read.column_names)) < len(read.column_names):
        twice = sorted({n for n in read.column_names if read.column_names.count(n) > 1})
        raise Unreadable(
            "that are no tables", f"{path} has two columns {', '.join(map(repr, twice))}", next="rename one"
        )
    if not read.num_rows:
        raise Unreadable("without rows", f"{path} has no rows that can be read", next="leave it out")
    notes = []
    if bad:
        notes.append(
            f"{len(bad):,} rows with another number of cells than the header's {len(cells)} are left out "
            f"({named(bad)})"
        )
    columns = {
        n.strip(): np.array(read[n].cast(pyarrow.string()).to_pylist(), object) for n in read.column_names
    }
    return Table(str(path), columns, read.num_rows, tuple(notes))


def named(rows: list[int]) -> str:
    """The first row numbers of some: ``rows 3, 9, 11, ...``."""
    shown = ", ".join(f"{n:,}" for n in rows[:_PLACES])
    return f"row{'s' * (len(rows) > 1)} {shown}" + (", ..." if len(rows) > _PLACES else "")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def numbers_of(column: np.ndarray) -> tuple[np.ndarray, list[int], int]:
    """(float64 (N,) with NaN where there is no finite number, numbers from 1 of the rows whose cell is a
    text, how many cells are infinite).

    >>> numbers_of(np.array(["1", "", "1e3", "inf", "x"], object))
    (array([   1.,   nan, 1000.,   nan,   nan]), [5], 1)
    """
    if column.dtype.kind == "M":
        return np.full(len(column), np.nan), list(range(1, len(column) + 1)), 0
    odd: list[int] = []
    if column.dtype != object:
        out = column.astype(np.float64)
    else:
        try:
            cells = pyarrow.array(column)
            out = pc.cast(cells, pyarrow.float64()).to_numpy(zero_copy_only=False).copy()  # type: ignore[attr-defined]
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, pyarrow.ArrowNotImplementedError):
            out = np.full(len(column), np.nan)  # some cell is no number: one by one
            for i, cell in enumerate(column):
                if cell is None or (isinstance(cell, str) and cell.strip().lower() in NOTHING):
                    continue
                try:
                    out[i] = float(cell.strip().replace(",", ".") if isinstance(cell, str) else cell)
                except (TypeError, ValueError):
                    odd.append(i + 1)
    infinite = np.isinf(out)
    out[infinite] = np.nan
    return out, odd, int(infinite.sum())
