"""Dropout on CPUs from a fast generator.

PyTorch draws one Bernoulli number an element, which takes 10 ms for a million: a seventh of a training step
of BERT-Mini. Here four elements share one 64-bit word of SFC64, itself seeded from PyTorch's generator: so
the same seed gives the same bits, and a run that is resumed drops the same. Shares are exact to 1/65536, and
what is kept is scaled by the share that is really kept. Elsewhere PyTorch's own is used.

Source: Srivastava et al. 2014, *Dropout* (JMLR 15).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_STEPS = 1 << 16
_LEAST = 1 << 12  # elements: fewer are not worth a generator


def multipliers(shape: torch.Size, share: float, dtype: torch.dtype) -> Tensor:
    """0 with probability `share`, else 1 / (1 - share), independently; on the CPU.

    >>> multipliers(torch.Size([2, 3]), 0.0, torch.float32).tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    dropped = min(_STEPS - 1, round(share * _STEPS))
    count = shape.numel()
    seed = int(torch.randint(1 << 62, ()).item())
    words = np.random.SFC64(seed).random_raw(-(-count // 4))
    bits = torch.from_numpy(words.view(np.int16))[:count].view(shape)
    kept = (bits >= dropped - _STEPS // 2).to(dtype)
    return kept.mul_(_STEPS / (_STEPS - dropped))


def dropout(x: Tensor, share: float) -> Tensor:
    """`x` with a share of its elements set to 0 and the rest scaled up; call it in training only."""
    if torch.compiler.is_compiling() or type(x) is not Tensor or x.device.type != "cpu" or x.numel() < _LEAST:
        return F.dropout(x, share)
    return x * multipliers(x.shape, share, x.dtype)
