"""A batch of rollouts -> the micro-batches of one of its steps; training and `replay` share it.

::

    step = step_of(batch, 17, config.rollout, objective, layout, world=world)

Batch n serves the steps n·u .. n·u + u − 1 (u: ``rollout.updates``), each with its share of the groups. On
every worker a step has as many micro-batches; who has fewer repeats one as a filler, which does not count.

Key: B rows, R tokens of a row
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from exnihilo.config import RolloutConfig
from exnihilo.data.base import Item
from exnihilo.objective.base import Objective
from exnihilo.parallel.mesh import World
from exnihilo.train.batches import Micro, Step
from exnihilo.train.source import learning, records, rows
from exnihilo.train.source.records import Drawn

ALONE = World(0, 1, torch.device("cpu"))


def step_of(
    batch: Drawn,
    step: int,
    how: RolloutConfig,
    objective: Objective,
    layout: rows.Layout,
    *,
    world: World = ALONE,
) -> Step:
    """This worker's part of a step.

    Args:
        batch: finished: its records hold what the objective reads.
        how: says how a batch is divided into steps.
        world: all its workers must call.
    """
    part = step % how.updates
    wanted = set(np.array_split(np.arange(how.prompts), how.updates)[part].tolist())
    groups = [g for g in records.groups(batch.records) if g[0].group in wanted]
    foreign = any("is_weight" in r.columns for r in batch.records)
    names = learning.columns_of(objective, foreign=foreign)
    items = [item for group in groups for item, _ in rows.lay(group, layout, names)]
    items.sort(key=rows.size)  # stable: the same for the same records
    ends = rows.cuts([rows.size(item) for item in items], layout.micro_tokens)
    pin = world.device.type == "cuda"
    micros = [
        Micro(_tensors(items[a:b], layout.pad_id, pin)) for a, b in zip([0, *ends[:-1]], ends, strict=True)
    ]
    if not part and not foreign:  # no update since it was drawn: the trainer must say the same
        for micro in micros:
            micro.batch["fresh"] = torch.ones(())
    told = world.gather([len(micros), sum(map(rows.size, items))])
    micros += [Micro(micros[0].batch, filler=True)] * (max(t[0] for t in told) - len(micros))
    asked = np.array([g[0].example for g in groups], np.int64)
    return Step(step, asked, micros, sum(t[1] for t in told))


def mine(how: RolloutConfig, world: World) -> list[int]:
    """The places in a batch that a worker draws: its share of each step.

    >>> mine(RolloutConfig(prompts=8, updates=2), World(1, 2, torch.device("cpu")))
    [2, 3, 6, 7]
    """
    out: list[int] = []
    for places in np.array_split(np.arange(how.prompts), how.updates):
        out += np.array_split(places, world.size)[world.rank].tolist()
    return out


def _tensors(items: Sequence[Item], pad_id: int, pin: bool) -> dict[str, Tensor]:
    columns = rows.collated(items, pad_id)
    found = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in columns.items()}
    return {k: v.pin_memory() for k, v in found.items()} if pin else found
