"""Next-token prediction: the data is the label.

The input is the sequence without its last token, the target is the sequence shifted by one; the loss is the
negative log-likelihood of the right tokens over all positions, in nats. A document is [bos] + ids + [eos]:
the model learns to begin and to end. Nothing is predicted across two packed documents, nor on padding.

Key: B rows, T positions (a row holds T+1 tokens), D model width, S sources
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from exnihilo.kernels.linear_ce import IGNORE, linear_cross_entropy
from exnihilo.nn.layout import Attention
from exnihilo.objective._likelihood import Likelihood
from exnihilo.objective._text import dtype_of, texts_of
from exnihilo.objective.base import Batch, Example, Item

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


class CausalLM(Likelihood):
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

    @staticmethod
    def targets(batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """See `Likelihood`."""
        return shift(batch)

    def _nll(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        inputs, targets_BT = shift(batch)
        hidden_BTD = model(inputs, self.attention)
        head: Any = model.heads["tokens"]
        total, nll_N = linear_cross_entropy(
            hidden_BTD.flatten(0, 1), head.weight, targets_BT.flatten(), bias_V=head.bias
        )
        return total, nll_N.view_as(targets_BT)
