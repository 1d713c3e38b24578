"""Next-token prediction: the data is the label.

The input is the sequence without its last token, the target is the sequence shifted by one; the loss is the
negative log-likelihood of the right tokens over all positions, in nats. A document is [bos] + ids + [eos]:
the model learns to begin and to end. Nothing is predicted across two packed documents, nor on padding.

Key: B rows, T positions (a row holds T+1 tokens), D model width, S sources
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from exnihilo.kernels.linear_ce import IGNORE, linear_cross_entropy
from exnihilo.nn.layout import Attention
from exnihilo.objective._text import dtype_of, texts_of
from exnihilo.objective.base import Batch, Example, Item, Objective

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model


def shift(batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """(inputs of T positions, targets_BT): the sequence without its last token, and the sequence shifted by
    one."""
    tokens = batch["tokens"]
    targets_BT = tokens[:, 1:]
    inputs = {"tokens": tokens[:, :-1]}
    if "doc" in batch:
        doc = batch["doc"]
        same_BT = (doc[:, 1:] == doc[:, :-1]) & (doc[:, 1:] >= 0)
        targets_BT = targets_BT.where(same_BT, IGNORE)
        inputs["doc"] = doc[:, :-1]
    if "pos" in batch:
        inputs["pos"] = batch["pos"][:, :-1]
    return inputs, targets_BT


class CausalLM(Objective):
    """Decoder pretraining; the result is a base model."""

    attention: ClassVar[Attention] = Attention.CAUSAL
    heads: ClassVar[tuple[str, ...]] = ("tokens",)
    columns: ClassVar[frozenset[str]] = frozenset({"tokens", "doc", "pos", "source"})
    lookahead: ClassVar[int] = 1
    joins: ClassVar[bool] = True

    def encode(self, example: Example, codec: Codec) -> Item:
        return self.encode_many([example], codec)[0][0]

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        texts, dtype = texts_of(examples), dtype_of(codec)
        out: list[list[Item]] = []
        for example, ids in zip(examples, codec.encode_batch(texts), strict=True):
            # a document too long for memory comes in parts: it begins once and ends once
            begin, end = bool(example.get("_begin", True)), bool(example.get("_end", True))
            tokens = np.empty(len(ids) + begin + end, dtype)
            tokens[begin : begin + len(ids)] = ids
            if begin:
                tokens[0] = codec.bos_id
            if end:
                tokens[-1] = codec.eos_id
            out.append([{"tokens": tokens}])
        return out

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        _, targets_BT = shift(batch)
        return self._slices(batch, (targets_BT != IGNORE).to(torch.float64))

    def sums(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        total, nll_BT = self._nll(model, batch)
        return {**self._slices(batch, nll_BT), "nll": total}

    def row_losses(self, model: Model, batch: Batch) -> Tensor:
        """Mean nats a token of each row (B,): names the documents of a bad batch."""
        with torch.no_grad():
            _, nll_BT = self._nll(model, batch)
        return nll_BT.sum(1) / (shift(batch)[1] != IGNORE).sum(1).clamp(min=1)

    def metrics(self, totals: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
        out = super().metrics(totals, counts)
        if "nll" in out:
            out["perplexity"] = math.exp(min(out["nll"], 700.0))
        return out

    def _nll(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        inputs, targets_BT = shift(batch)
        hidden_BTD = model(inputs, self.attention)
        head: Any = model.heads["tokens"]
        total, nll_N = linear_cross_entropy(
            hidden_BTD.flatten(0, 1), head.weight, targets_BT.flatten(), bias_V=head.bias
        )
        return total, nll_N.view_as(targets_BT)

    @staticmethod
    def _slices(batch: Batch, values_BT: Tensor) -> dict[str, Tensor]:
        """{"nll": Σ} and, where a batch names its rows' sources, {"nll@s": Σ over source s}."""
        out = {"nll": values_BT.sum()}
        if "source" in batch:
            rows_B = values_BT.detach().sum(1)
            for s in batch["source"].unique().tolist():
                out[f"nll@{s}"] = rows_B[batch["source"] == s].sum()
        return out
