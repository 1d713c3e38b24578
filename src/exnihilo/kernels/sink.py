"""Attention sinks by means of any attention: one more place before the row, that holds the sink.

A sink is a learned logit a head that stands beside those of the keys in the softmax, and whose weight goes
nowhere. The same comes out of a key before all others whose score is the sink for every query, and whose
value is zero: queries get one more coordinate, √d, the sink's key has the logit there, all other keys zero.
So whatever kernel is fastest serves unchanged, and its gradient is the sink's::

    q, k, v = widened(q_BHTd, k_BHTd, v_BHTd, sink_H)       # T+1 places, d+8 coordinates
    out = attention(q, k, v)[:, :, 1:, :d]                  # the first place is the sink itself

Source: gpt-oss (OpenAI 2025, arXiv 2508.10925); Miller 2023, *Attention is off by one*.

Key: B batch, T queries, S keys, H heads, d head width
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MORE = 8  # coordinates: one would do, but kernels read eight at once


def widened(
    q_BHTd: Tensor, k_BHSd: Tensor, v_BHSd: Tensor, sink_H: Tensor, *, query: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values with the sink's place before them.

    Args:
        query: queries get such a place, too, so that causal masks fit; its output means nothing.
    """
    (B, H, _, d), dtype = q_BHTd.shape, q_BHTd.dtype
    wide = d + MORE
    # attention divides by √wide where it would have by √d
    q = F.pad(q_BHTd * math.sqrt(wide / d), (0, 1), value=math.sqrt(wide))
    q = F.pad(q, (0, MORE - 1, 1, 0) if query else (0, MORE - 1))
    sink_H1d = F.pad(sink_H.to(dtype)[:, None, None], (d, MORE - 1))
    k = torch.cat((sink_H1d.expand(B, H, 1, wide), F.pad(k_BHSd, (0, MORE))), 2)
    return q, k, F.pad(v_BHSd, (0, MORE, 1, 0))


def beside(bias: Tensor, *, query: bool = True) -> Tensor:
    """A mask (B, 1, T, S) with the sink's place: everyone sees it, and it sees itself alone."""
    out = F.pad(bias, (1, 0))
    return out if not query else _with_first(out)


def _with_first(bias: Tensor) -> Tensor:
    first = bias.new_full((bias.shape[0], 1, 1, bias.shape[3]), -math.inf)
    first[..., 0] = 0
    return torch.cat((first, bias), 2)
