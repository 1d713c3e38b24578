"""A table, an array file, a row of numbers -> series: channels, covariates, a clock, what is missing.

    [series] = load("ETTh1.csv")                             # one series of seven channels, hourly
    shops = load("sales.csv", Reading(id="shop", targets=("sold",), known=("price",)))   # one a shop
    [series] = load("[1, 2, null, 4]")                  # a row of JSON; also {"target": [...], "start": ...}
    rows = load("rows.npy")                                  # (N, L) or (N, L, C): N series

In a table rows are moments and columns are channels; in arrays and in rows of JSON each row is a series. What
is missing, infinite or no number is NaN in `values` and counted; a channel of which nothing is known is
refused. Rows behind the last value of any target tell covariates of the future (`known`).

A name ``world:KIND:SEED`` is a series of the embedded world.

Layouts: GluonTS' JSON lines (target, start, item_id, feat_dynamic_real, feat_static_real, feat_static_cat).

Key: L moments, C channels, K covariates known ahead, P covariates of the past, M moments with covariates (M
>= L)
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from exnihilo.codec.series import clock as clocks
from exnihilo.codec.series.clock import Clock
from exnihilo.codec.series.table import Table, Unreadable, named, numbers_of
from exnihilo.codec.series.table import load as load_table
from exnihilo.errors import nearest

ARRAYS = frozenset({".npy", ".npz"})
IDS = ("unique_id", "item_id", "series_id", "id")
"""Columns that are taken for the name of a row's series where two rows have one time."""
_TARGETS = ("target", "values", "value", "series", "x", "data")
_HELD = 16  # files that are kept in memory


@dataclass(frozen=True)
class Reading:
    """What the columns of a table are.

    Attributes:
        time: the column of times; default: by name, else the first that holds times; ``none``: there is none,
            rows follow each other.
        time_format: how times are written, as for `datetime.strptime`; default: found.
        id: the column that says which series a row is of.
        targets: the channels; default: every column of numbers that is nothing else.
        known: covariates that are known ahead (prices, holidays); past: those that are not.
        static: columns that are one value a series; numbers as they are, texts as names.
        irregular, step: see `clock.regular`.
    """

    time: str = ""
    time_format: str = ""
    id: str = ""
    targets: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    past: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    irregular: Literal["refuse", "resample"] = "refuse"
    step: str = ""


@dataclass(frozen=True)
class Series:
    """One series.

    Attributes:
        name: of the file, or what its column of ids says.
        values: float64 (L, C), NaN where missing.
        channels: names, in the order of the values.
        clock: when they stand; None without times.
        known: float64 (M, K), M >= L: what is known ahead. past: float64 (L, P).
        static: by name: a number or a text.
        notes: what was odd, in words.
    """

    name: str
    values: np.ndarray
    channels: tuple[str, ...]
    clock: Clock | None = None
    known: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    past: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    static: Mapping[str, float | str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> int:
        """Values that are not there."""
        return int(np.isnan(self.values).sum())

    def __len__(self) -> int:
        return len(self.values)


def load(source: str, reading: Reading = Reading()) -> list[Series]:  # noqa: B008
    """The series of a source.

    Args:
        source: a file's name (``rows.npy#3`` is its fourth row), JSON, or ``world:KIND:SEED``.

    Raises:
        Unreadable: names the source and what is wrong with it.

    Example:
        >>> [one] = load("[1, null, 3]")
        >>> one.values[:, 0].tolist(), one.missing
        ([1.0, nan, 3.0], 1)
    """
    text = source.strip()
    if text[:1] in "[{":
        return [of_json(text)]
    if text.startswith("world:"):
        from exnihilo.world.series import render

        try:
            return [Series(text, render(text).astype(np.float64)[:, None], ("value",))]
        except ValueError as error:
            raise Unreadable("that the world does not know", str(error)) from error
    path, row = text, ""
    try:
        if "#" in text and not os.path.exists(text):
            path, _, row = text.rpartition("#")
        stat = os.stat(path)
    except (OSError, ValueError) as error:
        raise Unreadable(
            "that cannot be opened",
            f"{path[:200]!r} cannot be read: {getattr(error, 'strerror', None) or error}",
            expected="a file of a series, or a row of numbers such as [1, 2, 3]",
            next="check the path",
        ) from error
    found = _cached(path, stat.st_mtime_ns, stat.st_size, reading)
    if not row:
        return list(found)
    if not row.isdigit() or int(row) >= len(found):
        raise Unreadable("of a row that is not there", f"{text}: {path} has {len(found):,} rows")
    return [found[int(row)]]


@lru_cache(maxsize=_HELD)
def _cached(path: str, changed: int, size: int, reading: Reading) -> tuple[Series, ...]:
    del changed, size  # a file that was written again is read again
    if Path(path).suffix.lower() in ARRAYS:
        return tuple(_of_array(Path(path)))
    return tuple(_of_table(load_table(path), reading))


# tables ---------------------------------------------------------------------------------------------


def _of_table(table: Table, r: Reading) -> list[Series]:
    """The series of a table, in the order of their first rows."""
    columns, where = table.columns, table.path
    for role in ("time", "id"):
        name = getattr(r, role)
        if name and name != "none":
            _there(name, columns, where, role)
    for role in ("targets", "known", "past", "static"):
        for name in getattr(r, role):
            _there(name, columns, where, role)
    notes = list(table.notes)
    time, when, kind = _time(columns, r, where, notes)
    id_ = r.id or _id(columns, time, when)
    if id_ and not r.id:
        notes.append(f"column {id_!r} says which series a row is of")
    taken = {time, id_, *r.known, *r.past, *r.static}
    numbers: dict[str, np.ndarray] = {}
    for name in (*(r.targets or [c for c in columns if c not in taken]), *r.known, *r.past):
        found, odd, infinite = numbers_of(columns[name])
        chosen = name in (*r.targets, *r.known, *r.past)
        if not chosen and (len(odd) > 0.5 * len(found) or np.isnan(found).all()):
            if len(odd):
                notes.append(f"column {name!r} holds no numbers: left out")
                continue
        if odd:
            notes.append(
                f"column {name!r}: {len(odd):,} cells are no numbers and count as missing ({named(odd)})"
            )
        if infinite:
            notes.append(f"column {name!r}: {infinite:,} infinite values count as missing")
        numbers[name] = found
    targets = [name for name in numbers if name in r.targets or (not r.targets and name not in taken)]
    empty = [name for name in targets if np.isnan(numbers[name]).all()]
    if empty and (r.targets or len(empty) == len(targets)):
        raise Unreadable(
            "without a value",
            f"{where}: column {', '.join(map(repr, empty))} has not one number",
            next="leave it out",
        )
    if empty:
        notes.append(f"without a single number, left out: {', '.join(map(repr, empty))}")
    targets = [name for name in targets if name not in empty]
    if not targets:
        raise Unreadable(
            "without numbers",
            f"{where} has no column of numbers; found: {', '.join(columns)}",
            expected="a column for each channel",
            next="options.targets=COLUMN,...",
        )
    part = _Part(where, r, columns, numbers, tuple(targets), when, kind)
    if not id_:
        return [replace(part.series(np.arange(table.rows), Path(where).stem), notes=(*notes, *part.notes))]
    names = np.array([str(value) for value in columns[id_]])
    order: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        order.setdefault(name, []).append(i)
    found = [part.series(np.array(rows), name) for name, rows in order.items()]
    found[0] = replace(found[0], notes=(*notes, *part.notes))
    return found


def _there(name: str, columns: Mapping[str, Any], where: str, role: str) -> None:
    if name not in columns:
        raise Unreadable(
            f"without the column {name!r}",
            f"{where}: no column {name!r} for options.{role}; found: {', '.join(columns)}",
            expected=nearest(name, list(columns)),
        )


def _time(
    columns: Mapping[str, np.ndarray], r: Reading, where: str, notes: list[str]
) -> tuple[str, np.ndarray | None, str]:
    """(the column of times, its times, their kind); empty without one."""
    if r.time == "none":
        return "", None, ""
    named_ = sorted(
        (c for c in columns if c.lower() in clocks.NAMES), key=lambda c: clocks.NAMES.index(c.lower())
    )
    others = [
        c for c in columns if columns[c].dtype.kind == "M" or (columns[c].dtype == object and c not in named_)
    ]
    for name in [r.time] if r.time else [*named_, *others[:3]]:
        if name in (*r.targets, *r.known, *r.past, *r.static, r.id):
            continue
        found = clocks.times_of(columns[name], r.time_format)
        if found is not None and not r.time and name not in named_ and found[1] == "count":
            found = None  # a column of whole numbers without such a name may be anything
        if found is not None:
            if not r.time_format and clocks.either(columns[name]):
                notes.append(f"column {name!r}: read as month/day/year; options.time_format says otherwise")
            return name, found[0], found[1]
        if r.time:
            bad = next(
                (i for i, c in enumerate(columns[name]) if clocks.times_of(columns[name][i : i + 1]) is None),
                0,
            )
            raise Unreadable(
                "with times that cannot be read",
                f"{where}, row {bad + 2}: column {name!r} holds {columns[name][bad]!r:.40}",
                expected="a time in every row, all written alike",
                next="options.time_format='%d/%m/%Y', or options.time=none",
            )
    for name in named_:
        notes.append(
            f"column {name!r} holds no times that can be read: rows are taken as they follow each other"
        )
    return "", None, ""


def _id(columns: Mapping[str, np.ndarray], time: str, when: np.ndarray | None) -> str:
    """A column of ids where times repeat, and there is one by name."""
    if when is None or len(np.unique(when)) == len(when):
        return ""
    return next((c for c in columns if c.lower() in IDS and c != time), "")


@dataclass
class _Part:
    """What the series of a table are cut from."""

    where: str
    reading: Reading
    columns: Mapping[str, np.ndarray]
    numbers: Mapping[str, np.ndarray]
    targets: tuple[str, ...]
    when: np.ndarray | None
    kind: str
    notes: list[str] = field(default_factory=list)

    def series(self, rows: np.ndarray, name: str) -> Series:
        r = self.reading
        where = self.where if not r.id else f"{self.where}, series {name!r}"
        clock, at = None, np.arange(len(rows))
        if self.when is not None:
            clock, at, notes = clocks.regular(
                self.when[rows], self.kind, where=where, irregular=r.irregular, step=r.step
            )
            self.notes += notes
        length = int(at.max()) + 1

        def on_grid(names: Sequence[str]) -> np.ndarray:
            raw = np.stack([self.numbers[n][rows] for n in names], 1) if names else np.zeros((len(rows), 0))
            return _averaged(raw, at, length)

        values = on_grid(self.targets)
        lost = length - len(np.unique(at))
        if lost:
            self.notes.append(f"{where}: {lost:,} rows of the grid are not there: missing values")
        known, past = on_grid(r.known), on_grid(r.past)
        seen = np.flatnonzero(~np.isnan(values).all(1))
        if len(seen) and r.known and seen[-1] + 1 < length:  # what follows tells the future's covariates
            values, past = values[: seen[-1] + 1], past[: seen[-1] + 1]
        static = {n: self._one(n, rows, where) for n in r.static}
        return Series(name, values, self.targets, clock, known, past, static)

    def _one(self, name: str, rows: np.ndarray, where: str) -> float | str:
        cells = {str(c).strip() for c in self.columns[name][rows]}
        if len(cells) > 1:
            raise Unreadable(
                "with static columns that change",
                f"{where}: options.static names {name!r}, which holds {len(cells):,} values in one series",
                expected="one value a series",
                next="options.known or options.past",
            )
        value, odd, _ = numbers_of(np.array([next(iter(cells))], object))
        return next(iter(cells)) if odd or np.isnan(value[0]) else float(value[0])


def _averaged(raw: np.ndarray, at: np.ndarray, length: int) -> np.ndarray:
    """Rows on the grid; the mean of several at one place, NaN where there is none."""
    out = np.full((length, raw.shape[1]), np.nan)
    if len(np.unique(at)) == len(at):
        out[at] = raw
        return out
    good = ~np.isnan(raw)
    sums, counts = np.zeros(out.shape), np.zeros(out.shape)
    np.add.at(sums, at, np.where(good, raw, 0.0))
    np.add.at(counts, at, good)
    return np.divide(sums, counts, out=out, where=counts > 0)


# rows -----------------------------------------------------------------------------------------------


def _of_array(path: Path) -> list[Series]:
    try:
        with open(path, "rb") as file:
            held = np.load(file, allow_pickle=False)
            array = np.asarray(held["x"] if isinstance(held, np.lib.npyio.NpzFile) else held)
    except (ValueError, OSError, EOFError, KeyError) as error:
        raise Unreadable(
            "that are no arrays", f"{path} cannot be read: {error}", expected="a .npy file of numbers"
        ) from error
    if array.dtype.kind not in "fiub" or not 1 <= array.ndim <= 3 or not array.size:
        raise Unreadable(
            "that are no arrays",
            f"{path} holds {array.dtype} of shape {array.shape}",
            expected="numbers of shape (moments,), (series, moments) or (series, moments, channels)",
        )
    rows = array.astype(np.float64).reshape(1, -1, 1) if array.ndim == 1 else array.astype(np.float64)
    rows = rows[..., None] if rows.ndim == 2 else rows
    return [_checked(Series(f"{path.stem}#{i}", row, _numbered(row.shape[1]))) for i, row in enumerate(rows)]


def of_json(text: str) -> Series:
    """A series of JSON: numbers (null is missing), a list a channel, or an object that has them under
    ``target``.

    Raises:
        Unreadable: it is none.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Unreadable("that are no JSON", f"{text[:60]!r} is no JSON: {error}") from error
    more: dict[str, Any] = {}
    if isinstance(value, dict):
        more = value
        key = next((k for k in _TARGETS if k in more), None)
        if key is None:
            raise Unreadable(
                "without a target", f"a series with {', '.join(more)}", expected="target: [numbers]"
            )
        value = more[key]
    values = _matrix(value, text)
    known = _matrix(more["feat_dynamic_real"], text) if more.get("feat_dynamic_real") else np.zeros((0, 0))
    past = (
        _matrix(more["past_feat_dynamic_real"], text)
        if more.get("past_feat_dynamic_real")
        else np.zeros((0, 0))
    )
    static: dict[str, float | str] = {
        f"real{i}": float(v) for i, v in enumerate(more.get("feat_static_real") or ())
    }
    static |= {f"cat{i}": str(v) for i, v in enumerate(more.get("feat_static_cat") or ())}
    name = str(more.get("item_id", more.get("id", "")))
    channels = tuple(map(str, more["channels"])) if more.get("channels") else _numbered(values.shape[1])
    clock = None
    if more.get("start") is not None:
        clock = _started(str(more["start"]), str(more.get("freq") or ""))
    return _checked(Series(name, values, channels, clock, known, past, static))


def _started(start: str, freq: str) -> Clock | None:
    found = clocks.times_of(np.array([start], object))
    if found is None or not freq:
        return None
    try:
        size, unit = clocks.step_of(freq)
    except ValueError as error:
        raise Unreadable("with a step that is not known", f"freq={freq!r}", expected=str(error)) from error
    return Clock(int(found[0][0]), size, unit, unit == "M" and clocks._tail(found[0]))


def _matrix(value: Any, text: str) -> np.ndarray:
    """float64 (moments, channels) of a list of numbers, or of a list a channel."""
    if not isinstance(value, list) or not value:
        raise Unreadable(
            "without numbers", f"{text[:60]!r}", expected="a list of numbers", next="[1, 2, null, 4]"
        )
    lists = value if isinstance(value[0], list) else [value]
    try:
        found = [np.array([np.nan if v is None else v for v in one], np.float64) for one in lists]
        out = np.stack(found, 1)
    except (TypeError, ValueError) as error:
        raise Unreadable(
            "that hold no numbers",
            f"{text[:60]!r}: {error}",
            expected="numbers and null; several channels as lists of one length",
        ) from error
    out[~np.isfinite(out)] = np.nan
    return out


def _checked(series: Series) -> Series:
    series.values[~np.isfinite(series.values)] = np.nan
    if np.isnan(series.values).all():
        raise Unreadable("without a value", f"series {series.name or '(without a name)'} has not one number")
    return series


def _numbered(count: int) -> tuple[str, ...]:
    return ("value",) if count == 1 else tuple(f"value{i}" for i in range(1, count + 1))
