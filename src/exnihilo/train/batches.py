"""From (dataset, order) to the micro-batches of a step: a pure function of (step, rank, world, micro_rows).

The global rows of a step are dealt to workers in equal contiguous parts, and each part is cut into
micro-batches. All workers have the same number of them (with sharded weights a forward is a joint act);
where a worker runs out it gets a filler, whose counts and loss are left out. A thread prepares the next
steps while this one trains. What an objective draws anew each time (masks, negatives) it draws there, from a
generator for each row that knows only (seed, step, row): see `objective.draws`.

Key: B rows of a micro-batch
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from exnihilo.data.collate import simplify
from exnihilo.data.order import Order
from exnihilo.environment import one_thread
from exnihilo.errors import DataError
from exnihilo.objective import draws
from exnihilo.objective.base import Objective

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.data.dataset import Dataset

AHEAD = 2  # steps prepared in advance


@dataclass
class Micro:
    """One forward's batch. A filler keeps workers in step and does not count."""

    batch: dict[str, Tensor]
    filler: bool = False


@dataclass
class Step:
    """What a worker trains on in one step."""

    step: int
    rows: np.ndarray  # this worker's global row ids
    micros: list[Micro]
    tokens: int | None = None  # positions over all workers, where steps differ in them
    begins: bool = False  # rows of another kind than those before: their losses do not compare


def parts(rows: np.ndarray, rank: int, world: int, micro_rows: int) -> list[np.ndarray]:
    """Row ids of each micro-batch of one worker; as many on every worker, some empty.

    >>> [p.tolist() for p in parts(np.arange(5), 1, 2, 2)]
    [[3], [4]]
    """
    mine = np.array_split(rows, world)[rank]
    most = math.ceil(len(rows) / world)
    return list(np.array_split(mine, max(1, math.ceil(most / micro_rows))))


class Fixed:
    """A source whose rows follow from the step's number, whatever the weights: the rest of what `Source`
    asks."""

    def judge(self, step: int, terms: Mapping[str, float]) -> str | None:
        """Nothing to judge: the guard and the validation split do."""
        del step, terms
        return None

    def settle(self, step: int) -> None:
        """Nothing: a step's rows follow from its number."""
        del step

    def forget(self, step: int) -> None:
        """Nothing: rows do not depend on weights."""
        del step


class Batches(Fixed):
    """The training rows as micro-batches, prepared ahead by one thread.

    Args:
        dataset, order: what rows hold, and which a step has.
        objective: names the columns that it reads, and draws what is random in them.
        rows_per_step: over all workers.
        codec, seed: what `draw` needs; an objective that draws nothing needs neither.
    """

    def __init__(
        self,
        dataset: Dataset,
        order: Order,
        objective: Objective,
        *,
        rows_per_step: int,
        micro_rows: int,
        rank: int = 0,
        world: int = 1,
        pin: bool = False,
        codec: Codec | None = None,
        seed: int = 0,
    ) -> None:
        self.dataset, self.order, self.objective = dataset, order, objective
        self.rows_per_step, self.micro_rows = rows_per_step, micro_rows
        self.rank, self.world, self.pin = rank, world, pin
        self.codec, self.seed = codec, seed
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches", initializer=one_thread)
        self._ready: dict[int, Future[Step]] = {}

    def make(self, step: int) -> Step:
        """The step's micro-batches, computed here and now."""
        rows = self.order.rows(step, self.rows_per_step)
        cut = parts(rows, self.rank, self.world, self.micro_rows)
        mine = np.concatenate(cut)
        read = mine if len(mine) else rows[:1]
        columns = self.columns(read, step)
        micros, at = [], 0
        for part in cut:
            if len(part):
                piece = {name: column[at : at + len(part)] for name, column in columns.items()}
                at += len(part)
            else:
                piece = {name: column[:1] for name, column in columns.items()}
            micros.append(Micro(self.tensors(piece), filler=not len(part)))
        return Step(step, mine, micros)

    def columns(self, rows: np.ndarray, step: int) -> dict[str, np.ndarray]:
        """The columns of some rows as the step sees them."""
        return draws.draw(self.objective, self.dataset, rows, codec=self.codec, seed=self.seed, step=step)

    def tensors(self, columns: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """Columns as tensors: only those the objective reads, `doc` and `pos` dropped where they say
        nothing."""
        wanted = {k: v for k, v in simplify(columns).items() if k in self.objective.columns}
        missing = self.objective.columns - set(columns)
        if missing:
            raise DataError(
                f"the data lacks the columns {sorted(missing)}",
                expected=f"what {type(self.objective).__name__} reads: {sorted(self.objective.columns)}",
                next="use the data source that provides them",
            )
        if len(self.dataset.source_names) == 1:
            wanted.pop("source", None)
        out = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in wanted.items()}
        return {name: value.pin_memory() for name, value in out.items()} if self.pin else out

    def get(self, step: int) -> Step:
        """The step's micro-batches; the following steps are begun in the background."""
        for number in range(step, step + AHEAD + 1):
            if number not in self._ready:
                self._ready[number] = self._pool.submit(self.make, number)
        for old in [n for n in self._ready if n < step or n > step + AHEAD]:
            self._ready.pop(old).cancel()
        return self._ready.pop(step).result()

    def report(self, step: int) -> dict[str, float]:
        """Nothing: the loss says all of a step whose rows were there before."""
        del step
        return {}

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._ready.clear()
