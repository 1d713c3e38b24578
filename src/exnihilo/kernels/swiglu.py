"""The SwiGLU MLP (Shazeer 2020, arXiv:2002.05202), chunk by chunk of positions, for training on CPUs.

down(silu(gate(x)) · up(x)) makes three tensors of the MLP's width; for a whole micro-batch they fall out of the cache
between one operation and the next. Here a chunk of positions goes through all operations before the next one begins,
forward and backward, and weight gradients are added up in place by the matrix products themselves.

Key: N positions, D model width, F MLP width, C positions of a chunk
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 512
_silu_backward = torch.ops.aten.silu_backward.grad_input


def reference(x: Tensor, gate_FD: Tensor, up_FD: Tensor, down_DF: Tensor) -> Tensor:
    """As written."""
    return F.linear(F.silu(F.linear(x, gate_FD)) * F.linear(x, up_FD), down_DF)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x_ND: Tensor, gate_FD: Tensor, up_FD: Tensor, down_DF: Tensor
    ) -> Tensor:
        N, width = x_ND.shape[0], gate_FD.shape[0]
        a_NF, b_NF = x_ND.new_empty(N, width), x_ND.new_empty(N, width)
        y_ND = x_ND.new_empty(N, down_DF.shape[0])
        for start in range(0, N, CHUNK):
            part = slice(start, start + CHUNK)
            torch.mm(x_ND[part], gate_FD.t(), out=a_NF[part])
            torch.mm(x_ND[part], up_FD.t(), out=b_NF[part])
            hidden_CF = F.silu(a_NF[part]).mul_(b_NF[part])
            torch.mm(hidden_CF, down_DF.t(), out=y_ND[part])
        ctx.save_for_backward(x_ND, gate_FD, up_FD, down_DF, a_NF, b_NF)
        return y_ND

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # type: ignore[override]
        x_ND, gate_FD, up_FD, down_DF, a_NF, b_NF = ctx.saved_tensors
        grad_x = torch.empty_like(x_ND, memory_format=torch.contiguous_format)
        grad_gate, grad_up, grad_down = (torch.empty_like(w) for w in (gate_FD, up_FD, down_DF))
        for start in range(0, x_ND.shape[0], CHUNK):
            part, beta = slice(start, start + CHUNK), 0.0 if start == 0 else 1.0
            x_CD, grad_CD, a_CF, b_CF = x_ND[part], grad_ND[part], a_NF[part], b_NF[part]
            silu_CF = F.silu(a_CF)
            grad_down.addmm_(grad_CD.t(), silu_CF * b_CF, beta=beta)
            grad_a = torch.mm(grad_CD, down_DF)
            grad_b = silu_CF.mul_(grad_a)
            grad_a.mul_(b_CF)
            _silu_backward(grad_a, a_CF, grad_input=grad_a)
            torch.mm(grad_a, gate_FD, out=grad_x[part])
            grad_x[part].addmm_(grad_b, up_FD)
            grad_gate.addmm_(grad_a.t(), x_CD, beta=beta)
            grad_up.addmm_(grad_b.t(), x_CD, beta=beta)
        return grad_x, grad_gate, grad_up, grad_down


def fits(x: Tensor, *weights: Tensor) -> bool:
    """Whether the chunked form applies: training in full precision on a CPU, uncompiled."""
    return (
        x.device.type == "cpu"
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and all(w.dtype == x.dtype and w.requires_grad for w in weights)
        and x.dtype in (torch.float32, torch.float64)
    )


def swiglu(x: Tensor, gate_FD: Tensor, up_FD: Tensor, down_DF: Tensor) -> Tensor:
    """down(silu(gate(x)) · up(x)) over the last dimension of `x`, by the fastest means here."""
    if not fits(x, gate_FD, up_FD, down_DF):
        return reference(x, gate_FD, up_FD, down_DF)
    return _SwiGLU.apply(x.reshape(-1, x.shape[-1]), gate_FD, up_FD, down_DF).view(*x.shape[:-1], -1)  # type: ignore
