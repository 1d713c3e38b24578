"""What objectives share that predict tokens: sums, counts and perplexity of a negative log-likelihood.

A subclass says what is predicted (`targets`) and how (`_nll`).

Key: B rows, T positions
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from exnihilo.kernels.linear_ce import IGNORE
from exnihilo.objective._text import by_source
from exnihilo.objective.base import Batch, Objective

if TYPE_CHECKING:
    from exnihilo.model.model import Model


class Likelihood(Objective):
    """The mean negative log-likelihood of the tokens that are predicted."""

    @staticmethod
    @abstractmethod
    def targets(batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """(inputs of the model, targets (B, T), IGNORE where nothing is predicted)."""

    @abstractmethod
    def _nll(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        """(Σ over predicted tokens, each position's own (B, T), detached)."""

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        _, targets_BT = self.targets(batch)
        return self._slices(batch, (targets_BT != IGNORE).to(torch.float64))

    def sums(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        total, nll_BT = self._nll(model, batch)
        return {**self._slices(batch, nll_BT), "nll": total}

    def row_losses(self, model: Model, batch: Batch) -> Tensor:
        """Mean nats a token of each row (B,): names the documents of a bad batch."""
        with torch.no_grad():
            _, nll_BT = self._nll(model, batch)
        return nll_BT.sum(1) / (self.targets(batch)[1] != IGNORE).sum(1).clamp(min=1)

    def metrics(self, totals: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
        out = super().metrics(totals, counts)
        if "nll" in out:
            out["perplexity"] = math.exp(min(out["nll"], 700.0))
        return out

    @staticmethod
    def _slices(batch: Batch, values_BT: Tensor) -> dict[str, Tensor]:
        rows_B = torch.arange(len(values_BT), device=values_BT.device)
        by_row_B = values_BT.detach().sum(1)
        return {"nll": values_BT.sum(), **by_source("nll", batch, by_row_B, rows_B)}
