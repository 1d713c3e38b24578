"""What every training type of series has in common: which columns of a table are what, the split by time, and
what is learnt of the training part before the first step.

::

    class Mine(Serial):
        def encode_many(self, examples, codec):
            for example in examples:
                for number, series in enumerate(self.series_of(example)): ...

An example's role ``series`` is a file's name, a row of JSON, or ``world:KIND:SEED`` (`codec.series.read`);
its role ``part`` says which rows of it the example is about: train, val, test or all; without it a prediction
is asked for. Values are in deviations of the series' training part.

Key: L moments, C channels, K covariates known ahead, P covariates of the past
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from exnihilo.codec.series import windows
from exnihilo.codec.series.clock import step_of
from exnihilo.codec.series.read import Reading, Series, load
from exnihilo.codec.series.table import Unreadable
from exnihilo.codec.series.windows import Norm
from exnihilo.data.base import Noted
from exnihilo.errors import CodecError, DataError
from exnihilo.nn.layout import Attention
from exnihilo.objective.base import Example, Item, Objective

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec

INPUT = "series"
"""The name of the column that the model's front end reads, and of the role."""
PARTS = ("train", "val", "test", "all")
_CLASSES = 64  # names of a static column that are told apart
_NOTES = 20  # of the files, that are said


def _listed(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(
            v.strip() for v in value.strip().removeprefix("[").removesuffix("]").split(",") if v.strip()
        )
    return value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]


@dataclass(frozen=True)
class Table:
    """A series as a model reads it.

    Attributes:
        series: as it was read.
        values: float64 (L, C), in deviations of the training part.
        more: float64 (M, K + P), standardised covariates, 0 where missing; those of the past NaN behind L.
        moments: (mean, deviation) of each channel.
        static: float64 (S,).
        low, high: the rows whose values the example is about.
        fitted: how many rows from the beginning may be learnt from.
    """

    series: Series
    values: np.ndarray
    more: np.ndarray
    moments: tuple[tuple[float, float], ...]
    static: np.ndarray
    low: int
    high: int
    fitted: int


class Serial(Objective):
    """Series as rows of patches."""

    attention: ClassVar[Attention] = Attention.FULL
    roles: ClassVar[tuple[str, ...]] = ("series",)
    extras: ClassVar[tuple[str, ...]] = ("part",)
    asks: ClassVar[tuple[str, ...]] = (INPUT,)
    view: ClassVar[str] = "series"

    class Config(Objective.Config):
        """Options.

        Attributes:
            time, time_format, id, targets, known, past, static, irregular, step: what the columns of a table
                are; see `codec.series.read.Reading`.
            split: what is trained on, validated and tested: three shares of each series, or three counts of
                rows.
            patch: values of a position.
            norm: what a window is normalised by: ``mean`` (its own mean and deviation), ``last`` (its last
                value
                and deviation), ``none``.
            period: steps of a season, for the naive forecast and MASE; default: by the clock (a day of
                hours).
            bad: files that cannot be read: ``skip`` (left out, counted with their names) or ``stop``.
        """

        time: str = ""
        time_format: str = ""
        id: str = ""
        targets: Names = ()
        known: Names = ()
        past: Names = ()
        static: Names = ()
        irregular: Literal["refuse", "resample"] = "refuse"
        step: str = ""
        split: tuple[float, float, float] = (0.7, 0.1, 0.2)
        patch: int = Field(default=8, ge=1)
        norm: Norm = "mean"
        period: int | None = Field(default=None, ge=1)
        bad: Literal["skip", "stop"] = "skip"

        @model_validator(mode="after")
        def _check_columns(self) -> Serial.Config:
            roles = {"time": (self.time,), "id": (self.id,)}
            roles |= {n: getattr(self, n) for n in ("targets", "known", "past", "static")}
            told: dict[str, str] = {}
            for role, names in roles.items():
                for name in filter(None, names):
                    if name in told:
                        raise ValueError(f"{role} and {told[name]} both name {name!r}")
                    told[name] = role
            if self.step:
                step_of(self.step)
            if any(s < 0 for s in self.split) or not self.split[0] > 0:
                raise ValueError("split is three numbers from 0 up, the first above 0")
            counts = any(s > 1 for s in self.split)
            if not counts and sum(self.split) > 1 + 1e-9:
                raise ValueError("shares of split that add up to more than 1")
            if counts and any(s != int(s) for s in self.split):
                raise ValueError("split is either three shares of 1 or three counts of rows")
            return self

    config: Serial.Config

    def __init__(
        self, config: Any = None, *, length: int | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(config, length=length, facts=facts)
        self._strict = False  # while a prediction is asked for

    @property
    def reading(self) -> Reading:
        """What the columns of a table are."""
        c = self.config
        return Reading(c.time, c.time_format, c.id, c.targets, c.known, c.past, c.static, c.irregular, c.step)

    @property
    def ahead(self) -> int:
        """Moments that a part of the split must hold at least."""
        return 1

    @property
    def period(self) -> int:
        """Steps of a season."""
        return self.config.period or int(self.facts.get("period", 1))

    # reading ------------------------------------------------------------------------------------

    def series_of(self, example: Example) -> list[Series]:
        """The series of an example.

        Raises:
            Unreadable: of no use, with the file's name.
        """
        source = example.get(INPUT)
        if not isinstance(source, str) or not source.strip():
            raise Unreadable("without a series", "an example without a series", expected="a role 'series'")
        return load(source, self.reading)

    def tables(self, example: Example) -> list[Table]:
        """The series of an example, as a model reads them."""
        return [self.table(series, example.get("part")) for series in self.series_of(example)]

    def table(self, series: Series, part: str | None) -> Table:
        """One series, standardised by its training part (of one that is only asked about: by what training
        knew of its channels, else by itself)."""
        if part is not None and part not in PARTS:
            raise DataError(f"part={part!r}", expected=", ".join(PARTS))
        L = len(series)
        cuts = windows.parts(L, self.config.split, self.ahead) if part not in (None, "all") else {}
        low, high = cuts.get(part or "", (0, L))
        fitted = cuts["train"][1] if cuts else L
        found = [self._moments(series, c, fitted if cuts else None) for c in range(len(series.channels))]
        mean_C, std_C = (np.array([m[i] for m in found]) for i in (0, 1))
        return Table(
            series, (series.values - mean_C) / std_C, self._covariates(series), tuple(found),
            self._static(series), low, high, fitted,
        )  # fmt: skip

    def _moments(self, series: Series, channel: int, fitted: int | None) -> tuple[float, float]:
        """Mean and deviation of a channel."""
        known = (self.facts.get("moments") or {}).get(series.channels[channel])
        if fitted is None and known is not None:
            return float(known[0]), float(known[1])
        return windows.moments(series.values[:fitted, channel])

    def _covariates(self, series: Series) -> np.ndarray:
        """Standardised covariates (M, K + P)."""
        K, P = self.width("known"), self.width("past")
        for name, have, want in (("known", series.known.shape[1], K), ("past", series.past.shape[1], P)):
            if want and have != want:
                raise Unreadable(
                    f"without its {want} {name} covariates",
                    f"series {series.name!r} has {have} covariates of options.{name}",
                    expected=str(want),
                )
        M = max(len(series), len(series.known) if K else 0)
        out = np.full((M, K + P), np.nan)
        out[: len(series.known), :K] = series.known[:, :K]
        out[: len(series.past), K:] = series.past[:, :P]
        for i, (mean, std) in enumerate([*self.facts.get("known", ()), *self.facts.get("past", ())]):
            out[:, i] = (out[:, i] - mean) / std
        return out

    def width(self, role: str) -> int:
        """Covariates of a role: those of the training data, before it is known those of the options."""
        return len(self.facts.get(role, getattr(self.config, role)))

    def _static(self, series: Series) -> np.ndarray:
        out: list[float] = []
        for name, kind in self.facts.get("static", ()):
            value = series.static.get(name)
            if isinstance(kind[0], str):
                out += [float(str(value) == one) for one in kind]
            else:
                out.append((float(value) - kind[0]) / kind[1] if isinstance(value, (int, float)) else 0.0)
        return np.array(out)

    @property
    def statics(self) -> int:
        """Numbers of the static columns."""
        return sum(len(kind) if isinstance(kind[0], str) else 1 for _, kind in self.facts.get("static", ()))

    # facts --------------------------------------------------------------------------------------

    def survey(self, examples: Iterable[Example]) -> dict[str, Any]:
        """Channels, moments, covariates, clock, season, what is missing: of the training part alone."""
        found = _Survey(self)
        for example in examples:
            try:
                for series in self.series_of(example):
                    found.add(series, example.get("part"))
            except Unreadable:
                if self.config.bad == "stop":
                    raise  # else left out and counted while the data is prepared
        return found.facts()

    # items --------------------------------------------------------------------------------------

    def items_of(self, example: Example, codec: Codec, *, asked: bool) -> list[Item]:
        """The items of an example; `asked`: of a prediction or an evaluation, else of a data set."""
        raise self._lacks("items_of()")

    def encode(self, example: Example, codec: Codec) -> Item | list[Item]:
        return self.encode_many([example], codec)[0]

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        """Items of each; what cannot be read has none and a note of the reason (once a series), or stops the
        run."""
        out: list[list[Item]] = []
        for example in examples:
            try:
                items = self.items_of(example, codec, asked=False)
            except Unreadable as error:
                if self.config.bad == "stop":
                    raise
                out.append(Noted([], "" if example.get("part") == "val" else error.reason))
            else:
                out.append(
                    items or Noted([], "" if example.get("part") == "val" else "too short for a window")
                )
        return out

    def query(self, example: Example, codec: Codec) -> Item | list[Item]:
        return self.items_of(example, codec, asked=True)

    @staticmethod
    def cls(codec: Codec) -> int:
        """The id of the mark before each series."""
        if codec.cls_id is None:
            raise CodecError(
                "the tokenizer has no [CLS], which stands before each series",
                expected="codec.kind=marks, or an encoder's tokenizer",
                next="codec.kind=marks",
            )
        return codec.cls_id


class _Survey:
    """What is learnt of the training part."""

    def __init__(self, objective: Serial) -> None:
        self.objective = objective
        self.channels: tuple[str, ...] = ()
        self.sums: dict[str, np.ndarray] = {}  # channel -> count, sum, sum of squares
        self.covariates: dict[str, list[np.ndarray]] = {"known": [], "past": []}
        self.static: dict[str, list[float | str]] = {}
        self.count = self.rows = self.missing = self.constant = 0
        self.freqs: dict[str, int] = {}
        self.periods: dict[int, int] = {}
        self.notes: list[str] = []

    def add(self, series: Series, part: str | None) -> None:
        o = self.objective
        cuts = windows.parts(len(series), o.config.split, o.ahead) if part not in (None, "all") else {}
        end = cuts["train"][1] if cuts else len(series)
        if (
            self.count
            and len(series.channels) != len(self.channels)
            and not set(self.channels) & set(series.channels)
        ):
            self.notes.append(f"series {series.name!r} has other channels: {', '.join(series.channels)}")
        self.channels = tuple(dict.fromkeys((*self.channels, *series.channels)))
        self.count += 1
        held = series.values[:end]
        self.rows += len(held)
        self.missing += int(np.isnan(held).sum())
        for name, column in zip(series.channels, held.T, strict=True):
            good = column[~np.isnan(column)]
            self.constant += bool(len(good)) and bool((good == good[0]).all())
            own = np.array([len(good), good.sum(), np.square(good).sum()])
            self.sums[name] = self.sums.get(name, np.zeros(3)) + own
            if self.count == 1:
                self.first = {**getattr(self, "first", {}), name: windows.moments(column)}
        self.covariates["known"].append(series.known[:end])
        self.covariates["past"].append(series.past[:end])
        for name, value in series.static.items():
            self.static.setdefault(name, []).append(value)
        if series.clock is not None:
            self.freqs[series.clock.freq] = self.freqs.get(series.clock.freq, 0) + 1
            self.periods[series.clock.period] = self.periods.get(series.clock.period, 0) + 1
        self.notes += series.notes

    def facts(self) -> dict[str, Any]:
        """JSON.

        Raises:
            DataError: there is no series at all.
        """
        if not self.count:
            raise DataError(
                "no series can be read",
                expected="at least one",
                next="check data=PATH; options.bad=stop says why",
            )
        out: dict[str, Any] = {"channels": list(self.channels), "series": self.count, "rows": self.rows}
        if self.count == 1:
            out["moments"] = {name: list(pair) for name, pair in self.first.items()}
        out["spans"] = {name: _pooled(*sums) for name, sums in self.sums.items()}
        for role, parts in self.covariates.items():
            width = max((p.shape[1] for p in parts if p.size), default=0)
            columns = np.concatenate([p for p in parts if p.shape[1] == width]) if width else np.zeros((0, 0))
            out[role] = [list(windows.moments(column)) for column in columns.T]
        out["static"] = [[name, self._kind(values)] for name, values in sorted(self.static.items())]
        out["missing"], out["constant"] = self.missing, self.constant
        if self.freqs:
            out["freq"] = max(self.freqs, key=lambda f: self.freqs[f])
            out["period"] = max(self.periods, key=lambda p: self.periods[p])
        else:
            out["period"] = 1
        said = list(dict.fromkeys(self.notes))
        notes = [f"series: {note}" for note in said[:_NOTES]]
        if len(said) > _NOTES:
            notes.append(f"series: and {len(said) - _NOTES:,} more such notes")
        if len(self.freqs) > 1:
            shown = ", ".join(f"{n:,} of {freq}" for freq, n in self.freqs.items())
            notes.append(f"series: steps differ: {shown}; the season is taken from {out['freq']}")
        values = self.rows * max(1, len(self.channels))
        if self.missing:
            notes.append(
                f"series: {self.missing:,} of {values:,} training values are missing: masked, never filled"
            )
        if self.constant:
            notes.append(f"series: {self.constant:,} channels are constant in the training part")
        period = self.objective.config.period or out["period"]
        freq = out.get("freq", "no clock")
        notes.append(
            f"series: {self.count:,} of {len(self.channels):,} channels, {freq}; season of {period} steps"
        )
        return {**out, "notes": notes}

    @staticmethod
    def _kind(values: Sequence[float | str]) -> list[Any]:
        if all(isinstance(v, float) for v in values):
            return list(windows.moments(np.array(values, np.float64)))
        return sorted({str(v) for v in values})[:_CLASSES]


def _pooled(count: float, total: float, squares: float) -> list[float]:
    """(mean, deviation) of sums; a deviation of 0 counts as 1."""
    if not count:
        return [0.0, 1.0]
    mean = total / count
    std = float(np.sqrt(max(0.0, squares / count - mean * mean)))
    return [float(mean), std if std > 1e-6 * max(1.0, abs(mean)) else 1.0]
