"""Attention over long rows under any rule, in blocks of queries: no T×T matrix is held, in no pass.

`kernels.attention.plan` takes it for rows above `LONG` where something is masked (documents, windows, blocks
that see both ways); without a mask PyTorch's own kernel does the same. A block of queries meets the range of
keys that any of it may see, so a window costs its width, and a packed document its length. Forward keeps one
number a query (log Σ exp); backward computes the weights again, as FlashAttention does.

    found = ranges(4096, doc_BT=doc_BT, window=256, rows=2)
    out_BHTd = long_attention(q_BHTd, k_BHTd, v_BHTd, found, see)

Source: Dao 2023 (FlashAttention-2, arXiv 2307.08691), algorithms 1 and 2, without tiles of keys.

Key: B batch, T positions, H heads, d head width, N rows of a block
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from exnihilo.kernels.dropout import multipliers

LONG = 2048
BLOCK = 128
_NUMBERS = 1 << 24  # of one block's weights at most: 64 MB
See = Callable[[int, int, int, int, int], Tensor]
"""(row, first query, end, first key, end) -> booleans (queries, keys)."""


class Range(NamedTuple):
    """Queries start .. end-1 of a row see no keys but low .. high-1."""

    row: int
    start: int
    end: int
    low: int
    high: int


def ranges(
    T: int,
    *,
    group: Tensor | int = 0,
    doc_BT: Tensor | None = None,
    window: int | None = None,
    place_BT: Tensor | None = None,
    rows: int = 1,
    heads: int = 1,
) -> list[Range]:
    """The keys that each block of queries may see: never too few.

    Args:
        group, doc_BT, window: of the rule; see `kernels.attention`.
        place_BT: set where distance is not that of places in the row: then a window narrows nothing.
        rows: B. Where the rule is the same for all rows, one row is given for all.
        heads: of all rows that share a block; blocks become smaller, so that their weights stay few.

    >>> ranges(256, window=10)[1]
    Range(row=0, start=128, end=256, low=118, high=256)
    """
    at_T = torch.arange(T)
    low_BT, high_BT = torch.zeros(1, T, dtype=torch.long), (at_T + 1)[None]
    if isinstance(group, Tensor):
        low, high = _ends(group.cpu())
        inside = group.cpu() > 0
        high_BT = torch.where(inside, high, high_BT)
    elif group > 0:
        high_BT = torch.full((1, T), T)
    if window is not None and place_BT is None:
        low_BT = low_BT.maximum(at_T - window)
        high_BT = high_BT.minimum(at_T + window + 1)
    if doc_BT is not None:
        low, high = _ends(doc_BT.cpu())
        low_BT, high_BT = low_BT.maximum(low), high_BT.minimum(high)
        high_BT = high_BT.where(doc_BT.cpu() >= 0, 0)
    shared = len(high_BT) == 1
    out: list[Range] = []
    for row in range(1 if shared else rows):
        lows, highs = low_BT[row if len(low_BT) > 1 else 0], high_BT[row]
        start = 0
        while start < T:
            end = min(start + BLOCK, T)
            while True:
                high = int(highs[start:end].max())
                seeing = highs[start:end] > lows[start:end]
                low = int(lows[start:end][seeing].min()) if bool(seeing.any()) else high
                if (end - start) * max(0, high - low) * heads <= _NUMBERS or end - start <= 8:
                    break
                end = start + (end - start) // 2
            out.append(Range(row, start, end, low, max(low, high)))
            start = end
    return out


def _ends(of_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Of each position: the first place and the end of the last place of the row that have its value."""
    B, T = of_BT.shape
    at_BT = torch.arange(T).expand(B, T)
    value_BT = (of_BT - of_BT.min()).long()
    count = int(value_BT.max()) + 1
    first = torch.full((B, count), T).scatter_reduce(1, value_BT, at_BT, "amin")
    last = torch.zeros(B, count, dtype=torch.long).scatter_reduce(1, value_BT, at_BT + 1, "amax")
    return first.gather(1, value_BT), last.gather(1, value_BT)


def long_attention(
    q_BHTd: Tensor,
    k_BHTd: Tensor,
    v_BHTd: Tensor,
    found: list[Range],
    see: See,
    *,
    sink_H: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention over `ranges` of a rule; equal to `kernels.attention.reference`.

    Args:
        found: of one row, if the rule is the same for all.
        see: who sees whom in a block.
        sink_H: a logit a head that takes weight and gives nothing.
        dropout: share of weights dropped.
    """
    B, H, T, d = q_BHTd.shape
    if B > 1 and all(r.row == 0 for r in found) and len({r.start for r in found}) == len(found):
        rows = [x.transpose(0, 1).reshape(1, H * B, T, d) for x in (q_BHTd, k_BHTd, v_BHTd)]
        sink = None if sink_H is None else sink_H.repeat_interleave(B)
        out = long_attention(rows[0], rows[1], rows[2], found, see, sink_H=sink, dropout=dropout)
        return out.view(H, B, T, d).transpose(0, 1)
    seed = int(torch.randint(1 << 62, ())) if dropout else 0
    run: Any = torch.compiler.disable(_Long.apply)  # compiled code must not depend on values
    return run(q_BHTd, k_BHTd, v_BHTd, sink_H, found, see, dropout, seed)


def _scores(q: Tensor, k: Tensor, see: See, r: Range) -> Tensor:
    """(H, N, keys) of one block, -inf where nothing is seen, in float32 at least."""
    scale = 1 / math.sqrt(q.shape[-1])
    scores = torch.bmm(q[r.row, :, r.start : r.end] * scale, k[r.row, :, r.low : r.high].mT)
    scores = scores if scores.dtype == torch.float64 else scores.float()
    shown = see(r.row, r.start, r.end, r.low, r.high)
    return scores.masked_fill_(~shown, -math.inf)


def _drops(found: list[Range], seed: int, dropout: float) -> Iterator[Callable[[Tensor], Tensor] | None]:
    """What multiplies the weights of each block, the same in both passes; random state is left as it was."""
    for number, _ in enumerate(found):
        if not dropout:
            yield None
            continue

        def drop(share: Tensor, number: int = number) -> Tensor:
            devices = [share.device] if share.device.type == "cuda" else []
            with torch.random.fork_rng(devices=devices, device_type="cuda"):
                torch.manual_seed((seed + number) % (1 << 62))
                return multipliers(share.shape, dropout, share.dtype).to(share.device)

        yield drop


class _Long(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sink_H: Tensor | None,
        found: list[Range],
        see: See,
        dropout: float,
        seed: int,
    ) -> Tensor:
        B, H, T, d = q.shape
        wide = torch.float64 if q.dtype == torch.float64 else torch.float32
        out = q.new_empty(B, T, H, d).transpose(1, 2)  # so that joining the heads afterwards is free
        lse = torch.zeros(B, H, T, dtype=wide, device=q.device)
        for r, drop in zip(found, _drops(found, seed, dropout), strict=True):
            if r.low == r.high:
                out[r.row, :, r.start : r.end] = 0
                continue
            scores = _scores(q, k, see, r)
            total = scores.logsumexp(-1)
            if sink_H is not None:
                total = torch.logaddexp(total, sink_H[:, None].to(wide))
            total = total.masked_fill(total == -math.inf, 0.0)  # sees nothing: weights become 0
            lse[r.row, :, r.start : r.end] = total
            weights = scores.sub_(total.unsqueeze(-1)).exp_()
            if drop is not None:
                weights *= drop(weights)
            out[r.row, :, r.start : r.end] = torch.bmm(weights.to(v.dtype), v[r.row, :, r.low : r.high])
        ctx.save_for_backward(q, k, v, out, lse, *(() if sink_H is None else (sink_H,)))
        ctx.how = found, see, dropout, seed
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse, *sinks = ctx.saved_tensors
        found, see, dropout, seed = ctx.how
        B, H, T, d = q.shape
        grad_q, grad_k, grad_v = (t.new_zeros(B, T, H, d).transpose(1, 2) for t in (q, k, v))
        pull_BHT = (grad * out).sum(-1).to(lse.dtype)
        scale = 1 / math.sqrt(d)
        for r, drop in zip(found, _drops(found, seed, dropout), strict=True):
            if r.low == r.high:
                continue
            queries, keys = slice(r.start, r.end), slice(r.low, r.high)
            weights = _scores(q, k, see, r).sub_(lse[r.row, :, queries].unsqueeze(-1)).exp_()
            grad_out = grad[r.row, :, queries]
            pulls = torch.bmm(grad_out, v[r.row, :, keys].mT).to(weights.dtype)
            used = weights
            if drop is not None:
                kept = drop(weights)
                pulls, used = pulls * kept, weights * kept
            grad_v[r.row, :, keys] += torch.bmm(used.to(v.dtype).mT, grad_out)
            grad_scores = (weights * (pulls - pull_BHT[r.row, :, queries].unsqueeze(-1))).to(q.dtype)
            grad_q[r.row, :, queries] = torch.bmm(grad_scores, k[r.row, :, keys])
            grad_k[r.row, :, keys] += torch.bmm(grad_scores.mT, q[r.row, :, queries])
        grad_sink = None
        if sinks:  # the sink's weight: exp(sink - lse); blind rows, whose lse is 0, give no pull
            share = (sinks[0][:, None].to(lse.dtype) - lse).exp()
            grad_sink = -(share * pull_BHT).sum((0, 2)).to(sinks[0].dtype)
        return grad_q.mul_(scale), grad_k.mul_(scale), grad_v, grad_sink, None, None, None, None
