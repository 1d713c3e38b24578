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
    """Zero mean, unit variance, then weight and bias, over the last dimension (Ba et al. 2016, arXiv
    1607.06450)."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x, (x.shape[-1],), weight, bias, self.eps)


def norm(kind: NormKind, width: int, eps: float) -> nn.Module:
    """A norm by name."""
    return RMSNorm(width, eps) if kind == "rms" else LayerNorm(width, eps)
