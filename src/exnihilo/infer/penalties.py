"""Penalties and biases: logits changed by what was said so far. Pure functions.

::

    logits_BV = repetition(logits_BV, seen_BV, 1.2)       # prompt and reply
    logits_BV = counted(logits_BV, counts_BV, 0.5, 0.2)   # reply only: presence, frequency
    logits_BV = biased(logits_BV, {42: 5.0, 7: -100.0})

All of them in this order are `penalise`, which comes before the temperature, as in Transformers and vLLM.

References: repetition penalty, Keskar et al. 2019 (CTRL, arXiv:1909.05858), as Transformers and vLLM apply it
to prompt and reply; presence and frequency penalties, OpenAI's API reference: μ_j − c_j·frequency −
[c_j > 0]·presence, counted over the reply.

Key: B rows, V vocabulary
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from exnihilo.infer.sampling import Sampling


def counts(rows: Sequence[Sequence[int]], vocabulary: int, device: torch.device | str = "cpu") -> Tensor:
    """How often each id stands in each row, float32 (B, V).

    >>> counts([[1, 1, 2]], 4)
    tensor([[0., 2., 1., 0.]])
    """
    out_BV = torch.zeros(len(rows), vocabulary)
    for b, row in enumerate(rows):
        if len(row):
            out_BV[b] = torch.bincount(torch.tensor(row), minlength=vocabulary)
    return out_BV.to(device)


def repetition(logits_BV: Tensor, seen_BV: Tensor, penalty: float) -> Tensor:
    """Logits of seen ids: divided by the penalty where positive, multiplied where negative.

    >>> repetition(torch.tensor([[2.0, -2.0, 1.0]]), torch.tensor([[True, True, False]]), 2.0)
    tensor([[ 1., -4.,  1.]])
    """
    return torch.where(
        seen_BV, torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty), logits_BV
    )


def counted(logits_BV: Tensor, counts_BV: Tensor, presence: float, frequency: float) -> Tensor:
    """Logits less `frequency` for each time an id was said, and less `presence` if it was said at all.

    >>> counted(torch.zeros(1, 3), torch.tensor([[0.0, 1.0, 2.0]]), 1.0, 0.5)
    tensor([[ 0.0000, -1.5000, -2.0000]])
    """
    return logits_BV - frequency * counts_BV - presence * (counts_BV > 0)


def biased(logits_BV: Tensor, bias: Mapping[int, float]) -> Tensor:
    """Logits plus a bias for some ids.

    >>> biased(torch.zeros(1, 3), {2: 5.0})
    tensor([[0., 0., 5.]])
    """
    at = torch.tensor(list(bias), device=logits_BV.device)
    plus = torch.tensor(list(bias.values()), dtype=logits_BV.dtype, device=logits_BV.device)
    return logits_BV.index_add(1, at, plus.expand(len(logits_BV), -1))


def penalise(
    logits_BV: Tensor, sampling: Sampling, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]]
) -> Tensor:
    """All of a `Sampling`'s penalties and its bias; the rows' prompts and what was said after them."""
    V, device = logits_BV.shape[1], logits_BV.device
    s = sampling
    counts_BV = (
        counts(replies, V, device)
        if s.repetition_penalty != 1 or s.presence_penalty or s.frequency_penalty
        else None
    )
    if s.repetition_penalty != 1 and counts_BV is not None:
        logits_BV = repetition(logits_BV, (counts_BV + counts(prompts, V, device)) > 0, s.repetition_penalty)
    if (s.presence_penalty or s.frequency_penalty) and counts_BV is not None:
        logits_BV = counted(logits_BV, counts_BV, s.presence_penalty, s.frequency_penalty)
    return biased(logits_BV, dict(s.logit_bias)) if s.logit_bias else logits_BV
