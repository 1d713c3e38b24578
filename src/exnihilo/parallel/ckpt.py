"""Activation checkpointing: keep each block's input alone and compute the rest again in backward.

Less memory, about a third more time, the same gradients bit for bit (random state is replayed). Parameter
names do not change. Reference: Chen et al. 2016, arXiv:1604.06174; torch.utils.checkpoint (non-reentrant).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from exnihilo.parallel.fsdp import blocks


def checkpoint_blocks(model: nn.Module) -> int:
    """Make every block of `model` recompute its activations in backward; returns how many there are."""
    found = blocks(model)
    for block in found:
        block.forward = partial(recomputed, block.forward)
    return len(found)


def recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`forward(...)`, whose activations are not kept for backward."""
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
