"""Windows of series as rows of patches, some of them hidden: what `forecasting` and `masked_series` share.

An item is [CLS], then the patches of one channel's window: history, then horizon. A position is given the
values of its patch, less the window's own mean and over its own deviation, whether each value is there, the
covariates, and what is static. What is hidden looks like what is missing: zeros that say that they are none.
A forecast hides the horizon, pretraining hides patches anywhere; the head ``tags`` then says quantiles (or
the mean) of each value of a hidden patch. Channels are read one by one, with the same weights.

What is stored of an item is a stretch of its series in which `stride` windows lie; each time a row is seen,
one of them is drawn. So all windows are trained on, and little is stored.

Sources: Nie et al. 2023 (PatchTST, arXiv 2211.14730); Kim et al. 2022 (RevIN); Das et al. 2024 (TimesFM,
arXiv 2310.10688) and Woo et al. 2024 (Moirai, arXiv 2402.02592) for masked futures and quantiles.

Key: B rows, T positions, N windows, R rows of a stretch, W columns of a table, P patches, Q quantiles, F
numbers
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from exnihilo.codec.series import windows
from exnihilo.errors import ConfigError, DataError
from exnihilo.objective._series import INPUT, Serial, Table
from exnihilo.objective.base import Batch, Columns, Example, Item, Look

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

DECILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
LOSS_WINDOWS, LEAST_WINDOWS = 8192, 16
"""Windows of an example, and of each of its channels at least, that a run is validated on: evenly spread.
What is measured of a part that is named (``data=FILE:test``) is over all."""


class Windowed(Serial):
    """Windows with hidden patches."""

    heads: ClassVar[tuple[str, ...]] = ("tags",)
    columns: ClassVar[frozenset[str]] = frozenset(
        {"tokens", "doc", "pos", "kind", "series", "mask", "target", "weight"}
    )

    class Config(Serial.Config):
        """Options of what is read, and

        Attributes:
            history: values that a forecast may look at.
            horizon: values that are forecast.
            quantiles: of the forecasts; the one nearest to 0.5 is the point.
            loss: ``quantile`` (pinball loss of the quantiles) or ``mse`` (of one number, the mean).
            weigh: ``window``: every window counts as much, whatever its size; ``value``: errors count in
                deviations
                of the training part, so that windows that vary much count more.
            stride: windows that are stored as one stretch; default: the horizon. Changes storage, and how
                often
                windows come in one pass; all are trained on.
        """

        history: int = Field(default=96, ge=1)
        horizon: int = Field(default=24, ge=1)
        quantiles: tuple[float, ...] = DECILES
        loss: Literal["quantile", "mse"] = "quantile"
        weigh: Literal["window", "value"] = "window"
        stride: int | None = Field(default=None, ge=1)

        @model_validator(mode="after")
        def _check_windows(self) -> Windowed.Config:
            if self.history % self.patch:
                near = max(1, round(self.history / self.patch)) * self.patch
                raise ValueError(f"history={self.history} is no multiple of patch={self.patch}: try {near}")
            if list(self.quantiles) != sorted(set(self.quantiles)) or not all(
                0 < q < 1 for q in self.quantiles
            ):
                raise ValueError("quantiles are numbers between 0 and 1 that rise")
            if not self.quantiles:
                raise ValueError("quantiles names none")
            return self

    config: Windowed.Config

    def __init__(
        self, config: Any = None, *, length: int | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(config, length=length, facts=facts)
        if length is not None and length < self.positions:
            raise ConfigError(
                f"model.context={length} positions, a window takes {self.positions}",
                expected=f"1 + {self.config.history} / {self.config.patch} of the history, and "
                f"{self.patches - self.config.history // self.config.patch} of the horizon",
                next=f"model.context={self.positions}, or a larger options.patch",
            )

    # shapes -------------------------------------------------------------------------------------

    @property
    def ahead(self) -> int:
        return self.config.horizon

    @property
    def patches(self) -> int:
        """Patches of a window: P."""
        return self.config.history // self.config.patch + -(-self.config.horizon // self.config.patch)

    @property
    def positions(self) -> int:
        """[CLS] and the patches: T of an item."""
        return 1 + self.patches

    @property
    def rows(self) -> int:
        """Rows of the stretch that an item stores: R."""
        return self.patches * self.config.patch + (self.config.stride or self.config.horizon) - 1

    @property
    def table_width(self) -> int:
        """Columns of a stretch: W."""
        return 1 + self.width("known") + self.width("past")

    @property
    def outputs_of_value(self) -> int:
        """Numbers that are said of each hidden value: Q, or 1."""
        return 1 if self.config.loss == "mse" else len(self.config.quantiles)

    @property
    def labels(self) -> int | None:
        return self.config.patch * self.outputs_of_value

    @property
    def model_settings(self) -> dict[str, Any]:
        numbers = self.config.patch * (1 + self.table_width) + self.statics
        return {**super().model_settings, "inputs": {INPUT: (numbers,)}}

    def survey(self, examples: Any) -> dict[str, Any]:
        c = self.config
        told = [f"{c.patch} values", *(map(str, c.quantiles) if c.loss == "quantile" else ("mean",))]
        return {**super().survey(examples), "outputs": told}

    # data ---------------------------------------------------------------------------------------

    def items_of(self, example: Example, codec: Codec, *, asked: bool) -> list[Item]:
        cls = self.cls(codec)
        out: list[Item] = []
        part, tables = example.get("part"), self.tables(example)
        for number, table in enumerate(tables):
            if asked and part is None:
                starts, offsets = np.array([len(table.values)]), np.ones(1, np.int64)
                self._check_ahead(table)
            elif asked or part in ("val", "test"):
                starts = self.forecast_from(example, table, tables, asked=asked)
                offsets = np.ones(len(starts), np.int64)
            else:
                starts, offsets = self._stretches(table)
            for channel in range(table.values.shape[1]):
                out += self._items(table, number, channel, starts, offsets, cls)
        return out

    def starts(self, table: Table) -> np.ndarray:
        """The first forecast moment of every window of a table's part."""
        c = self.config
        return windows.origins(table.low, table.high, history=c.history, horizon=c.horizon)

    def forecast_from(
        self, example: Example, table: Table, tables: Sequence[Table], *, asked: bool = True
    ) -> np.ndarray:
        """The windows that an evaluation forecasts: all; of a run's own validation part some."""
        if asked and "_split" not in example:
            return self.starts(table)
        channels = sum(one.values.shape[1] for one in tables)
        return windows.spread(self.starts(table), max(LEAST_WINDOWS, LOSS_WINDOWS // max(1, channels)))

    def _stretches(self, table: Table) -> tuple[np.ndarray, np.ndarray]:
        """(the first window of each stretch, how many windows lie in it)."""
        starts, stride = self.starts(table), self.config.stride or self.config.horizon
        groups = np.array_split(starts, -(-len(starts) // stride)) if len(starts) else []
        return np.array([g[0] for g in groups], np.int64), np.array([len(g) for g in groups], np.int64)

    def _items(
        self, table: Table, number: int, channel: int, starts: np.ndarray, offsets: np.ndarray, cls: int
    ) -> list[Item]:
        c, T = self.config, self.positions
        M = max(len(table.values), len(table.more))
        joined = np.full((M, self.table_width), np.nan)
        joined[: len(table.values), 0] = table.values[:, channel]
        joined[: len(table.more), 1:] = table.more
        rows_NRW = windows.cut(joined, starts, history=c.history, rows=self.rows)
        held = np.asarray(~np.isnan(rows_NRW[:, : c.history + int(offsets.max(initial=1)) - 1, 0]).all(1))
        ahead = np.asarray(~np.isnan(rows_NRW[:, c.history :, 0]).all(1))
        live = len(starts) == 1 and starts[0] >= len(table.values)
        flat = rows_NRW.reshape(len(starts), 1, -1)
        static = np.broadcast_to(table.static, (len(starts), 1, len(table.static)))
        folded_NTS = windows.fold(np.concatenate((flat, static), 2), T)
        tokens, kind = np.zeros(T, np.int32), np.ones(T, np.int8)
        tokens[0], kind[0] = cls, 0
        return [
            {
                "tokens": tokens, "kind": kind, "values": folded_NTS[n], "offsets": int(offsets[n]),
                "number": number, "channel": channel, "start": int(starts[n]),
            }
            for n in range(len(starts))
            if held[n] and (ahead[n] or live)
        ]  # fmt: skip

    def _check_ahead(self, table: Table) -> None:
        """Covariates that are known ahead must be, where a forecast is asked for."""
        K = self.width("known")
        have = len(table.series.known) - len(table.values) if K else self.config.horizon
        if have < self.config.horizon:
            names = self.config.known or tuple(f"feat_dynamic_real {i}" for i in range(K))
            raise DataError(
                f"series {table.series.name!r}: {', '.join(names)} known for {max(0, have)} of "
                f"{self.config.horizon} moments ahead",
                expected="rows behind the last value that hold the covariates, their targets empty",
                next="add them, or train without options.known",
            )

    # windows as a model reads them --------------------------------------------------------------

    def hidden_of(self, seen_NP: np.ndarray, keys: Sequence[np.random.Generator] | None) -> np.ndarray:
        """Which patches are hidden, bool (N, P); what is asked about where there are no keys.

        Args:
            seen_NP: patches of which some value is there.
        """
        raise self._lacks("hidden_of()")

    def draw(self, columns: Columns, keys: Sequence[np.random.Generator], look: Look) -> Columns:
        dropped = ("values", "offsets", "number", "channel", "start")
        out = {name: value for name, value in columns.items() if name not in dropped}
        return out | self._made(columns, keys, look.training)

    def _made(self, columns: Columns, keys: Sequence[np.random.Generator] | None, moving: bool) -> Columns:
        """The columns series (B, T, F), target (B, T, patch), mask, weight and level (B, T, 2) of stored
        windows."""
        p, P, T = self.config.patch, self.patches, self.positions
        tokens = columns["tokens"]
        b_N, t_N = np.nonzero(_begins(columns))
        at_NT = t_N[:, None] + np.arange(T)
        rows_NRW, static_NS = self._stored(columns["values"][b_N[:, None], at_NT])
        mine = [keys[int(b)] for b in b_N] if keys is not None else None
        offset_N = np.zeros(len(b_N), np.int64)
        if moving and mine is not None:
            offset_N = np.array(
                [g.integers(n) for g, n in zip(mine, columns["offsets"][b_N, t_N], strict=True)]
            )
            offset_N = offset_N.astype(np.int64).reshape(len(b_N))
        window_NRW = rows_NRW[np.arange(len(b_N))[:, None], offset_N[:, None] + np.arange(P * p)]
        window_NRW[:, self.config.history + self.config.horizon :, 0] = np.nan  # beyond the horizon's end
        made = self._patches(window_NRW, static_NS, mine)
        B, L = tokens.shape
        out: Columns = {}
        for name, value in made.items():
            empty = np.zeros((B, L, *value.shape[2:]), value.dtype)
            empty[b_N[:, None], at_NT] = value
            out[name] = empty
        return out

    def _stored(self, folded_NTS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(rows (N, R, W), static numbers (N, S)) of what items hold."""
        R, W = self.rows, self.table_width
        N = len(folded_NTS)
        flat = folded_NTS.reshape(N, folded_NTS.shape[1] * folded_NTS.shape[2])
        return flat[:, : R * W].reshape(N, R, W), flat[:, R * W : R * W + self.statics]

    def _patches(
        self, window_NRW: np.ndarray, static_NS: np.ndarray, keys: Sequence[np.random.Generator] | None
    ) -> dict[str, np.ndarray]:
        """What positions hold, and what is asked of them, with [CLS] in front."""
        N, (p, P), K = len(window_NRW), (self.config.patch, self.patches), self.width("known")
        values_NPV = window_NRW[..., 0].reshape(N, P, p)
        there_NPV = ~np.isnan(values_NPV)
        hidden_NP = self.hidden_of(np.asarray(there_NPV.any(2)), keys)
        seen_NPV = there_NPV & ~hidden_NP[..., None]
        z_NR1, level_N12 = windows.normalise(
            values_NPV.reshape(N, P * p, 1), seen_NPV.reshape(N, P * p, 1), self.config.norm
        )
        z_NPV = z_NR1.reshape(N, P, p)
        more_NPVW = window_NRW[..., 1:].reshape(N, P, p, self.table_width - 1)
        more_NPVW = np.where(np.isnan(more_NPVW), 0.0, more_NPVW).astype(np.float32)
        more_NPVW[..., K:] *= ~hidden_NP[:, :, None, None]
        series_NTF = np.zeros((N, 1 + P, p * (1 + self.table_width) + self.statics), np.float32)
        series_NTF[:, 1:, :p] = np.where(seen_NPV, z_NPV, 0.0)
        series_NTF[:, 1:, p : 2 * p] = seen_NPV
        series_NTF[:, 1:, 2 * p : p * (1 + self.table_width)] = more_NPVW.reshape(
            N, P, p * (self.table_width - 1)
        )
        series_NTF[:, 1:, p * (1 + self.table_width) :] = np.where(np.isnan(static_NS), 0.0, static_NS)[
            :, None
        ]
        target_NTV = np.full((N, 1 + P, p), np.nan, np.float32)
        target_NTV[:, 1:] = np.where(hidden_NP[..., None], z_NPV, np.nan)
        mask_NT = np.zeros((N, 1 + P), np.int64)
        mask_NT[:, 1:] = hidden_NP
        scale_N = level_N12[:, 0, 1]
        power = 0.0 if self.config.weigh == "window" else 2.0 if self.config.loss == "mse" else 1.0
        weight_NT = np.repeat((scale_N**power)[:, None], 1 + P, 1).astype(np.float32)
        level_NT2 = np.repeat(level_N12, 1 + P, 1).astype(np.float32)
        return {
            "series": series_NTF, "target": target_NTV, "mask": mask_NT,
            "weight": weight_NT, "level": level_NT2,
        }  # fmt: skip

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        found = super().inputs(batch)
        series = batch["series"] if "series" in batch else self._asked(batch)["series"]
        return {**found, "kind": batch["kind"], INPUT: series}

    def _asked(self, batch: Batch) -> dict[str, Tensor]:
        """The drawn columns of windows that are only asked about, from what is stored."""
        if "values" not in batch:
            raise DataError("a batch without series or values", expected="items of this objective")
        names = ("tokens", "values", "doc", "pos")
        host = {name: batch[name].cpu().numpy() for name in names if name in batch}
        made = self._made(host, None, False)
        return {name: torch.from_numpy(value).to(batch["tokens"].device) for name, value in made.items()}

    # training -----------------------------------------------------------------------------------

    @property
    def term(self) -> str:
        """The loss's name."""
        return "mse" if self.config.loss == "mse" else "pinball"

    @staticmethod
    def _hidden(batch: Batch) -> Tensor:
        hidden_BT = batch["mask"] == 1
        return hidden_BT & (batch["doc"] >= 0) if "doc" in batch else hidden_BT

    def reads(self, batch: Batch) -> Tensor | None:
        return self._hidden(batch) if "mask" in batch else None

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        target_NV = batch["target"][self._hidden(batch)]
        return {self.term: (~target_NV.isnan()).to(torch.float64).sum()}

    def said(self, model: Model, hidden_ND: Tensor) -> Tensor:
        """(..., D) -> (..., patch, Q), at least float32."""
        head: Any = model.heads["tags"]
        logits = head.logits(hidden_ND)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits.unflatten(-1, (self.config.patch, self.outputs_of_value))

    def straight(self, model: Model, batch: Batch) -> Tensor | None:
        """What is said of each value past the trunk, (B, T, patch); None: nothing."""
        del model, batch
        return None

    def losses(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        hidden_BT = self._hidden(batch)
        said_NVQ = self.said(model, hidden_BTD[hidden_BT])
        if (more_BTV := self.straight(model, batch)) is not None:
            said_NVQ = said_NVQ + more_BTV[hidden_BT].to(said_NVQ.dtype).unsqueeze(-1)
        target_NV = batch["target"][hidden_BT].to(said_NVQ.dtype)
        there_NV = ~target_NV.isnan()
        error_NVQ = torch.where(there_NV, target_NV, 0.0).unsqueeze(-1) - said_NVQ
        if self.config.loss == "mse":
            each_NV = error_NVQ.square().squeeze(-1)
        else:
            q_Q = torch.tensor(self.config.quantiles, dtype=said_NVQ.dtype, device=said_NVQ.device)
            each_NV = 2 * torch.maximum(q_Q * error_NVQ, (q_Q - 1) * error_NVQ).mean(-1)
        weight_N1 = batch["weight"][hidden_BT].to(said_NVQ.dtype).unsqueeze(-1)
        return {self.term: torch.where(there_NV, each_NV * weight_N1, 0.0).sum()}


def _begins(columns: Columns) -> np.ndarray:
    """Bool (B, T): where documents begin."""
    tokens = columns["tokens"]
    if "pos" in columns:
        first = columns["pos"] == 0
    else:
        first = np.zeros(tokens.shape, bool)
        first[:, :1] = True
    return first & (columns["doc"] >= 0) if "doc" in columns else first
