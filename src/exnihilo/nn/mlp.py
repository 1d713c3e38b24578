"""The position-wise half of a block: SwiGLU (Shazeer 2020, arXiv 2002.05202) or GPT-2's GELU.

Key: B batch, T positions, D model width
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

MlpKind = Literal["swiglu", "gelu_new"]


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
    """down(gelu(up(x))), with the tanh form of GELU that GPT-2 was trained with."""

    def __init__(self, width: int, mlp_width: int, bias: bool) -> None:
        super().__init__()
        self.up = nn.Linear(width, mlp_width, bias=bias)
        self.down = nn.Linear(mlp_width, width, bias=bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x_BTD), approximate="tanh"))


def mlp(kind: MlpKind, width: int, mlp_width: int, bias: bool) -> nn.Module:
    """An MLP by name."""
    return (SwiGLU if kind == "swiglu" else GeluMLP)(width, mlp_width, bias)
