"""Attention that keeps its weights, for training rows of moderate length on CPUs.

Blocks of queries go through one batched product for all rows and heads. A causal block meets only the keys
before its end, so the upper triangle is mostly not computed. The weights are kept for backward (at most H·T·T
numbers a row), where PyTorch's flash kernel computes them again, and knows no dropout.
`kernels.attention.attend` uses it where it was measured to gain; results are those of its `reference`.

`kept_attention` is for eager training; `unrolled` says the same in plain operations for `torch.compile`,
which fuses masks, softmax, dropout and copies.

Measured on two AVX2 cores, forward and backward, 4 heads of 64, packed causal documents: 16 rows of 256 in
24 ms, 8 rows of 512 in 38 ms, where PyTorch's kernel with a mask takes 33 and 66 ms.

Key: B batch, T positions, H heads, d head width, N = B·H
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from exnihilo.kernels.dropout import multipliers

BLOCK, WIDE = 64, 128  # queries of a causal block; of one where everything is seen
LENGTHS = range(2 * BLOCK, 512 + 1)  # causal rows: below nothing to skip, above too many weights to keep
FULL_LENGTHS = range(2, 256 + 1)  # rows that see both ways: above PyTorch's kernel wins
DROPPED_LENGTHS = range(2, 512 + 1)  # with dropout PyTorch has no kernel
_softmax_backward = torch.ops.aten._softmax_backward_data.default


def gains(T: int, *, causal: bool, dropout: bool) -> bool:
    """Whether rows of this length are faster so than through PyTorch's kernels."""
    return T in (DROPPED_LENGTHS if dropout else LENGTHS if causal else FULL_LENGTHS)


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


def _blocks(T: int, causal: bool) -> list[tuple[int, int, int]]:
    """(first query, end of the queries, end of the keys) of each block."""
    size = BLOCK if causal else WIDE
    ends = [(start, min(start + size, T)) for start in range(0, T, size)]
    return [(start, end, end if causal else T) for start, end in ends]


class _Kept(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        q_BHTd: Tensor,
        k_BHTd: Tensor,
        v_BHTd: Tensor,
        causal: bool,
        bias: Tensor | None,
        dropout: float,
    ) -> Tensor:
        B, H, T, d = q_BHTd.shape
        blind_BT = None if bias is None else bias[:, 0].diagonal(dim1=-2, dim2=-1) == -math.inf
        if blind_BT is not None and not bool(blind_BT.any()):
            blind_BT = None
        q, k, v = _by_head(q_BHTd, 1 / math.sqrt(d)), _by_head(k_BHTd), _by_head(v_BHTd)
        out = torch.empty_like(q)
        future = torch.full((BLOCK, BLOCK), -math.inf, dtype=q.dtype).triu_(1) if causal else None
        weights: list[Tensor] = []
        for start, end, seen in _blocks(T, causal):
            scores = torch.bmm(q[:, start:end], k[:, :seen].mT)
            if bias is not None:
                scores.view(B, H, end - start, seen).add_(bias[:, :, start:end, :seen])
            elif future is not None:
                scores[:, :, start:] += future[: end - start, : end - start]
            share = torch.softmax(scores, -1)
            if blind_BT is not None:  # a softmax over nothing is NaN
                share.view(B, H, end - start, seen).masked_fill_(blind_BT[:, None, start:end, None], 0.0)
            weights.append(share)
            if dropout:
                weights.append(multipliers(share.shape, dropout, share.dtype))
                share = share * weights[-1]
            out[:, start:end] = torch.bmm(share, v[:, :seen])
        ctx.save_for_backward(q, k, v, *weights)
        ctx.rows, ctx.causal, ctx.dropout = B, causal, dropout
        return _by_position(out, B)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_BHTd: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *weights = ctx.saved_tensors
        T, d = q.shape[1:]
        grad = _by_head(grad_BHTd)
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        blocks = _blocks(T, ctx.causal)
        for number in range(len(blocks) - 1, -1, -1):  # the last block meets every key: it writes, others add
            (start, end, seen), g = blocks[number], grad[:, blocks[number][0] : blocks[number][1]]
            pull = torch.bmm(g, v[:, :seen].mT)
            if ctx.dropout:
                share, keep = weights[2 * number : 2 * number + 2]
                pull *= keep
                used = share * keep
            else:
                share = used = weights[number]
            pull = _softmax_backward(pull, share, -1, share.dtype)
            grad_q[:, start:end] = torch.bmm(pull, k[:, :seen])
            if number == len(blocks) - 1:
                torch.bmm(used.mT, g, out=grad_v)
                torch.bmm(pull.mT, q[:, start:end], out=grad_k)
            else:  # `baddbmm_` into a slice would fall apart into one product a head
                grad_v[:, :seen] += torch.bmm(used.mT, g)
                grad_k[:, :seen] += torch.bmm(pull.mT, q[:, start:end])
        grad_q *= 1 / math.sqrt(d)
        return *(_by_position(t, ctx.rows) for t in (grad_q, grad_k, grad_v)), None, None, None


def kept_attention(
    q_BHTd: Tensor,
    k_BHTd: Tensor,
    v_BHTd: Tensor,
    *,
    causal: bool,
    bias: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention of rows of T positions over themselves.

    Args:
        causal: a query sees the keys up to its own position only; a `bias` must then say so too.
        bias: (B or 1, 1, T, T), 0 where a query sees a key and -inf where not (packed documents, windows);
            None: all that `causal` allows. A query that does not see itself gives zeros.
        dropout: share of the weights dropped.
    """
    return _Kept.apply(q_BHTd, k_BHTd, v_BHTd, causal, bias, dropout)  # type: ignore


def unrolled(
    q_BHTd: Tensor,
    k_BHTd: Tensor,
    v_BHTd: Tensor,
    *,
    causal: bool,
    bias: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """`kept_attention` in operations that a compiler sees through, for `torch.compile` on CPUs.

    Measured in a training step of 6 layers × 256 (2 AVX2 cores, causal rows of 256): 6% less time than with
    PyTorch's own kernel, of which 2% come from the blocks, the rest from fusing.
    """
    B, H, T, d = q_BHTd.shape
    q = (q_BHTd * (1 / math.sqrt(d))).contiguous().view(B * H, T, d)
    k, v = k_BHTd.contiguous().view(B * H, T, d), v_BHTd.contiguous().view(B * H, T, d)
    place = torch.arange(T, device=q.device)
    out: list[Tensor] = []
    for start, end, seen in _blocks(T, causal):
        scores = torch.bmm(q[:, start:end], k[:, :seen].mT)
        if bias is not None:
            blind = (bias[:, :, start:end, start:end].diagonal(dim1=-2, dim2=-1) == -math.inf).unsqueeze(-1)
            open_ = bias[:, :, start:end, :seen].masked_fill(blind, 0.0)  # a softmax over nothing is NaN
            share = torch.softmax(scores.view(B, H, end - start, seen) + open_, -1).masked_fill(blind, 0.0)
            share = share.view(B * H, end - start, seen)
        elif causal:
            later = place[None, :seen] > place[start:end, None]
            share = torch.softmax(scores.masked_fill(later, -math.inf), -1)
        else:
            share = torch.softmax(scores, -1)
        out.append(torch.bmm(F.dropout(share, dropout) if dropout else share, v[:, :seen]))
    return torch.cat(out, 1).view(B, H, T, d)
