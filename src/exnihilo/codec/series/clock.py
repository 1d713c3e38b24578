"""When the values of a series stand: times from text or numbers, the step between them, what comes next.

    clock, at, notes = regular(times_of(column), where="a.csv")     # Clock(start, step="1h"), places on it
    clock.times(100, 4)                                             # the 101st to the 104th time

A clock is a beginning and a step: a fixed time, a number of months, or of working days. Rows on such a grid
with some of them missing are *gaps*: the places stay empty, and are counted. Rows on no grid are irregular:
refused with the places where it shows, or, where the user says so, averaged within steps (`resample`).
Nothing is guessed between rows.

Formats: ISO 8601; also day.month.year, month/day/year (said where it could be either), Unix time in seconds,
milliseconds, microseconds or nanoseconds, and plain counts.

Key: N rows, L places of the grid
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from exnihilo.codec.series.table import NOTHING, Unreadable, named

NAMES = (
    "date",
    "time",
    "datetime",
    "timestamp",
    "ds",
    "utc",
    "day",
    "month",
    "year",
    "week",
    "hour",
    "period",
)
"""Columns that are taken for the time by their name, where they hold times."""
_FORMATS = (
    "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y/%m/%d",
    "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y", "%m/%d/%Y %H:%M:%S", "%m/%d/%Y %H:%M", "%m/%d/%Y",
    "%m/%d/%y %H:%M", "%m/%d/%y", "%d/%m/%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%d/%m/%Y", "%d-%m-%Y %H:%M:%S",
    "%d-%m-%Y", "%Y%m%d", "%b %Y", "%B %Y", "%Y-%m", "%b-%y",
)  # fmt: skip
_UNITS = {"s": 10**9, "min": 60 * 10**9, "h": 3600 * 10**9, "D": 86400 * 10**9, "W": 7 * 86400 * 10**9}
_STEP = re.compile(r"(\d*)\s*(ns|us|ms|s|min|m|h|H|D|d|W|w|M|B)")
_SECOND = 10**9
_ZONE = re.compile(r"(Z|[+-]\d\d:?\d\d)$")
PERIODS = {"s": 60, "min": 60, "h": 24, "D": 7, "W": 52, "M": 12, "B": 5}
"""Steps of a season where nothing is said: an hour of minutes, a day of hours, a week of days, a year of
months."""
_ROUND = tuple(
    n * _UNITS[unit]
    for unit, counts in {
        "s": (1, 5, 10, 15, 30),
        "min": (1, 5, 10, 15, 30),
        "h": (1, 2, 3, 6, 12),
        "D": (1, 7),
    }.items()
    for n in counts
)
_LONGEST = 50_000_000  # places of a grid


@dataclass(frozen=True)
class Clock:
    """A beginning and a step.

    Attributes:
        start: nanoseconds since 1970, or the first count where time is a count.
        step: in the unit.
        unit: ns (a fixed time), M (months), B (working days), or count.
        tail: of M: whether the times are the last days of their months.
    """

    start: int = 0
    step: int = 1
    unit: str = "count"
    tail: bool = False

    def times(self, first: int, count: int) -> np.ndarray:
        """The times of some places: datetime64[ns], or integers of counts.

        >>> Clock(0, 3600 * 10**9, "ns").times(23, 2).astype("datetime64[h]").tolist()[1].isoformat()
        '1970-01-02T00:00:00'
        """
        at = np.arange(first, first + count)
        if self.unit == "count":
            return self.start + at * self.step
        begin = np.datetime64(self.start, "ns")
        if self.unit == "ns":
            return begin + (at * self.step).astype("timedelta64[ns]")
        if self.unit == "B":
            day = np.busday_offset(begin.astype("datetime64[D]"), at * self.step, roll="forward")
            return day.astype("datetime64[ns]") + (begin - begin.astype("datetime64[D]"))
        month = begin.astype("datetime64[M]")
        found = (month + at * self.step).astype("datetime64[D]")
        if self.tail:
            return ((month + at * self.step + 1).astype("datetime64[D]") - 1).astype("datetime64[ns]")
        return found.astype("datetime64[ns]") + (begin - month.astype("datetime64[ns]"))

    @property
    def freq(self) -> str:
        """The step in a word: 15min, h, D, M, B, or count."""
        if self.unit != "ns":
            return f"{self.step if self.step > 1 else ''}{self.unit}"
        for name, size in reversed(_UNITS.items()):
            if self.step % size == 0:
                return f"{self.step // size if self.step != size else ''}{name}"
        return f"{self.step}ns"

    @property
    def period(self) -> int:
        """Steps of a season by the step alone; 1 where it tells none.

        >>> Clock(0, 900 * 10**9, "ns").period, Clock(0, 3600 * 10**9, "ns").period, Clock().period
        (96, 24, 1)
        """
        if self.unit in ("M", "B"):
            return max(1, PERIODS[self.unit] // self.step)
        if self.unit != "ns":
            return 1
        day = _UNITS["D"]
        if self.step >= _UNITS["W"]:
            return max(1, round(52 * _UNITS["W"] / self.step))
        if self.step >= day:
            return max(1, _UNITS["W"] // self.step)
        if self.step >= 60 * _SECOND:  # from a minute up: a day
            return max(1, day // self.step)
        return max(1, 60 * _SECOND // self.step)


def step_of(text: str) -> tuple[int, str]:
    """(step, unit) of a word: ``15min``, ``h``, ``D``, ``M`` (months), ``B`` (working days).

    Raises:
        ValueError: it is none.

    >>> step_of("15min"), step_of("M")
    ((900000000000, 'ns'), (1, 'M'))
    """
    found = _STEP.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r}: expected a step such as 15min, h, D, W, M (months) or B (working days)")
    count, unit = int(found[1] or 1), found[2]
    if count < 1:
        raise ValueError(f"{text!r}: a step is at least 1")
    if unit in ("M", "B"):
        return count, unit
    small = {
        "ns": 1,
        "us": 10**3,
        "ms": 10**6,
        "m": _UNITS["min"],
        "H": _UNITS["h"],
        "d": _UNITS["D"],
        "w": _UNITS["W"],
    }
    return count * (small.get(unit) or _UNITS[unit]), "ns"


def times_of(column: np.ndarray, form: str = "") -> tuple[np.ndarray, str] | None:
    """(int64 nanoseconds since 1970, or counts, of each row, "time" or "count"); None where a cell is no
    time.

    Args:
        column: strings, numbers or datetime64.
        form: how texts are written, as for `datetime.strptime`; default: found.
    """
    if column.dtype.kind == "M":
        whole = column.astype("datetime64[ns]")
        return None if np.isnat(whole).any() else (whole.astype(np.int64), "time")
    if column.dtype != object:
        return _counts(column.astype(np.float64))
    cells = [cell.strip() if isinstance(cell, str) else cell for cell in column]
    if any(cell is None or (isinstance(cell, str) and cell.lower() in NOTHING) for cell in cells):
        return None
    if not all(isinstance(cell, str) for cell in cells):
        try:
            return _counts(np.array(cells, np.float64))
        except (TypeError, ValueError):
            return None
    texts = [_ZONE.sub("", str(cell)) if ":" in str(cell) else str(cell) for cell in cells]
    for one in [form] if form else _FORMATS:
        if (found := _parsed(texts, one)) is not None:
            return found, "time"
    if form:
        return None
    try:
        if all("-" in text[1:] for text in texts):  # ISO 8601 with a T, or fractions of a second
            return np.array(texts, "datetime64[ns]").astype(np.int64), "time"
        return _counts(np.array(texts, np.float64))
    except (ValueError, OverflowError):
        return None


def _parsed(texts: list[str], form: str) -> np.ndarray | None:
    """Nanoseconds by one format; None where a text is not written so."""
    try:
        datetime.strptime(texts[0], form)
        if form.startswith("%Y-%m-%d"):  # NumPy reads these a hundred times faster
            if len({len(text) for text in texts}) == 1 and not any("T" in text for text in texts):
                return np.array(texts, "datetime64[ns]").astype(np.int64)
        day = datetime(1970, 1, 1)
        found = (datetime.strptime(text, form) - day for text in texts)
        return np.array(
            [(d.days * 86400 + d.seconds) * _SECOND + d.microseconds * 1000 for d in found], np.int64
        )
    except ValueError:
        return None


def _counts(values: np.ndarray) -> tuple[np.ndarray, str] | None:
    """Whole numbers: Unix times where they are as large as those of 1973 and later, else counts."""
    if not len(values) or not np.isfinite(values).all() or (values != np.floor(values)).any():
        return None
    low = float(values.min())
    for least, size in ((1e17, 1), (1e14, 10**3), (1e11, 10**6), (1e8, 10**9)):
        if low >= least:
            return values.astype(np.int64) * size, "time"
    return values.astype(np.int64), "count"


def either(texts: np.ndarray) -> bool:
    """Whether dates with slashes could be month/day as well as day/month."""
    if texts.dtype != object or not isinstance(texts[0], str) or "/" not in texts[0]:
        return False
    heads = [str(text).split("/") for text in texts]
    return all(
        len(h) > 2 and h[0].isdigit() and h[1].isdigit() and int(h[0]) <= 12 >= int(h[1]) for h in heads
    )


def regular(
    when: np.ndarray, kind: str, *, where: str, irregular: str = "refuse", step: str = ""
) -> tuple[Clock, np.ndarray, list[str]]:
    """The clock of some rows, and the place of each on it.

    Args:
        when: int64 (N,) of `times_of`. kind: its second value.
        where: the file, for messages.
        irregular: ``refuse``, or ``resample``: rows fall into the step that they stand in; several are
            averaged
            by whoever reads.
        step: what the grid is to be; default: found.

    Returns:
        (clock, int64 (N,) places from 0, not sorted; twice the same only after `resample`; notes in words).

    Raises:
        Unreadable: on no grid, or two rows of one time.
    """
    notes: list[str] = []
    order = np.argsort(when, kind="stable")
    if (np.diff(when) < 0).any():
        count = int((np.diff(when) < 0).sum())
        notes.append(f"rows out of order of time: sorted ({count:,} steps back)")
    sorted_ = when[order]
    gaps = np.diff(sorted_)
    again = np.flatnonzero(gaps == 0)
    if len(again) and irregular == "refuse":
        rows = [int(order[i + 1]) + 2 for i in again]
        raise Unreadable(
            "with two rows of one time",
            f"{where}: {len(again):,} rows have the time of another row ({named(sorted(rows))} of the file)",
            expected="one row a time, or a column that says which series a row is of",
            next="options.id=COLUMN, or options.irregular=resample, which averages them",
        )
    if not len(gaps) or not gaps.any():
        return (
            Clock(int(when[0]), 1, "ns" if kind == "time" else "count"),
            np.zeros(len(when), np.int64),
            notes,
        )
    size, unit = step_of(step) if step else _usual(sorted_, kind)
    clock = Clock(int(sorted_[0]), size, unit, unit == "M" and _tail(sorted_))
    at, off = _places(clock, when)
    if off.any():
        rows = [int(i) + 2 for i in np.flatnonzero(off)]
        if irregular == "refuse":
            raise Unreadable(
                "with irregular times",
                f"{where}: {len(rows):,} of {len(when):,} rows stand on no grid of {clock.freq} "
                f"({named(rows)} of the file)",
                expected="times at equal distances (rows may be missing)",
                next="options.irregular=resample averages rows within a step; options.step=15min says which",
            )
        notes.append(
            f"irregular times: {len(rows):,} of {len(when):,} rows resampled to steps of {clock.freq}"
        )
    if int(at.max()) + 1 > max(_LONGEST, 100 * len(when)):
        raise Unreadable(
            "with irregular times",
            f"{where}: {len(when):,} rows spread over {int(at.max()) + 1:,} steps of {clock.freq}",
            expected="a step that fits the rows",
            next="options.step=... with options.irregular=resample",
        )
    return clock, at, notes


def _usual(sorted_: np.ndarray, kind: str) -> tuple[int, str]:
    """The step that occurs most often: a time, months, or working days."""
    gaps = np.diff(sorted_)
    gaps = gaps[gaps > 0]
    if kind == "count":
        return int(np.gcd.reduce(gaps)), "count"
    values, counts = np.unique(gaps, return_counts=True)
    most = int(values[counts.argmax()])
    day = _UNITS["D"]
    whole = sorted_.astype("datetime64[ns]")
    months = whole.astype("datetime64[M]").astype(np.int64)
    same_day = len(np.unique(whole - whole.astype("datetime64[M]").astype("datetime64[ns]"))) == 1
    if gaps.min() >= 28 * day and (same_day or _tail(sorted_)) and (np.diff(months) > 0).all():
        return int(np.gcd.reduce(np.diff(months))), "M"
    if most == day and len(sorted_) > 10 and (gaps > day).any():
        weekday = (whole.astype("datetime64[D]").astype(np.int64) + 3) % 7  # 0: Monday
        if weekday.max() < 5 and (gaps % day == 0).all():
            return 1, "B"
    if 2 * counts.max() <= len(gaps):  # none is usual: a round one of about their size
        middle = float(np.median(gaps))
        most = min(_ROUND, key=lambda size: abs(np.log(size / middle)))
    return most, "ns"


def _tail(sorted_: np.ndarray) -> bool:
    """Whether all times are the last days of their months."""
    days = sorted_.astype("datetime64[ns]").astype("datetime64[D]")
    return bool(((days + 1).astype("datetime64[M]") != days.astype("datetime64[M]")).all())


def _places(clock: Clock, when: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(place of each row, whether it stands beside its place)."""
    if clock.unit in ("ns", "count"):
        at, rest = np.divmod(when - clock.start, clock.step)
        return at, rest != 0
    whole, begin = when.astype("datetime64[ns]"), np.datetime64(clock.start, "ns")
    if clock.unit == "M":
        at = (whole.astype("datetime64[M]") - begin.astype("datetime64[M]")).astype(np.int64) // clock.step
    else:
        at = np.busday_count(begin.astype("datetime64[D]"), whole.astype("datetime64[D]")) // clock.step
    expected = clock.times(0, int(at.max()) + 1)[at] if len(at) and at.min() >= 0 else whole
    return at.astype(np.int64), expected != whole
