"""RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467) with few passes over memory.

PyTorch runs `rms_norm` on CPUs as a dozen separate operations; here forward is three passes and backward
five, with the weight's gradient as one matrix-vector product. Under `torch.compile` and on accelerators
PyTorch's own is used, which is fused there. Measured on 2 AVX2 cores at 4096×256: 1.7 ms against 5.2 ms,
forward and backward.

Key: ... any leading dimensions, D width
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def reference(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) · weight, as written."""
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight_D


def _forward(x: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    scale.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    y = x * scale
    y *= weight_D
    return y, scale


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float) -> Tensor:  # type: ignore[override]
        y, scale = _forward(x, weight_D, eps)
        ctx.save_for_backward(x, weight_D, scale)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        x, weight_D, scale = ctx.saved_tensors
        D = x.shape[-1]
        buffer = grad * x
        flat_ND = buffer.reshape(-1, D)
        grad_weight_D = torch.mv(flat_ND.t(), scale.reshape(-1))
        # d scale/d x = -scale³ x / D
        along = torch.mv(flat_ND, weight_D).view(scale.shape)
        along *= scale.pow(3).div_(-D)
        torch.mul(grad, weight_D, out=buffer)
        buffer *= scale
        buffer.addcmul_(x, along)
        return buffer, grad_weight_D, None


def rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last dimension, in the type of `x`.

    >>> rms_norm(torch.tensor([3.0, 4.0]), torch.ones(2), 0.0)
    tensor([0.8485, 1.1314])
    """
    plain = x.dtype == weight_D.dtype and x.dtype in (torch.float32, torch.float64)
    if torch.compiler.is_compiling() or x.device.type != "cpu" or not plain:
        return F.rms_norm(x, (x.shape[-1],), weight_D.to(x.dtype), eps)
    if not torch.is_grad_enabled():  # decoding: spare the bookkeeping
        return _forward(x, weight_D, eps)[0]
    return _RMSNorm.apply(x, weight_D, eps)  # type: ignore
