"""Causal attention in blocks of queries, for training rows of moderate length on CPUs.

A block of queries meets only the keys before its end, so the upper triangle is mostly not computed; all rows
and heads go through one batched product; the weights of a block are kept for backward (at most H·T·T numbers
a row), where PyTorch's flash kernel computes them again. Used by `kernels.attention.attend` where it was
measured to gain; results are those of its `reference`.

Measured at 8 rows × 4 heads × 256 × 64 on one AVX2 core, forward and backward: 22 ms against 29 ms; blocks of
128 took 25 ms, one of 256 took 32 ms.

Key: B batch, T positions, H heads, d head width, N = B·H
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

BLOCK = 64
LENGTHS = range(2 * BLOCK, 512 + 1)  # below: nothing to skip; above: too many weights to keep
_softmax_backward = torch.ops.aten._softmax_backward_data.default


def _by_head(x_BHTd: Tensor, factor: float = 1.0) -> Tensor:
    """(N, T, d), contiguous, scaled."""
    B, H, T, d = x_BHTd.shape
    out = x_BHTd.new_empty(B, H, T, d)
    if factor == 1.0:
        out.copy_(x_BHTd)
    else:
        torch.mul(x_BHTd, factor, out=out)
    return out.view(B * H, T, d)


def _by_position(x_NTd: Tensor, B: int) -> Tensor:
    """(B, H, T, d) that lies in memory as (B, T, H, d), as the layers around attention read and write it."""
    N, T, d = x_NTd.shape
    out = x_NTd.new_empty(B, T, N // B, d).transpose(1, 2)
    return out.copy_(x_NTd.view(B, N // B, T, d))


class _Causal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BHTd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor) -> Tensor:  # type: ignore[override]
        B, _, T, d = q_BHTd.shape
        q, k, v = _by_head(q_BHTd, 1 / math.sqrt(d)), _by_head(k_BHTd), _by_head(v_BHTd)
        out = torch.empty_like(q)
        future = torch.full((BLOCK, BLOCK), -math.inf, dtype=q.dtype).triu_(1)
        weights: list[Tensor] = []
        for start in range(0, T, BLOCK):
            end = min(start + BLOCK, T)
            scores = torch.bmm(q[:, start:end], k[:, :end].mT)
            scores[:, :, start:] += future[: end - start, : end - start]
            share = torch.softmax(scores, -1)
            out[:, start:end] = torch.bmm(share, v[:, :end])
            weights.append(share)
        ctx.save_for_backward(q, k, v, *weights)
        ctx.rows = B
        return _by_position(out, B)

    @staticmethod
    def backward(ctx: Any, grad_BHTd: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        q, k, v, *weights = ctx.saved_tensors
        T, d = q.shape[1:]
        grad = _by_head(grad_BHTd)
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        last = len(weights) - 1
        for number in range(last, -1, -1):  # the last block meets every key: it writes, the others add
            start, end = number * BLOCK, min(number * BLOCK + BLOCK, T)
            share, g = weights[number], grad[:, start:end]
            pull = _softmax_backward(torch.bmm(g, v[:, :end].mT), share, -1, share.dtype)
            grad_q[:, start:end] = torch.bmm(pull, k[:, :end])
            if number == last:
                torch.bmm(share.mT, g, out=grad_v)
                torch.bmm(pull.mT, q[:, start:end], out=grad_k)
            else:
                grad_v[:, :end].baddbmm_(share.mT, g)
                grad_k[:, :end].baddbmm_(pull.mT, q[:, start:end])
        grad_q *= 1 / math.sqrt(d)
        return tuple(_by_position(t, ctx.rows) for t in (grad_q, grad_k, grad_v))  # type: ignore


def causal_attention(q_BHTd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor) -> Tensor:
    """Scaled dot-product attention in which a query sees the keys up to its own position; any T."""
    return _Causal.apply(q_BHTd, k_BHTd, v_BHTd)  # type: ignore
