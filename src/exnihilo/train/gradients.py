"""The gradient of one step: sums of all micro-batches and workers over counts of all of them.

Where an objective has a prelude (`Objective.prelude`), it is added up over the same micro-batches and workers
first, without gradients: so that what depends on the whole batch does not depend on how it is cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from exnihilo.errors import TrainError
from exnihilo.objective import preludes
from exnihilo.objective.base import Objective
from exnihilo.optim import clip
from exnihilo.parallel import fsdp
from exnihilo.parallel.mesh import World
from exnihilo.train import precision
from exnihilo.train.batches import Micro

if TYPE_CHECKING:
    from exnihilo.model.model import Model


@dataclass
class Gradients:
    """What the backward passes of a step came to, over all workers."""

    loss: float
    norm: float
    terms: dict[str, float]  # mean of each term and slice


def step_gradients(
    model: Model,
    objective: Objective,
    micros: list[Micro],
    world: World,
    *,
    dtype: str = "fp32",
    mode: str = "fsdp",
    scaler: precision.LossScale | None = None,
    max_norm: float | None = None,
) -> Gradients:
    """Forward and backward of one step: leaves the gradient of the global mean in ``.grad``, clipped.

    However the rows are cut into micro-batches and dealt to workers, the gradient is that of
    Σ_k weight_k · (Σ sums_k / Σ counts_k) over all of them.

    Raises:
        TrainError: no micro-batch of any worker has anything to predict.
    """
    counts = world.sum(_added(objective.counts(m.batch) for m in micros if not m.filler))
    trained = [k for k in counts if "@" not in k and counts[k] > 0]
    if not trained:
        raise TrainError(
            "a step has nothing to predict: every target is ignored or padding",
            expected="at least one target in a step",
            next="check the data and the objective's columns, or raise batch.tokens",
        )
    scale = scaler.scale if scaler is not None else 1.0
    known = _known(model, objective, micros, world, dtype)
    totals: dict[str, Tensor] = {}
    for number, micro in enumerate(micros):
        fsdp.sync_on(model, number + 1 == len(micros))
        batch = {**_placed(micro, world), **known}
        with precision.autocast(dtype, world.device):
            sums = objective.sums(model, batch)
        terms = [objective.weights.get(k, 1.0) / counts[k] * sums[k] for k in trained]
        loss = torch.stack([t.float() for t in terms]).sum()
        (loss * (0.0 if micro.filler else scale)).backward()
        if not micro.filler:
            for key, value in sums.items():
                value = value.detach().double() if world.device.type != "mps" else value.detach()
                totals[key] = totals[key] + value if key in totals else value
    fsdp.reduce_gradients(model, world, mode)
    params = [p for p in model.parameters() if p.requires_grad]
    if scaler is not None:
        scaler.unscale(p.grad for p in params if p.grad is not None)
    norm = float(clip(params, max_norm))
    sums_all = world.sum({k: float(v) for k, v in totals.items()})
    means = {k: sums_all[k] / counts[k] for k in sums_all if counts.get(k)}
    loss = math.fsum(objective.weights.get(k, 1.0) * means[k] for k in trained)
    return Gradients(loss, norm, means)


def _placed(micro: Micro, world: World) -> dict[str, Tensor]:
    return {k: v.to(world.device, non_blocking=True) for k, v in micro.batch.items()}


def _known(
    model: Model, objective: Objective, micros: list[Micro], world: World, dtype: str
) -> dict[str, Tensor]:
    """The means of the prelude over the global batch; every worker takes part in every forward."""
    if not objective.preludes:
        return {}
    totals: dict[str, float] = {}
    counts: dict[str, float] = {}
    for micro in micros:
        with precision.autocast(dtype, world.device):
            one, many = preludes.add(model, objective, [_placed(micro, world)])
        if not micro.filler:
            totals, counts = _added([totals, one]), _added([counts, many])
    fsdp.reshard(model)
    totals, counts = world.sum(totals), world.sum(counts)
    return preludes.means(totals, counts, world.device)


def _added(parts: Any) -> dict[str, float]:
    out: dict[str, float] = {}
    for part in parts:
        for key, value in part.items():
            out[key] = out.get(key, 0.0) + float(value)
    return out
