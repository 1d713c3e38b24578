"""Next-token prediction on series: each value is a bin, and a decoder learns which comes next.

A window is scaled by the mean of the absolute values of its history, cut into bins (`codec.series.bins`), and
learnt as `causal_lm` learns text. What it continues is a path; many paths are a forecast, with any shape of
uncertainty: ``exnihilo predict RUN file.csv``. Channels are windows of their own; what is missing is an id.

Source: Ansari et al. 2024 (Chronos, arXiv 2403.07815).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from exnihilo.codec.ids import Ids
from exnihilo.codec.series import bins, windows
from exnihilo.errors import CodecError, ConfigError
from exnihilo.nn.layout import Attention
from exnihilo.objective._series import Serial
from exnihilo.objective.base import Example, Item
from exnihilo.objective.causal_lm import CausalLM as _CausalLM

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec


class SeriesTokens(Serial, _CausalLM):
    """Decoder pretraining on bins."""

    attention: ClassVar[Attention] = Attention.CAUSAL
    joins: ClassVar[bool] = False

    class Config(Serial.Config, _CausalLM.Config):
        """Options of what is read (covariates and static columns are not), and

        Attributes:
            history: values before a forecast, by which it is scaled.
            horizon: values of a forecast.
            stride: from one window to the next; default: a quarter of the horizon.
        """

        history: int = Field(default=96, ge=1)
        horizon: int = Field(default=24, ge=1)
        stride: int | None = Field(default=None, ge=1)

    config: SeriesTokens.Config

    def __init__(
        self, config: Any = None, *, length: int | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(config, length=length, facts=facts)
        c = self.config
        for name in ("known", "past", "static"):
            if getattr(c, name):
                raise ConfigError(
                    f"options.{name}={list(getattr(c, name))}: tokens of a series have no place for it",
                    next="objective forecasting reads covariates",
                )
        if c.norm != "mean":
            raise ConfigError(
                f"options.norm={c.norm}: tokens are scaled by their history's mean absolute value",
                next="leave options.norm out",
            )
        if length is not None and length < 1 + c.history + c.horizon:
            raise ConfigError(
                f"model.context={length} positions, a window takes {1 + c.history + c.horizon}",
                expected="[bos], history and horizon in one row",
                next=f"model.context={1 + c.history + c.horizon}",
            )

    @property
    def ahead(self) -> int:
        return self.config.horizon

    def items_of(self, example: Example, codec: Codec, *, asked: bool) -> list[Item]:
        del asked
        c, count = self.config, self.bins_of(codec)
        out: list[Item] = []
        for table in self.tables(example):
            starts = windows.origins(table.low, table.high, history=c.history, horizon=c.horizon)
            starts = starts[:: c.stride or max(1, c.horizon // 4)]
            for channel in range(table.values.shape[1]):
                column_L1 = table.values[:, [channel]]
                rows_NR = windows.cut(column_L1, starts, history=c.history, rows=c.history + c.horizon)[
                    ..., 0
                ]
                for row_R in rows_NR:
                    if np.isnan(row_R[: c.history]).all() or np.isnan(row_R[c.history :]).all():
                        continue
                    ids = bins.encode(row_R, bins.scale_of(row_R[: c.history]), count)
                    out.append({"tokens": np.concatenate(([codec.bos_id], ids)).astype(np.int32)})
        return out

    @staticmethod
    def bins_of(codec: Codec) -> int:
        """How many ids stand for numbers.

        Raises:
            CodecError: none.
        """
        if not isinstance(codec, Ids):
            raise CodecError(
                f"a codec of kind {codec.kind} has no id for a bin",
                expected="codec.kind=ids codec.ids=1024",
                next="codec.kind=ids codec.ids=1024, or init= of a run that has it",
            )
        return codec.count
