"""What is drawn anew each time a row is seen: the random generators, and the call of `Objective.draw`.

::

    columns = draw(objective, dataset, ids, codec=codec, seed=config.seed, step=step)     # training
    columns = draw(objective, dataset, ids, codec=codec)                                  # evaluation

Each row has a generator of its own, keyed by (seed, step, row id) and by nothing else: so masks are the same
on any number of workers, in any micro-batches, and after a resume; evaluation draws the same at every call.
Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") is counter-based: the key holds
(seed, step), the counter's top word the row, so that no two streams meet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from exnihilo.errors import UsageError
from exnihilo.objective.base import Columns, Look, Objective

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec

EVAL_SEED = (1 << 64) - 1  # no run has it


class Rows(Protocol):
    """What is drawn from: a `Dataset`, or anything with its rows' columns."""

    @property
    def rows(self) -> int: ...

    def batch(self, rows: np.ndarray) -> Columns: ...


def generator(seed: int, step: int, row: int) -> np.random.Generator:
    """The generator of one row at one step.

    >>> generator(0, 3, 7).random() == generator(0, 3, 7).random() != generator(0, 4, 7).random()
    True
    """
    key = np.array([seed & 0xFFFFFFFFFFFFFFFF, step], np.uint64)
    return np.random.Generator(np.random.Philox(counter=np.array([0, 0, 0, row], np.uint64), key=key))


def draws(objective: Objective) -> bool:
    """Whether an objective draws at all."""
    return type(objective).draw is not Objective.draw


def draw(
    objective: Objective,
    dataset: Rows,
    ids: np.ndarray,
    *,
    codec: Codec | None,
    seed: int = EVAL_SEED,
    step: int = 0,
) -> Columns:
    """The columns of some rows, with what the objective draws in place.

    Args:
        ids: row ids, integers (B,).
        codec: the tokenizer; may be absent where the objective does not draw.
        seed, step: of the run; left out: evaluation's.

    Raises:
        UsageError: the objective draws and there is no codec.
    """
    columns = dataset.batch(ids)
    if not draws(objective):
        return columns
    if codec is None:
        raise UsageError(
            f"{type(objective).__name__} draws masks or negatives, and no tokenizer is given",
            expected="codec=, for its special ids",
            next="pass the codec of the run",
        )
    keys = [generator(seed, step, row) for row in ids.tolist()]
    look = Look(dataset.rows, ids, dataset.batch, codec, training=seed != EVAL_SEED)
    return objective.draw(columns, keys, look)
