"""Attention in blocks of queries, for training on CPUs: only keys that some query of the block sees are touched.

Packed documents are then as cheap as short rows, and a causal row costs 5/8 of a full one. The weights of a block
are kept for backward instead of computed again (H·T·T numbers a row at most), so it is for rows of moderate
length; `kernels.attention.attend` chooses. Same results as its `reference`.

Measured on one core of an AVX2 machine (4 rows × 4 heads × 256 × 64, fp32, forward + backward): 11.7 ms, torch's
flash kernel 15.2 ms.

Key: B batch, T positions, H heads, d head width
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

BLOCK = 64
LENGTHS = range(2 * BLOCK, 1024 + 1)  # rows of these lengths gain


class Span(NamedTuple):
    """Queries start .. end-1 see keys among low .. high-1."""

    start: int
    end: int
    low: int
    high: int
    blind: bool  # some query among them sees nothing


Spans = list[list[Span]]  # a list for each row


def causal_spans(rows: int, T: int) -> Spans:
    """Each query sees all keys up to itself."""
    return [[Span(s, min(s + BLOCK, T), 0, min(s + BLOCK, T), False) for s in range(0, T, BLOCK)]] * rows


def spans(see_BTT: Tensor) -> Spans:
    """The least range of keys for each block of queries of any mask."""
    B, T = see_BTT.shape[:2]
    out: Spans = [[] for _ in range(B)]
    blind_BT = ~see_BTT.any(-1)
    for start in range(0, T, BLOCK):
        end = min(start + BLOCK, T)
        seen_BT = see_BTT[:, start:end].any(1).byte()
        low = seen_BT.argmax(-1)
        high = T - seen_BT.flip(-1).argmax(-1)
        rows = zip(low.tolist(), high.tolist(), seen_BT.any(-1).tolist(), strict=True)
        blind = blind_BT[:, start:end].any(-1).tolist()
        for b, (lo, hi, some) in enumerate(rows):
            out[b].append(Span(start, end, lo, hi if some else lo, blind[b]))
    return out


def blocked_attention(
    q_BHTd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor, found: Spans, bias_B1TT: Tensor | None
) -> Tensor:
    """Attention over spans. `bias_B1TT` None: causal, only blocks on the diagonal need a mask."""
    return _Blocked.apply(q_BHTd, k_BHTd, v_BHTd, found, bias_B1TT)  # pyright: ignore[reportReturnType]


@lru_cache(maxsize=16)
def _triangle(n: int, dtype: torch.dtype) -> Tensor:
    return torch.full((n, n), -math.inf, dtype=dtype).triu_(1)


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, found: Spans, bias: Tensor | None) -> Tensor:
        B, H, T, d = q.shape
        out = q.new_empty(B, T, H, d).transpose(1, 2)  # so that joining the heads afterwards is free
        kept: list[Tensor] = []
        for b in range(B):
            for start, end, low, high, blind in found[b]:
                if low == high:
                    out[b, :, start:end] = 0
                    continue
                queries, keys = q[b, :, start:end], k[b, :, low:high].transpose(1, 2)
                if bias is None:
                    scores = torch.bmm(queries, keys).mul_(d**-0.5)
                    scores[..., start - low :] += _triangle(end - start, q.dtype)
                    weights = torch.softmax(scores, -1)
                else:
                    shown = bias[b if bias.shape[0] > 1 else 0, :, start:end, low:high]
                    weights = torch.softmax(torch.baddbmm(shown, queries, keys, alpha=d**-0.5), -1)
                    if blind:  # a softmax over nothing is NaN
                        weights.masked_fill_(torch.isneginf(shown).all(-1, keepdim=True), 0.0)
                out[b, :, start:end] = torch.bmm(weights, v[b, :, low:high])
                kept.append(weights)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.found = found
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *kept = ctx.saved_tensors
        B, H, T, d = q.shape
        grad_q, grad_k, grad_v = (t.new_zeros(B, T, H, d).transpose(1, 2) for t in (q, k, v))
        scale, i = d**-0.5, 0
        for b in range(B):
            for start, end, low, high, _ in ctx.found[b]:
                if low == high:
                    continue
                weights, i = kept[i], i + 1
                grad_out, queries, keys = grad[b, :, start:end], q[b, :, start:end], k[b, :, low:high]
                grad_v[b, :, low:high] += torch.bmm(weights.transpose(1, 2), grad_out)
                grad_weights = torch.bmm(grad_out, v[b, :, low:high].transpose(1, 2))
                grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
                grad_q[b, :, start:end] = torch.bmm(grad_scores, keys)
                grad_k[b, :, low:high] += torch.bmm(grad_scores.transpose(1, 2), queries)
        return grad_q.mul_(scale), grad_k.mul_(scale), grad_v, None, None
