"""What an objective must know of the whole global batch before the first backward: see `Objective.prelude`.

::

    totals, counts = preludes.add(model, objective, batches)      # one worker's micro-batches
    found = preludes.means(totals, counts, device)                # {"mean:kl": 0-d tensor}, over all of them
    objective.sums(model, {**batch, **found})
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from exnihilo.objective.base import Batch, Objective

if TYPE_CHECKING:
    from exnihilo.model.model import Model

PREFIX = "mean:"


@torch.no_grad()
def add(
    model: Model, objective: Objective, batches: Iterable[Batch]
) -> tuple[dict[str, float], dict[str, float]]:
    """(totals, counts) of the prelude over batches."""
    totals: dict[str, float] = {}
    counts: dict[str, float] = {}
    for batch in batches:
        one, many = objective.prelude(model, batch), objective.prelude_counts(batch)
        for key, value in one.items():
            totals[key] = totals.get(key, 0.0) + float(value)
            counts[key] = counts.get(key, 0.0) + float(many[key])
    return totals, counts


def means(
    totals: Mapping[str, float], counts: Mapping[str, float], device: torch.device | str
) -> dict[str, Tensor]:
    """Columns for the batches: float32 scalars ``mean:KEY``; 0 where nothing was counted.

    >>> means({"kl": 3.0}, {"kl": 2.0}, "cpu")
    {'mean:kl': tensor(1.5000)}
    """
    return {
        f"{PREFIX}{key}": torch.tensor(totals[key] / counts[key] if counts[key] else 0.0, device=device)
        for key in sorted(totals)
    }


def alone(model: Model, objective: Objective, batch: Batch) -> dict[str, Tensor]:
    """A batch with the means of itself alone: where one batch is all there is, or only its cost matters."""
    if not objective.preludes:
        return dict(batch)
    return {**batch, **means(*add(model, objective, [batch]), batch["tokens"].device)}
