"""Matrices in four bits a weight, for weights that stay as they are while adapters learn.

::

    codes, scales = quantise(weight)                     # (O, I) -> uint8 (O, I/2), float32 (O, I/64)
    close = dequantise(codes, scales)                    # (O, I) again, near the weight
    y = product(x, codes, scales)                        # x @ close.T; the gradient passes to x alone

NormalFloat (NF4): a weight is one of 16 levels, spaced as the quantiles of a normal distribution are, times
the largest magnitude of its block of 64 neighbours in its row. With a float32 scale a block that is 4.5 bits
a weight. The backward pass makes the matrix anew from its codes instead of keeping it.

Reference: QLoRA, Dettmers et al. 2023, arXiv:2305.14314, section 3 and appendix E (without its second
quantisation, of the scales).

Key: O outputs, I inputs, K blocks of a row
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from exnihilo.errors import UsageError

BLOCK = 64
LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip


@torch.no_grad()
def quantise(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix -> (codes, scales).

    Returns:
        codes: (O, I/2) uint8, two weights a byte, the first in the high half. scales: (O, K) float32.

    Raises:
        UsageError: an odd number of inputs, or a weight that is not finite.

    >>> codes, scales = quantise(torch.tensor([[0.5, -0.25, 0.0, 0.1]]))
    >>> codes.tolist(), scales.tolist()
    ([[242, 122]], [[0.5]])
    """
    O, I = weight_OI.shape  # noqa: E741
    if I % 2 or not bool(torch.isfinite(weight_OI).all()):
        raise UsageError(
            f"a matrix of {O} x {I}" + ("" if I % 2 else " with a weight that is not finite"),
            expected="finite weights, and an even number of inputs",
        )
    K = -(-I // BLOCK)
    blocks_OKB = F.pad(weight_OI.float(), (0, K * BLOCK - I)).view(O, K, BLOCK)
    scales_OK = blocks_OKB.abs().amax(2)
    share_OI = (blocks_OKB / scales_OK.clamp(min=1e-30)[:, :, None]).flatten(1)[:, :I].contiguous()
    levels = torch.tensor(LEVELS, device=weight_OI.device)
    nearest_OI = torch.bucketize(share_OI, (levels[1:] + levels[:-1]) / 2).to(torch.uint8)
    return nearest_OI[:, ::2] * 16 + nearest_OI[:, 1::2], scales_OK


@torch.no_grad()
def dequantise(codes: Tensor, scales_OK: Tensor) -> Tensor:
    """The matrix (O, I), float32, that the codes stand for."""
    levels = torch.tensor(LEVELS, device=codes.device)
    picked_OI = levels[torch.stack((codes >> 4, codes & 15), 2).flatten(1).long()]
    I = picked_OI.shape[1]  # noqa: E741
    return picked_OI * scales_OK.repeat_interleave(BLOCK, dim=1)[:, :I]


class _Product(torch.autograd.Function):
    """x @ W.T; see `product`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scales_OK: Tensor) -> Tensor:
        ctx.save_for_backward(codes, scales_OK)
        ctx.kind = x.dtype
        return F.linear(x, dequantise(codes, scales_OK).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        codes, scales_OK = ctx.saved_tensors
        [grad] = grads
        return (grad @ dequantise(codes, scales_OK).to(grad.dtype)).to(ctx.kind), None, None


def product(x: Tensor, codes: Tensor, scales_OK: Tensor) -> Tensor:
    """x (..., I) times the matrix, (..., O). The matrix has no gradient."""
    found = _Product.apply(x, codes, scales_OK)
    assert isinstance(found, Tensor)
    return found
