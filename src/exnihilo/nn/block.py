"""Self-attention and the blocks, pre-norm and post-norm, one module each, so that they can be compiled,
checkpointed or sharded from outside.

Every matrix is a plain `nn.Linear` of its own (q, k, v, o, gate, up, down): adapters and Muon find them so.

Key: B batch, T positions, S keys, D model width, H heads, G key-value heads, d head width
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from exnihilo.kernels.attention import Rule, attend, attend_some
from exnihilo.kernels.dropout import dropout
from exnihilo.nn.cache import KVCache
from exnihilo.nn.mlp import MlpKind, mlp
from exnihilo.nn.norms import NormKind, norm
from exnihilo.nn.rotary import Turn, rotate


@dataclass(frozen=True)
class Shape:
    """What a block is made of."""

    width: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    norm: NormKind
    norm_eps: float
    qk_norm: bool
    mlp: MlpKind
    bias: bool
    dropout: float
    norm_bias: bool = True
    first_norm: bool = True  # False: layer 0 reads what is normed already
    sinks: bool = False


@dataclass
class Setting:
    """What blocks of one kind (global or local) share in one forward: who sees whom, the turn, the cache."""

    rule: Rule
    turn: Turn | None = None
    cache: KVCache | None = None
    pos_BT: Tensor | None = None  # with a cache


class SelfAttention(nn.Module):
    """Attention with grouped keys and values; norms on queries and keys, rotation and sinks where asked for.

    `sinks`: a learned logit a head, beside those of the keys: the weight it takes goes nowhere (gpt-oss,
    OpenAI 2025, arXiv 2508.10925; why a model wants it: Xiao et al. 2023, arXiv 2309.17453).
    """

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim, self.dropout = layer, shape.head_dim, shape.dropout
        inner, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q = nn.Linear(shape.width, inner, bias=shape.bias)
        self.k = nn.Linear(shape.width, kv, bias=shape.bias)
        self.v = nn.Linear(shape.width, kv, bias=shape.bias)
        self.o = nn.Linear(inner, shape.width, bias=shape.bias)
        self.q_norm = norm(shape.norm, shape.head_dim, shape.norm_eps) if shape.qk_norm else None
        self.k_norm = norm(shape.norm, shape.head_dim, shape.norm_eps) if shape.qk_norm else None
        self.sinks = nn.Parameter(torch.empty(shape.heads)) if shape.sinks else None

    def forward(self, x_BTD: Tensor, setting: Setting, chosen_BM: Tensor | None = None) -> Tensor:
        split = (*x_BTD.shape[:2], -1, self.head_dim)
        if chosen_BM is not None:
            return self._of_some(x_BTD, setting, chosen_BM)
        q_BTHd, k_BTGd = self.q(x_BTD).view(split), self.k(x_BTD).view(split)
        v_BGTd = self.v(x_BTD).view(split).transpose(1, 2)
        if self.q_norm is not None and self.k_norm is not None:
            q_BTHd, k_BTGd = self.q_norm(q_BTHd), self.k_norm(k_BTGd)
        q_BHTd, k_BGTd = q_BTHd.transpose(1, 2), k_BTGd.transpose(1, 2)
        if setting.turn is not None:
            q_BHTd, k_BGTd = rotate(q_BHTd, setting.turn), rotate(k_BGTd, setting.turn)
        q_BHTd, k_BGTd = q_BHTd.to(v_BGTd.dtype), k_BGTd.to(v_BGTd.dtype)  # norms may widen under autocast
        if setting.cache is not None:
            assert setting.pos_BT is not None
            k_BGTd, v_BGTd = setting.cache.write(self.layer, k_BGTd, v_BGTd, setting.pos_BT)
        dropout = self.dropout if self.training else 0.0
        out_BHTd = attend(q_BHTd, k_BGTd, v_BGTd, setting.rule, dropout=dropout, sink_H=self.sinks)
        return self.o(out_BHTd.transpose(1, 2).flatten(2))

    def _of_some(self, x_BTD: Tensor, setting: Setting, chosen_BM: Tensor) -> Tensor:
        """What the chosen positions read from all: (B, M, D)."""
        (B, T), M = x_BTD.shape[:2], chosen_BM.shape[1]
        q_BHMd = self.q(take(x_BTD, chosen_BM)).view(B, M, -1, self.head_dim)
        k_BGTd = self.k(x_BTD).view(B, T, -1, self.head_dim)
        v_BGTd = self.v(x_BTD).view(B, T, -1, self.head_dim).transpose(1, 2)
        if self.q_norm is not None and self.k_norm is not None:
            q_BHMd, k_BGTd = self.q_norm(q_BHMd), self.k_norm(k_BGTd)
        q_BHMd, k_BGTd = q_BHMd.transpose(1, 2), k_BGTd.transpose(1, 2)
        if setting.turn is not None:
            own = (t.expand(B, 1, T, -1)[:, 0] for t in setting.turn)
            turn = Turn(*(take(t, chosen_BM).unsqueeze(1) for t in own))
            q_BHMd, k_BGTd = rotate(q_BHMd, turn), rotate(k_BGTd, setting.turn)
        q_BHMd, k_BGTd = q_BHMd.to(v_BGTd.dtype), k_BGTd.to(v_BGTd.dtype)
        share = self.dropout if self.training else 0.0
        out_BHMd = attend_some(
            q_BHMd, k_BGTd, v_BGTd, setting.rule, chosen_BM, dropout=share, sink_H=self.sinks
        )
        return self.o(out_BHMd.transpose(1, 2).flatten(2))


def take(x_BTD: Tensor, chosen_BM: Tensor) -> Tensor:
    """(B, M, D): the states at chosen positions of each row."""
    B, T, D = x_BTD.shape
    first_B1 = torch.arange(0, B * T, T, device=x_BTD.device).unsqueeze(1)
    return x_BTD.reshape(B * T, D).index_select(0, (chosen_BM + first_B1).flatten()).view(B, -1, D)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)) (pre-norm, as GPT-2 and all of its heirs)."""

    def __init__(self, shape: Shape, layer: int, local: bool = False) -> None:
        super().__init__()
        self.dropout, self.local = shape.dropout, local
        inside = shape.mlp == "geglu"  # drops inside, not after
        self.mlp_dropout = 0.0 if inside else shape.dropout
        first = layer > 0 or shape.first_norm
        self.attention_norm = (
            norm(shape.norm, shape.width, shape.norm_eps, shape.norm_bias) if first else nn.Identity()
        )
        self.attention = SelfAttention(shape, layer)
        self.mlp_norm = norm(shape.norm, shape.width, shape.norm_eps, shape.norm_bias)
        self.mlp = mlp(shape.mlp, shape.width, shape.mlp_width, shape.bias, shape.dropout if inside else 0.0)

    def forward(self, x_BTD: Tensor, setting: Setting, chosen_BM: Tensor | None = None) -> Tensor:
        """(B, T, D), or the states of chosen positions only, (B, M, D)."""
        read_BTD = self.attention(self.attention_norm(x_BTD), setting, chosen_BM)
        x_BTD = x_BTD if chosen_BM is None else take(x_BTD, chosen_BM)
        x_BTD = x_BTD + self._drop(read_BTD, self.dropout)
        return x_BTD + self._drop(self.mlp(self.mlp_norm(x_BTD)), self.mlp_dropout)

    def _drop(self, x_BTD: Tensor, share: float) -> Tensor:
        return dropout(x_BTD, share) if share and self.training else x_BTD


class PostBlock(Block):
    """norm(x + attention(x)), then norm(x + mlp(x)) (post-norm, as the first transformer and BERT)."""

    def forward(self, x_BTD: Tensor, setting: Setting, chosen_BM: Tensor | None = None) -> Tensor:
        read_BTD = self.attention(x_BTD, setting, chosen_BM)
        x_BTD = x_BTD if chosen_BM is None else take(x_BTD, chosen_BM)
        x_BTD = self.attention_norm(x_BTD + self._drop(read_BTD, self.dropout))
        return self.mlp_norm(x_BTD + self._drop(self.mlp(x_BTD), self.mlp_dropout))
