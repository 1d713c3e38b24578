"""Rotary positions (Su et al. 2021, arXiv 2104.09864), in the rotate-half convention of Hugging Face.

Queries and keys are turned by an angle proportional to their position, so their product depends on the
distance alone. With K coordinates a position, frequency i turns with coordinate i mod K.

A longer context than the weights were trained on: a larger base (theta) slows all frequencies down; YaRN
(Peng et al. 2023, arXiv 2309.00071) only those that make less than about one turn in the old context, and
sharpens attention a little.

Key: B batch, T positions, H heads, d head width, K coordinates
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from exnihilo.kernels import rotary as kernel


class Turn(NamedTuple):
    """Cosines and signed sines of the angles, fp32, ready to multiply (B or 1, 1, T, d)."""

    cos: Tensor
    sin: Tensor  # first half negated: turning is x·cos + swap_halves(x)·sin


class Yarn(NamedTuple):
    """How the frequencies of a longer context are made of those of a shorter one; see `config.YarnConfig`."""

    factor: float
    original: int
    beta_fast: float
    beta_slow: float
    attention: float

    def ramp(self, head_dim: int, theta: float, device: Any = None) -> Tensor:
        """(d/2): 0 where a frequency stays, 1 where it is divided by the factor, between them a line."""

        def at(turns: float) -> float:  # the index of the frequency that makes so many turns in `original`
            return head_dim * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(theta))

        low = max(math.floor(at(self.beta_fast)), 0)
        high = min(math.ceil(at(self.beta_slow)), head_dim - 1)
        place = torch.arange(head_dim // 2, dtype=torch.float32, device=device)
        return ((place - low) / max(high - low, 0.001)).clamp(0, 1)


def frequencies(head_dim: int, theta: float, yarn: Yarn | None = None, *, device: Any = None) -> Tensor:
    """Radians a position, (d/2), falling.

    >>> frequencies(4, 100.0).tolist()
    [1.0, 0.10000000149011612]
    """
    steps = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device)
    plain = 1.0 / (theta ** (steps / head_dim))
    if yarn is None:
        return plain
    ramp = yarn.ramp(head_dim, theta, device)
    return plain / yarn.factor * ramp + plain * (1 - ramp)


def angles(pos_TK: Tensor, head_dim: int, theta: float, yarn: Yarn | None = None) -> Turn:
    """The turn at integer positions (..., T, K).

    >>> angles(torch.zeros(3, 1), 4, 10_000.0).cos.shape
    torch.Size([3, 4])
    """
    half = head_dim // 2
    frequency = frequencies(head_dim, theta, yarn, device=pos_TK.device)
    pos = pos_TK.float()
    K = pos.shape[-1]
    angle = (pos if K == 1 else pos[..., torch.arange(half, device=pos.device) % K]) * frequency
    cos, sin = angle.cos(), angle.sin()
    if yarn is not None:
        cos, sin = cos * yarn.attention, sin * yarn.attention
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

    def __init__(self, head_dim: int, theta: float, length: int, yarn: Yarn | None = None) -> None:
        super().__init__()
        self.head_dim, self.theta, self.yarn = head_dim, theta, yarn
        device = torch.empty(0).device
        # on "meta" a table has no numbers; asking for them would load PyTorch's symbolic machinery,
        # for seconds
        empty = Turn(torch.empty(length, head_dim), torch.empty(length, head_dim))
        cos, sin = empty if device.type == "meta" else self._table(length, device)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def _table(self, length: int, device: torch.device) -> Turn:
        return self.at(torch.arange(length, device=device)[:, None])

    def at(self, pos_TK: Tensor) -> Turn:
        """The turn at integer positions (..., T, K)."""
        return angles(pos_TK, self.head_dim, self.theta, self.yarn)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Rotary:
        super()._apply(fn, recurse)
        if self.cos.device.type != "meta":
            self.cos, self.sin = self._table(self.cos.shape[0], self.cos.device)
        return self

    def forward(self, T: int, pos_BTK: Tensor | None) -> Turn:
        """The turn of T positions 0 .. T-1, or of given positions, to multiply (B, H, T, d) with."""
        if pos_BTK is not None:
            turn = self.at(pos_BTK)
            return Turn(turn.cos.unsqueeze(1), turn.sin.unsqueeze(1))
        if T > self.cos.shape[0]:
            self.cos, self.sin = self._table(1 << (T - 1).bit_length(), self.cos.device)
        return Turn(self.cos[:T], self.sin[:T])
