"""Forecasting: what comes next in a series, as quantiles of each of the next moments.

The history is read in patches, the horizon stands behind it as patches of which nothing is seen (`_windows`);
quantiles never cross, since they are sorted. A prediction continues the series' own times. In an evaluation
(``data=FILE:test``, and the validation part while training) every window of a part is forecast, also the last
ones, and beside the model stand the last value and the last season repeated.

Metrics: skill (1 − WQL / WQL of the naive forecast: 0 is no better, 1 is perfect), MSE and MAE in deviations
of the training part by channel, MASE, WQL in the data's own units, coverage of the widest interval
(metrics/forecast.py).

Sources: Nie et al. 2023 (PatchTST, arXiv 2211.14730); Koenker & Bassett 1978 (quantile regression).

Key: B rows, T positions, N windows, H steps ahead, Q quantiles
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from exnihilo.codec.series import windows
from exnihilo.codec.series.clock import Clock
from exnihilo.errors import DataError
from exnihilo.metrics import forecast as measures
from exnihilo.metrics.forecast import Tally
from exnihilo.objective._series import Table
from exnihilo.objective._windows import Windowed
from exnihilo.objective.base import Batch, Example, Item
from exnihilo.objective.pieces import firsts

if TYPE_CHECKING:
    from exnihilo.model.model import Model

NAIVES = ("last_value", "seasonal_naive")


class Forecasting(Windowed):
    """What comes next, in quantiles."""

    supervised: ClassVar[bool] = True
    per_item: ClassVar[frozenset[str]] = frozenset({"forecast"})
    main_metric: ClassVar[str] = "skill"
    fresh: ClassVar[Literal["learn", "pretrain"]] = "pretrain"  # of a task's rates it learns half as fast

    class Config(Windowed.Config):
        """Options of windows, and

        Attributes:
            straight: a matrix from the history to the horizon stands beside the trunk (Zeng et al. 2023: on
                many
                series nothing else is needed); it begins as nothing.
            point: what MSE, MAE and MASE are of: the ``median``, or the ``mean`` of the quantiles.
        """

        straight: bool = True
        point: Literal["median", "mean"] = "median"

    config: Forecasting.Config

    @property
    def heads(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("tags", "straight") if self.config.straight else ("tags",)

    @property
    def model_settings(self) -> dict[str, Any]:
        sizes = (self.config.history, self.config.horizon)
        return {**super().model_settings, **({"straight": sizes} if self.config.straight else {})}

    @property
    def levels(self) -> tuple[float, ...]:
        """The quantiles that are said; of loss=mse the mean stands for the median."""
        return (0.5,) if self.config.loss == "mse" else self.config.quantiles

    def hidden_of(self, seen_NP: np.ndarray, keys: Sequence[np.random.Generator] | None) -> np.ndarray:
        del keys
        hidden_NP = np.zeros(seen_NP.shape, bool)
        hidden_NP[:, self.config.history // self.config.patch :] = True
        return hidden_NP

    def straight(self, model: Model, batch: Batch) -> Tensor | None:
        if not self.config.straight:
            return None
        c, series_BTF = self.config, batch["series"]
        p, before = c.patch, c.history // c.patch
        b_N, t_N = firsts(batch).nonzero(as_tuple=True)
        at_P = torch.arange(1, self.positions, device=t_N.device)
        history_NL = series_BTF[b_N.unsqueeze(1), t_N.unsqueeze(1) + at_P[:before], :p].flatten(1)
        head: Any = model.heads["straight"]
        ahead_NH = head.logits(history_NL.to(head.straight.dtype))
        ahead_NH = F.pad(ahead_NH, (0, (self.patches - before) * p - c.horizon))
        out_BTV = ahead_NH.new_zeros(*series_BTF.shape[:2], p)
        where = (b_N.unsqueeze(1), t_N.unsqueeze(1) + at_P[before:])
        return out_BTV.index_put(where, ahead_NH.unflatten(1, (-1, p)))

    # predictions --------------------------------------------------------------------------------

    def outputs(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        """{"forecast": (N, H, Q)} in deviations of the training part."""
        if "level" not in batch:
            batch = {**batch, **self._asked(batch)}
        first_BT = firsts(batch)
        b_N, t_N = first_BT.nonzero(as_tuple=True)
        ahead = torch.arange(1 + self.config.history // self.config.patch, self.positions, device=t_N.device)
        states_NPD = hidden_BTD[b_N.unsqueeze(1), t_N.unsqueeze(1) + ahead]
        said_NPVQ = self.said(model, states_NPD)
        if (more_BTV := self.straight(model, batch)) is not None:
            more_NPV = more_BTV[b_N.unsqueeze(1), t_N.unsqueeze(1) + ahead]
            said_NPVQ = said_NPVQ + more_NPV.to(said_NPVQ.dtype).unsqueeze(-1)
        said_NHQ = said_NPVQ.flatten(1, 2)[:, : self.config.horizon]
        level_N12 = batch["level"][first_BT].to(said_NHQ.dtype).unsqueeze(1)
        forecast_NHQ = level_N12[..., :1] + level_N12[..., 1:] * said_NHQ.sort(-1).values
        return {"forecast": forecast_NHQ}

    def decode(
        self, example: Example, items: Sequence[Item], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> dict[str, Any]:
        """Of a series: {"forecasts": [{"series", "channel", "time", "median", "0.1", ...}]}, in the data's
        own units. Of a part of one: {"windows", "sums": {"model", "last_value", "seasonal_naive"}}, what
        `score` adds up."""
        tables = self.tables(example)
        if not outputs:
            raise DataError(
                f"{_short(example)}: no window of it has values in its history and its horizon",
                expected=f"{self.config.history} + {self.config.horizon} values, some of them there",
                next="a shorter options.history or options.horizon",
            )
        if "part" in example:
            return self._measured(tables, items, outputs)
        found: list[dict[str, Any]] = []
        for item, out in zip(items, outputs, strict=True):
            table, channel = tables[int(item["number"])], int(item["channel"])
            found.append(self._told(table, channel, np.asarray(out["forecast"], np.float64)))
        missing = sum(table.series.missing for table in tables)
        return {"forecasts": found, **({"missing": missing} if missing else {})}

    def _told(self, table: Table, channel: int, forecast_HQ: np.ndarray) -> dict[str, Any]:
        mean, std = table.moments[channel]
        series = table.series
        clock = series.clock or Clock()
        out: dict[str, Any] = {"series": series.name, "channel": series.channels[channel]}
        out["time"] = written(clock.times(len(series), self.config.horizon), clock)
        own_HQ = mean + std * forecast_HQ
        if self.config.loss == "mse":
            return {**out, "mean": own_HQ[:, 0].tolist()}
        return {**out, **{f"{q:g}": own_HQ[:, i].tolist() for i, q in enumerate(self.levels)}}

    # metrics ------------------------------------------------------------------------------------

    def _measured(
        self, tables: Sequence[Table], items: Sequence[Item], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> dict[str, Any]:
        groups: dict[tuple[int, int], list[int]] = {}
        for n, item in enumerate(items):
            groups.setdefault((int(item["number"]), int(item["channel"])), []).append(n)
        own, naive = Tally(self.levels), {name: Tally(self.levels) for name in NAIVES}
        for (number, channel), mine in groups.items():
            starts = np.array([int(items[n]["start"]) for n in mine])
            forecast_NHQ = np.stack([outputs[n]["forecast"] for n in mine])
            self._add(tables[number], channel, starts, own, naive, forecast_NHQ)
        sums = {"model": own.sums, **{name: tally.sums for name, tally in naive.items()}}
        return {"windows": len(items), "sums": sums}

    def _add(
        self,
        table: Table,
        channel: int,
        starts: np.ndarray,
        own: Tally | None,
        naive: Mapping[str, Tally],
        forecast_NHQ: np.ndarray | None,
    ) -> None:
        """Adds the windows of a channel to the tallies."""
        c, column_L1 = self.config, table.values[:, [channel]]
        actual_NH = windows.cut(column_L1, starts, history=0, rows=c.horizon)[..., 0]
        past_NL = windows.cut(column_L1, starts, history=c.history, rows=c.history)[..., 0]
        mean, std = table.moments[channel]
        scale_N = np.full(len(starts), measures.naive_scale(column_L1[: table.fitted, 0], self.period))
        if table.fitted >= len(table.values):  # no training part: each window's own history
            scale_N = np.array([measures.naive_scale(past, self.period) for past in past_NL])
        sizes: dict[str, Any] = {
            "unit_N": np.full(len(starts), std), "zero_N": np.full(len(starts), mean), "scale_N": scale_N
        }  # fmt: skip
        if own is not None and forecast_NHQ is not None:
            point_NH = forecast_NHQ.mean(-1) if c.point == "mean" else None
            own.add(actual_NH, forecast_NHQ, point_NH=point_NH, **sizes)
        for name, tally in naive.items():
            period = self.period if name == "seasonal_naive" else 1
            point_NH = np.nan_to_num(measures.seasonal_naive(past_NL, period, c.horizon))
            tally.add(actual_NH, measures.points(point_NH, len(self.levels)), **sizes)

    def score(
        self, predictions: Sequence[Mapping[str, Any]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Figures of all windows; those of the naive forecasts under their names."""
        del examples
        found = [p["sums"] for p in predictions if "sums" in p]
        if not found:
            raise DataError(
                "forecasts of the future have no truth to be held against",
                expected="examples with a part",
                next="data=FILE:test",
            )
        own = measures.total(self.levels, (f["model"] for f in found)).figures()
        out = dict(own)
        base: dict[str, float] = {}
        for name in NAIVES:
            figures = measures.total(self.levels, (f[name] for f in found)).figures()
            out.update({f"{name}_{key}": figures[key] for key in ("mse", "mae", "mase", "wql")})
            base = figures  # the seasonal one comes last
        return {"skill": _skill(own["wql"], base["wql"]), **out}

    def majority(self, examples: Sequence[Example]) -> dict[str, float]:
        """The same figures of the last season repeated (of the last value, where there is no season)."""
        tally = Tally(self.levels)
        for table, channel, starts in self._windows(examples):
            self._add(table, channel, starts, None, {"seasonal_naive": tally}, None)
        found = tally.figures()
        found.pop("coverage", None)  # a point has no interval
        return {"skill": 0.0, **found}

    def _windows(self, examples: Sequence[Example]) -> Iterator[tuple[Table, int, np.ndarray]]:
        """The windows of each channel that an evaluation forecasts."""
        for example in examples:
            tables = self.tables(example)
            for table in tables:
                starts = self.forecast_from(example, table, tables)
                for channel in range(table.values.shape[1]):
                    column_L1 = table.values[:, [channel]]
                    past = windows.cut(
                        column_L1, starts, history=self.config.history, rows=self.config.history
                    )
                    yield table, channel, starts[~np.isnan(past[..., 0]).all(1)]


def written(times: np.ndarray, clock: Clock) -> list[Any]:
    """Times as text: dates where nothing else is told, counts as they are.

    >>> written(Clock(0, 86400 * 10**9, "ns").times(1, 2), Clock(0, 86400 * 10**9, "ns"))
    ['1970-01-02', '1970-01-03']
    """
    if clock.unit == "count":
        return times.tolist()
    day = 86400 * 10**9
    whole = clock.start % day == 0 and (clock.unit in ("M", "B") or clock.step % day == 0)
    unit = "D" if whole else "s" if clock.step % 10**9 == 0 or clock.unit != "ns" else "ns"
    return [str(t).replace("T", " ") for t in np.datetime_as_string(times, unit=unit)]


def _skill(own: float, base: float) -> float:
    return 1 - own / base if base and math.isfinite(base) else math.nan


def _short(example: Example) -> str:
    text = str(example.get("series"))
    return text if len(text) <= 60 else text[:57] + "..."
