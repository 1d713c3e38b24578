"""An averaged copy of the weights (Polyak & Juditsky 1992): evaluated and exported in place of the last ones.

The decay grows with the number of updates, min(decay, (1 + n) / (10 + n)), so that the random start is
forgotten soon. Kept in fp32, sharded like the weights themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from exnihilo.parallel.fsdp import like


class Ema:
    """The average of a model's parameters."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.params = dict(model.named_parameters())
        self.average = {name: p.detach().clone() for name, p in self.params.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the current weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        average: list[Tensor] = list(self.average.values())
        params: list[Tensor] = list(self.params.values())
        torch._foreach_lerp_(average, params, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Take up the average that a checkpoint holds."""
        self.updates = updates
        for name, p in self.params.items():
            self.average[name].copy_(like(tensors[name], p))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights within the block (copied: sharding holds views of the
        storage)."""
        with torch.no_grad():
            kept = {name: p.detach().clone() for name, p in self.params.items()}
            for name, p in self.params.items():
                p.copy_(self.average[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, p in self.params.items():
                    p.copy_(kept[name])
