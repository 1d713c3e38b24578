"""Recall: the last token of each text is the answer, and all that is learnt; what stands before it is the
question, whose tokens are random (``data=recall:TASK``).

``accuracy`` is the share of answers that are the likeliest token. A text that does not fit into a row is left
out: cut, it would ask for what it no longer says.

Key: B rows, T positions (a row holds T+1 tokens), D model width, V vocabulary, N answers
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from exnihilo.data.base import Noted
from exnihilo.kernels.linear_ce import IGNORE
from exnihilo.nn.layout import Attention
from exnihilo.objective._likelihood import Likelihood
from exnihilo.objective._text import dtype_of, texts_of
from exnihilo.objective.base import Batch, Example, Item
from exnihilo.objective.causal_lm import shift

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model


class Recall(Likelihood):
    """The last token of each text."""

    attention: ClassVar[Attention] = Attention.CAUSAL
    heads: ClassVar[tuple[str, ...]] = ("tokens",)
    columns: ClassVar[frozenset[str]] = frozenset({"tokens", "doc", "pos", "source"})
    lookahead: ClassVar[int] = 1
    weights = {"nll": 1.0, "accuracy": 0.0}  # measured beside the loss, never trained on
    main_metric: ClassVar[str] = "accuracy"

    def encode(self, example: Example, codec: Codec) -> Item | list[Item]:
        return self.encode_many([example], codec)[0]

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        dtype, out = dtype_of(codec), []
        for ids in codec.encode_batch(texts_of(examples)):
            if not ids:
                out.append(Noted([], "without a token"))
            elif self.length is not None and len(ids) > self.length:
                out.append(Noted([], "longer than a row"))
            else:
                out.append([{"tokens": np.array([codec.bos_id, *ids], dtype)}])
        return out

    @staticmethod
    def targets(batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """See `Likelihood`: of each document its last token."""
        inputs, targets_BT = shift(batch)
        last_BT = torch.ones_like(targets_BT, dtype=torch.bool)
        if "doc" in batch:
            doc_BT = batch["doc"][:, 1:]
            last_BT[:, :-1] = doc_BT[:, 1:] != doc_BT[:, :-1]
        else:
            last_BT[:, :-1] = False
        return inputs, targets_BT.where(last_BT, IGNORE)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        found = super().counts(batch)
        return {**found, "accuracy": found["nll"]}

    def sums(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        total, nll_BT, right = self._read(model, batch)
        return {**self._slices(batch, nll_BT), "nll": total, "accuracy": right}

    def _nll(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        total, nll_BT, _ = self._read(model, batch)
        return total, nll_BT

    def _read(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """(Σ nll, each position's own, right answers)."""
        inputs, targets_BT = self.targets(batch)
        asked_BT = targets_BT != IGNORE
        hidden_BTD = model(inputs, self.attention)
        head: Any = model.heads["tokens"]
        logits_NV = head.logits(hidden_BTD[asked_BT]).float()
        wanted_N = targets_BT[asked_BT]
        nll_N = F.cross_entropy(logits_NV, wanted_N, reduction="none")
        nll_BT = torch.zeros_like(targets_BT, dtype=nll_N.dtype)
        nll_BT[asked_BT] = nll_N.detach()
        return nll_N.sum(), nll_BT, (logits_NV.argmax(-1) == wanted_N).to(nll_N.dtype).sum()
