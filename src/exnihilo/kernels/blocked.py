"""Attention in blocks of queries, for packed rows on CPUs: only keys that some query of the block sees are
touched, so packed documents are as cheap as short rows.

The weights of a block are kept for backward instead of computed again (H·T·T numbers a row at most), so it is
for rows of moderate length; `kernels.attention.attend` chooses. Same results as its `reference`.

Measured on two AVX2 cores, forward and backward, 8 rows of 512, 4 heads of 64, full attention: torch's kernel
with a mask takes 66 ms whatever is masked; in blocks one document takes 85 ms, two 70, three 59, six 42. At
256 and below blocks lose, so they are used from `LEAST` on, where `pays` says that enough is skipped.

Key: B batch, T positions, H heads, d head width
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

BLOCK = 64
_softmax_backward = torch.ops.aten._softmax_backward_data.default
LEAST, MOST = 384, 1024  # positions of rows that gain; longer ones where a window leaves little to keep
SHARE = 0.7  # of all pairs that may be touched at most


class Span(NamedTuple):
    """Queries start .. end-1 see keys among low .. high-1."""

    start: int
    end: int
    low: int
    high: int
    blind: bool  # some query among them sees nothing


Spans = list[list[Span]]  # a list for each row


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


def pays(found: Spans, T: int, *, windowed: bool) -> bool:
    """Whether blocks are faster than a mask over everything."""
    touched = sum((s.end - s.start) * (s.high - s.low) for row in found for s in row)
    return (T <= MOST or windowed) and T >= LEAST and touched <= SHARE * len(found) * T * T


def blocked_attention(
    q_BHTd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor, found: Spans, bias_B1TT: Tensor
) -> Tensor:
    """Attention over `spans` of a mask, which is also given as what is added to the scores (0 or -inf)."""
    return _Blocked.apply(q_BHTd, k_BHTd, v_BHTd, found, bias_B1TT)  # pyright: ignore[reportReturnType]


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, found: Spans, bias: Tensor) -> Tensor:
        B, H, T, d = q.shape
        out = q.new_empty(B, T, H, d).transpose(1, 2)  # so that joining the heads afterwards is free
        kept: list[Tensor] = []
        for b in range(B):
            for start, end, low, high, blind in found[b]:
                if low == high:
                    out[b, :, start:end] = 0
                    continue
                queries, keys = q[b, :, start:end], k[b, :, low:high].transpose(1, 2)
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
                grad_scores = _softmax_backward(grad_weights, weights, -1, weights.dtype)
                grad_q[b, :, start:end] = torch.bmm(grad_scores, keys)
                grad_k[b, :, low:high] += torch.bmm(grad_scores.transpose(1, 2), queries)
        return grad_q.mul_(scale), grad_k.mul_(scale), grad_v, None, None
