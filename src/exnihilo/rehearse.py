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

from exnihilo import codec as codecs
from exnihilo import data as datas
from exnihilo.config import CodecConfig, DataConfig, RunConfig, SourceConfig
from exnihilo.data import collate, packing
from exnihilo.model import build, resolve
from exnihilo.objective import draws, preludes, registry
from exnihilo.objective._branches import lay
from exnihilo.optim import clip, create
from exnihilo.parallel import World, checkpoint_blocks
from exnihilo.train import facts, precision, tune
from exnihilo.train.setup import purpose
from exnihilo.train.start import carry_over

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model
    from exnihilo.objective.base import Item, Objective

WORLD = "world:120"  # what stands for data where none is read


@dataclass
class Bench:
    """A model, its objective and optimiser on a device, ready to take steps."""

    config: RunConfig
    model: Model
    objective: Objective
    optimizer: torch.optim.Optimizer
    world: World
    dtype: str
    typical: Typical | None = None

    @classmethod
    def make(
        cls, config: RunConfig, vocab_size: int, init: Model | None = None, objective: Objective | None = None
    ) -> Bench:
        """Random weights of the configured shape, or the model `init`; nothing is written.

        Args:
            objective: with the facts of its data; without, those of the embedded world's.
        """
        world = World.start(config.device)
        torch.set_num_threads(tune.threads(config.threads))
        shape = init.config if init is not None else resolve(config.model, vocab_size)
        typical = None
        if objective is None:
            objective = registry.create(config.objective, config.options, length=shape.context)
            typical = Typical.of(objective) if not objective.lookahead else None
        shape = resolve(shape.model_copy(update=objective.model_settings))
        model = build(shape, heads=objective.heads, seed=config.seed, device=str(world.device)).train()
        if init is not None:
            carry_over(model, init, str(config.init))
        if config.checkpointing:
            checkpoint_blocks(model)
        optimizer = create(
            model,
            config.optim,
            shape,
            layer_decay=config.tune.layer_decay,
            purpose=purpose(config, objective),
        )
        dtype = precision.choose(config.dtype, world.device)
        return cls(config, model, objective, optimizer, world, dtype, typical)

    @property
    def rows(self) -> int:
        """Rows of one step."""
        return max(1, self.config.batch.tokens // self.config.model.context)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean loss of a batch, in nats."""
        with precision.autocast(self.dtype, self.world.device):
            batch = preludes.alone(self.model, self.objective, batch)
            sums, counts = self.objective.sums(self.model, batch), self.objective.counts(batch)
        terms = [sums[key] / counts[key].clamp(min=1) for key in sums if "@" not in key]
        return torch.stack([term.float() for term in terms]).sum()

    def random_batch(self, rows: int) -> dict[str, Tensor]:
        """Rows of random ids, each of two documents: packed as real data is; for objectives with columns of
        their own, rows of the embedded world."""
        context, vocab = self.config.model.context, self.model.config.vocab_size or 1
        if self.typical is not None:
            seen = self.typical.seen(np.arange(rows) % self.typical.rows, self.objective)
            ids = {name: np.minimum(seen[name], vocab - 1) for name in ("tokens", "targets") if name in seen}
            return self.tensors({**seen, **ids})  # of a tokenizer of its own, perhaps with more ids
        if "mask" in self.objective.columns:
            return self.tensors(self._replies(rows, vocab))
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(0, vocab, (rows, context + 1), generator=generator)
        half = (context + 1) // 2
        doc = (torch.arange(context + 1) >= half).to(torch.int32).expand(rows, -1)
        pos = torch.arange(context + 1) - doc[0] * half
        columns = {"tokens": tokens, "doc": doc, "pos": pos.expand(rows, -1)}
        return {name: value.contiguous().to(self.world.device) for name, value in columns.items()}

    def _replies(self, rows: int, vocab: int) -> dict[str, np.ndarray]:
        """Rows of a prompt and two replies to it, of random ids; numbers where a source would add them."""
        objective, draw = self.objective, np.random.default_rng(0)
        whole = (objective.row or self.config.model.context) + 1
        reply = max(1, (whole - whole // 4) // 2 - 1)
        prompt = draw.integers(0, vocab, max(1, whole - 2 * (reply + 1) + 1)).tolist()
        item = lay(prompt, draw.integers(0, vocab, (2, reply)).tolist())
        made = {name: np.tile(np.asarray(value), (rows, 1)) for name, value in item.items()}
        shape = made["tokens"].shape
        made["tokens"] = draw.integers(0, vocab, shape)
        made["pos"] = np.tile(np.arange(shape[1]), (rows, 1))
        made["doc"] = np.zeros(shape, np.int32)
        made["label"] = np.ones(shape, np.int64)
        for name in objective.columns - set(made) - {"source"}:
            made[name] = np.full(shape, math.nan if name == "old_logp" else 1.0, np.float32)
        return {name: value for name, value in made.items() if name in objective.columns}

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


class Typical:
    """Rows of the embedded world in an objective's own view, where random ids would not do: they have labels,
    segments and masks."""

    def __init__(self, items: list[Item], length: int, codec: Codec) -> None:
        self.items, self.codec = items, codec
        lengths = np.array([len(np.atleast_1d(item["tokens"])) for item in items], np.int64)
        self.plan = packing.plan(lengths, length, overlap=0, max_padding=1.0)
        self.rows = self.plan.rows

    @classmethod
    def of(cls, objective: Objective) -> Typical:
        """Gives the objective its facts, too."""
        data = DataConfig(sources=(SourceConfig(path=WORLD),))
        examples = list(datas.examples(data, None, "train", **facts.reading(objective)))
        codec = codecs.train(
            CodecConfig(kind="wordpiece", vocab_size=1000, lowercase=True),
            datas.texts(data, limit_bytes=1 << 20),
        )
        objective.facts = dict(objective.survey(examples))
        items = [item for found in objective.encode_many(examples, codec) for item in found]
        assert objective.length is not None
        return cls(items, objective.length, codec)

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Columns as a data set gives them."""
        pieces = [self.plan.pieces(int(row)) for row in rows]
        return collate.of_items(pieces, self.items, row=self.plan.row, pad_id=self.codec.pad_id)

    def seen(self, rows: np.ndarray, objective: Objective) -> dict[str, np.ndarray]:
        """Columns as training sees them."""
        drawn = draws.draw(objective, self, rows, codec=self.codec, seed=0)
        return {name: value for name, value in collate.simplify(drawn).items() if name in objective.columns}


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
