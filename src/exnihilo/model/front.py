"""Front ends: raw columns of a batch → `Seq`. Text is the first.

Key: B batch, T positions, D model width, V vocabulary
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from exnihilo.errors import ModelError
from exnihilo.kernels.dropout import dropout
from exnihilo.nn.layout import Attention, Seq
from exnihilo.nn.norms import LayerNorm


class Tokens(nn.Module):
    """Token embeddings; learned position and segment embeddings and a norm in the families that have them.

    Reads the columns ``tokens`` (B, T), and where given ``pos``, ``doc``, ``segment`` and ``branch`` (B, T
    each); in training also ``noise`` (B, T): the half-width of uniform noise that is added to each number of
    an embedded token.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        *,
        positions: int | None,
        dropout: float,
        segments: int = 0,
        norm: LayerNorm | None = None,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(positions, width) if positions else None
        self.segments = nn.Embedding(segments, width) if segments else None
        self.norm = norm

    def forward(self, raw: Mapping[str, Tensor], attention: Attention) -> Seq:
        tokens_BT, pos_BT, doc_BT = raw["tokens"], raw.get("pos"), raw.get("doc")
        if tokens_BT.ndim != 2:
            raise ModelError(f"tokens of shape {tuple(tokens_BT.shape)}", expected="(rows, positions)")
        x_BTD = self.tokens(tokens_BT)
        if self.training and raw.get("noise") is not None:
            x_BTD = x_BTD + (2 * torch.rand_like(x_BTD) - 1) * raw["noise"].unsqueeze(-1).to(x_BTD.dtype)
        if self.positions is not None:
            T, limit = tokens_BT.shape[1], self.positions.num_embeddings
            if pos_BT is None and T > limit:
                raise ModelError(
                    f"a row of {T} tokens, the model has {limit} learned positions",
                    expected=f"at most {limit}",
                    next="shorten the input, or train with a larger model.context",
                )
            if pos_BT is None:
                x_BTD = x_BTD + self.positions.weight[:T]
            else:
                self._check(pos_BT, limit)
                x_BTD = x_BTD + self.positions(pos_BT)
        segment_BT = raw.get("segment")
        if self.segments is not None:
            # without the column all tokens are of the first segment
            x_BTD = x_BTD + (self.segments.weight[0] if segment_BT is None else self.segments(segment_BT))
        if self.norm is not None:
            x_BTD = self.norm(x_BTD)
        if self.dropout and self.training:
            x_BTD = dropout(x_BTD, self.dropout)
        pos_BTK = None if pos_BT is None else pos_BT.unsqueeze(-1)
        return Seq(x_BTD, pos_BTK, attention.group, doc_BT, raw.get("needed"), raw.get("branch"))

    def _check(self, pos_BT: Tensor, limit: int) -> None:
        if pos_BT.shape[1] <= limit and (pos_BT.device.type != "cpu" or torch.compiler.is_compiling()):
            return  # reading the largest position back would stall the device
        largest = int(pos_BT.max())
        if largest >= limit:
            raise ModelError(
                f"position {largest}, the model has {limit} learned positions",
                expected=f"0 .. {limit - 1}",
                next="shorten the input, or train with a larger model.context",
            )
