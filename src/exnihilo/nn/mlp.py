"""The position-wise half of a block: SwiGLU and GeGLU (Shazeer 2020, arXiv 2002.05202), or
GELU (Hendrycks & Gimpel 2016, arXiv 1606.08415).

Key: B batch, T positions, D model width
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from exnihilo.kernels.dropout import dropout

MlpKind = Literal["swiglu", "gelu_new", "gelu", "geglu"]


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x))."""

    def __init__(self, width: int, mlp_width: int, bias: bool) -> None:
        super().__init__()
        self.gate = nn.Linear(width, mlp_width, bias=bias)
        self.up = nn.Linear(width, mlp_width, bias=bias)
        self.down = nn.Linear(mlp_width, width, bias=bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x_BTD)) * self.up(x_BTD))


class GeluMLP(nn.Module):
    """down(gelu(up(x))): with the tanh form of GELU that GPT-2 was trained with, or the exact one of BERT."""

    def __init__(self, width: int, mlp_width: int, bias: bool, *, exact: bool = False) -> None:
        super().__init__()
        self.approximate = "none" if exact else "tanh"
        self.up = nn.Linear(width, mlp_width, bias=bias)
        self.down = nn.Linear(mlp_width, width, bias=bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x_BTD), approximate=self.approximate))


class GeGLU(nn.Module):
    """down(gelu(gate(x)) · up(x)), with the exact GELU, and dropout before `down` (ModernBERT: Warner et al.
    2024, arXiv 2412.13663)."""

    def __init__(self, width: int, mlp_width: int, bias: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.gate = nn.Linear(width, mlp_width, bias=bias)
        self.up = nn.Linear(width, mlp_width, bias=bias)
        self.down = nn.Linear(mlp_width, width, bias=bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        inner = F.gelu(self.gate(x_BTD)) * self.up(x_BTD)
        if self.dropout and self.training:
            inner = dropout(inner, self.dropout)
        return self.down(inner)


def mlp(kind: MlpKind, width: int, mlp_width: int, bias: bool, dropout: float = 0.0) -> nn.Module:
    """An MLP by name. `dropout` is for those that drop inside; the others' output is dropped by the block."""
    if kind == "geglu":
        return GeGLU(width, mlp_width, bias, dropout)
    if kind == "swiglu":
        return SwiGLU(width, mlp_width, bias)
    return GeluMLP(width, mlp_width, bias, exact=kind == "gelu")
