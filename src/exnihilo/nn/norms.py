"""Normalisation: RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467) and torch's LayerNorm, made by name.

Statistics are taken in fp32 whatever the input's dtype; the result has the input's dtype.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exnihilo.kernels.norm import rms_norm

NormKind = Literal["rms", "layer"]


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · weight, over the last dimension."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class LayerNorm(nn.Module):
    """Zero mean, unit variance, then weight and bias (or none), over the last dimension (Ba et al. 2016,
    arXiv 1607.06450)."""

    def __init__(self, width: int, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.layer_norm(x, (x.shape[-1],), self.weight.to(x.dtype), bias, self.eps)


def norm(kind: NormKind, width: int, eps: float, bias: bool = True) -> nn.Module:
    """A norm by name; `bias` is for layer norms."""
    return RMSNorm(width, eps) if kind == "rms" else LayerNorm(width, eps, bias)
