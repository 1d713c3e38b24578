"""What each token of a context has to do with its question: the states that a matching span head reads.

    question_BTD, near_BTD = question_and_near(hidden_BTD, batch)

A small encoder learns from few questions where an answer may begin, hardly that it must stand near what was
asked. The means of the question and of a token's neighbourhood say that much, without attention to be
learnt first (an idea of Chen et al. 2017, arXiv 1704.00051, whose reader is given each token's match with the
question).

Key: B rows, T positions, D model width, P pieces (windows) of all rows
"""

from __future__ import annotations

import torch
from torch import Tensor

from exnihilo.objective.base import Batch
from exnihilo.objective.pieces import firsts

REACH = 8  # tokens to each side


def question_and_near(hidden_BTD: Tensor, batch: Batch, reach: int = REACH) -> tuple[Tensor, Tensor]:
    """For each token of a context the mean state of its question ([CLS] left out) and of the context's tokens
    up to `reach` places from it, (B, T, D) each; elsewhere they have no meaning. Nothing crosses pieces.

    >>> batch = {"tokens": torch.zeros(1, 5), "segment": torch.tensor([[0, 0, 1, 1, 1]])}
    >>> question, near = question_and_near(torch.arange(5.0).view(1, 5, 1), batch, reach=1)
    >>> question[0, 2:, 0].tolist(), near[0, 2:, 0].tolist()
    ([1.0, 1.0, 1.0], [2.5, 3.0, 3.5])
    """
    hidden_BTD = hidden_BTD.to(torch.promote_types(hidden_BTD.dtype, torch.float32))
    B, T, D = hidden_BTD.shape
    first_BT = firsts(batch)
    pieces = int(first_BT.sum())
    piece_BT = (first_BT.flatten().cumsum(0) - 1).clamp(min=0).view(B, T)
    real_BT = batch["doc"] >= 0 if "doc" in batch else torch.ones_like(first_BT)
    asks_BT = real_BT & (batch["segment"] == 0) & ~first_BT
    holds_BT = real_BT & (batch["segment"] == 1)
    sum_PD = hidden_BTD.new_zeros(pieces, D).index_add(0, piece_BT[asks_BT], hidden_BTD[asks_BT])
    asked_P = torch.bincount(piece_BT[asks_BT], minlength=pieces).clamp(min=1)
    question_BTD = (sum_PD / asked_P[:, None])[piece_BT]
    # the context of a piece is one run of places: from sums up to each place, which float32 would not hold
    at_BT = torch.arange(T, device=hidden_BTD.device).expand(B, T)
    run_BT = holds_BT & ~(holds_BT.roll(1, 1) & (piece_BT == piece_BT.roll(1, 1)) & (at_BT > 0))
    begin_BT = torch.where(run_BT, at_BT, 0).cummax(1).values
    stop_BT = holds_BT & ~(holds_BT.roll(-1, 1) & (piece_BT == piece_BT.roll(-1, 1)) & (at_BT < T - 1))
    end_BT = torch.where(stop_BT, at_BT, T - 1).flip(1).cummin(1).values.flip(1)
    held_BTD = torch.where(holds_BT[..., None], hidden_BTD, 0.0).double()
    sums_BTD = torch.cat([held_BTD.new_zeros(B, 1, D), held_BTD.cumsum(1)], 1)
    low_BT = torch.maximum(begin_BT, at_BT - reach)
    high_BT = torch.minimum(end_BT, at_BT + reach) + 1
    high_BT = torch.maximum(high_BT, low_BT + 1).clamp(max=T)

    def up_to(place_BT: Tensor) -> Tensor:
        return sums_BTD.gather(1, place_BT[..., None].expand(B, T, D))

    near_BTD = (up_to(high_BT) - up_to(low_BT)) / (high_BT - low_BT).clamp(min=1)[..., None]
    return question_BTD, near_BTD.to(hidden_BTD.dtype)
