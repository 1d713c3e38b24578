"""Short training on this machine without a run folder: what `plan` measures with and `lr-find` sweeps with.

Key: B rows, T positions
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from exnihilo.config import RunConfig
from exnihilo.model import build, resolve
from exnihilo.objective import registry
from exnihilo.optim import clip, create
from exnihilo.parallel import World, checkpoint_blocks
from exnihilo.train import precision, tune

if TYPE_CHECKING:
    from exnihilo.model.model import Model
    from exnihilo.objective.base import Objective


@dataclass
class Bench:
    """A model, its objective and optimiser on a device, ready to take steps."""

    config: RunConfig
    model: Model
    objective: Objective
    optimizer: torch.optim.Optimizer
    world: World
    dtype: str

    @classmethod
    def make(cls, config: RunConfig, vocab_size: int, init: Model | None = None) -> Bench:
        """Random weights of the configured shape, or the model `init`; nothing is written."""
        world = World.start(config.device)
        torch.set_num_threads(tune.threads(config.threads))
        objective = registry.create(config.objective, config.options)
        if init is not None:
            shape, model = init.config, init.to(world.device).train()
        else:
            shape = resolve(config.model, vocab_size)
            model = build(shape, heads=objective.heads, seed=config.seed, device=str(world.device)).train()
        if config.checkpointing:
            checkpoint_blocks(model)
        optimizer = create(model, config.optim, shape)
        return cls(config, model, objective, optimizer, world, precision.choose(config.dtype, world.device))

    @property
    def rows(self) -> int:
        """Rows of one step."""
        return max(1, self.config.batch.tokens // self.config.model.context)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean loss of a batch, in nats."""
        with precision.autocast(self.dtype, self.world.device):
            sums, counts = self.objective.sums(self.model, batch), self.objective.counts(batch)
        terms = [sums[key] / counts[key].clamp(min=1) for key in sums if "@" not in key]
        return torch.stack([term.float() for term in terms]).sum()

    def random_batch(self, rows: int) -> dict[str, Tensor]:
        """Rows of random ids, each of two documents: packed as real data is."""
        context, vocab = self.config.model.context, self.model.config.vocab_size or 1
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(0, vocab, (rows, context + 1), generator=generator)
        half = (context + 1) // 2
        doc = (torch.arange(context + 1) >= half).to(torch.int32).expand(rows, -1)
        pos = torch.arange(context + 1) - doc[0] * half
        columns = {"tokens": tokens, "doc": doc, "pos": pos.expand(rows, -1)}
        return {name: value.contiguous().to(self.world.device) for name, value in columns.items()}

    def step(self, batches: list[dict[str, Tensor]]) -> float:
        """One update over micro-batches of equal weight, at each group's own ``lr``; returns the loss
        before it."""
        total = 0.0
        for batch in batches:
            loss = self.loss(batch) / len(batches)
            loss.backward()
            total += float(loss.detach())
        if self.config.optim.clip is not None:
            clip(list(self.model.parameters()), self.config.optim.clip)
        if math.isfinite(total):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def tensors(self, columns: dict[str, np.ndarray]) -> dict[str, Tensor]:
        """A dataset's columns on the device."""
        return {name: torch.as_tensor(column, device=self.world.device) for name, column in columns.items()}


def saved_bytes(forward: Callable[[], Any]) -> int:
    """Bytes that a forward keeps for its backward: each storage once, parameters left out.

    Counted by autograd's own hooks, so it holds on any device and for recomputed blocks too.
    """
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not tensor.is_leaf or not tensor.requires_grad:
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = forward()
    del kept
    return sum(seen.values())
