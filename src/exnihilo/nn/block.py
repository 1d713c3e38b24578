"""Self-attention and the blocks, pre-norm and post-norm, one module each, so that they can be compiled,
checkpointed or sharded from outside.

Every matrix is a plain `nn.Linear` of its own (q, k, v, o, gate, up, down): adapters and Muon find them so.

Key: B batch, T positions, S keys, D model width, H heads, G key-value heads, d head width
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from exnihilo.kernels.attention import Rule, attend
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


@dataclass
class Setting:
    """What blocks of one kind (global or local) share in one forward: who sees whom, the turn, the cache."""

    rule: Rule
    turn: Turn | None = None
    cache: KVCache | None = None
    pos_BT: Tensor | None = None  # with a cache


class SelfAttention(nn.Module):
    """Attention with grouped keys and values; norms on queries and keys, and rotation, where asked for."""

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

    def forward(self, x_BTD: Tensor, setting: Setting) -> Tensor:
        split = (*x_BTD.shape[:2], -1, self.head_dim)
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
        out_BHTd = attend(q_BHTd, k_BGTd, v_BGTd, setting.rule, dropout=dropout)
        return self.o(out_BHTd.transpose(1, 2).flatten(2))


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

    def forward(self, x_BTD: Tensor, setting: Setting) -> Tensor:
        x_BTD = x_BTD + self._drop(self.attention(self.attention_norm(x_BTD), setting), self.dropout)
        return x_BTD + self._drop(self.mlp(self.mlp_norm(x_BTD)), self.mlp_dropout)

    def _drop(self, x_BTD: Tensor, share: float) -> Tensor:
        return dropout(x_BTD, share) if share and self.training else x_BTD


class PostBlock(Block):
    """norm(x + attention(x)), then norm(x + mlp(x)) (post-norm, as the first transformer and BERT)."""

    def forward(self, x_BTD: Tensor, setting: Setting) -> Tensor:
        x_BTD = self.attention_norm(x_BTD + self._drop(self.attention(x_BTD, setting), self.dropout))
        return self.mlp_norm(x_BTD + self._drop(self.mlp(x_BTD), self.mlp_dropout))
