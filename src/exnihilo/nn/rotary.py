"""Rotary positions (Su et al. 2021, arXiv 2104.09864), in the rotate-half convention of Hugging Face.

Queries and keys are turned by an angle proportional to their position, so their product depends on the
distance alone. With K coordinates a position, frequency i turns with coordinate i mod K.

Key: B batch, T positions, H heads, d head width, K coordinates
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from exnihilo.kernels import rotary as kernel


class Turn(NamedTuple):
    """Cosines and signed sines of the angles, fp32, ready to multiply (B or 1, 1, T, d)."""

    cos: Tensor
    sin: Tensor  # first half negated: turning is x·cos + swap_halves(x)·sin


def angles(pos_TK: Tensor, head_dim: int, theta: float) -> Turn:
    """The turn at integer positions (..., T, K).

    >>> angles(torch.zeros(3, 1), 4, 10_000.0).cos.shape
    torch.Size([3, 4])
    """
    half = head_dim // 2
    steps = torch.arange(0, head_dim, 2, dtype=torch.float32, device=pos_TK.device)
    frequency = 1.0 / (theta ** (steps / head_dim))
    pos = pos_TK.float()
    K = pos.shape[-1]
    angle = (pos if K == 1 else pos[..., torch.arange(half, device=pos.device) % K]) * frequency
    cos, sin = angle.cos(), angle.sin()
    return Turn(torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1))


def rotate(x_BHTd: Tensor, turn: Turn) -> Tensor:
    """Turn queries or keys; products in fp32, the result in the dtype of x."""
    return kernel.rotate(x_BHTd, turn.cos, turn.sin)


class Rotary(nn.Module):
    """Turns for a whole forward, shared by all layers.

    Rows without position numbers (0 .. T-1) get a slice of a table; the table grows when a longer row
    comes. It is fp32 whatever the model is cast to, and is made again on the device the model is moved to,
    also from "meta".
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, head_dim: int, theta: float, length: int) -> None:
        super().__init__()
        self.head_dim, self.theta = head_dim, theta
        device = torch.empty(0).device
        # on "meta" a table has no numbers; asking for them would load PyTorch's symbolic machinery,
        # for seconds
        empty = Turn(torch.empty(length, head_dim), torch.empty(length, head_dim))
        cos, sin = empty if device.type == "meta" else self._table(length, device)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def _table(self, length: int, device: torch.device) -> Turn:
        return angles(torch.arange(length, device=device)[:, None], self.head_dim, self.theta)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Rotary:
        super()._apply(fn, recurse)
        if self.cos.device.type != "meta":
            self.cos, self.sin = self._table(self.cos.shape[0], self.cos.device)
        return self

    def forward(self, T: int, pos_BTK: Tensor | None) -> Turn:
        """The turn of T positions 0 .. T-1, or of given positions, to multiply (B, H, T, d) with."""
        if pos_BTK is not None:
            turn = angles(pos_BTK, self.head_dim, self.theta)
            return Turn(turn.cos.unsqueeze(1), turn.sin.unsqueeze(1))
        if T > self.cos.shape[0]:
            self.cos, self.sin = self._table(1 << (T - 1).bit_length(), self.cos.device)
        return Turn(self.cos[:T], self.sin[:T])
