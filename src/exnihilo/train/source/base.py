"""What the loop knows of a source of batches; `train.batches.Batches` is one, `rollout.Rollouts` another.

::

    source = create.source(parts, micro_rows=8)        # by objective.needs
    step = source.get(17)                              # this worker's micro-batches
    figures = source.report(17)                        # after the update: goes into the step's metrics row
    why = source.judge(17, {**terms, **figures})       # a reason to stop, else None
    source.settle(18)                                  # before the checkpoint of step 18
    source.close()

What step `s` holds is a pure function of (data, seed, `s`) and, where a model makes it, of the weights at the
border before the step: so a run that is cut goes on bit for bit. Where rollouts are drawn from older weights,
or one batch of them is divided over several steps, the weights are gone after a cut: what was drawn for steps
to come must be on disk when `settle` returns, and is read from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from exnihilo.config import RunConfig
from exnihilo.objective.base import Objective
from exnihilo.parallel.mesh import World
from exnihilo.train.batches import Step

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model
    from exnihilo.train.source.reference import Reference
    from exnihilo.train.source.tasks import Tasks
    from exnihilo.train.source.weights import Weights


class Passes(Protocol):
    """Where a run is in its data."""

    def epoch(self, step: int, rows_per_step: int) -> float:
        """Passes over the data after so many steps."""
        ...


class Rows(Protocol):
    """What the loop reads of a data set."""

    @property
    def context(self) -> int:
        """Positions of a row, for speeds and budgets."""
        ...

    @property
    def rows(self) -> int:
        """Rows (or prompts) of one pass."""
        ...

    @property
    def source_names(self) -> tuple[str, ...]:
        """Names of the sources, for slices of the loss."""
        ...

    def refs(self, row: int) -> list[Any]:
        """The documents of a row: named where a step is bad."""
        ...


class Source(Protocol):
    """A source of batches.

    Attributes:
        dataset, order: what rows there are, and where in them the run is.
        rows_per_step: of all workers.
    """

    rows_per_step: int

    @property
    def dataset(self) -> Rows: ...

    @property
    def order(self) -> Passes: ...

    def get(self, step: int) -> Step:
        """This worker's micro-batches, as many on every worker."""
        ...

    def report(self, step: int) -> dict[str, float]:
        """Figures of a step that was just taken, the same on every worker."""
        ...

    def judge(self, step: int, terms: Mapping[str, float]) -> str | None:
        """A reason to stop the run, the same on every worker; None: go on."""
        ...

    def settle(self, step: int) -> None:
        """A checkpoint follows, of the border before `step`: what was drawn for later steps is on disk."""
        ...

    def forget(self, step: int) -> None:
        """The run went back to `step`: what was drawn for it and for later steps is void, on disk too."""
        ...

    def close(self) -> None:
        """End threads and connections."""
        ...


@dataclass(frozen=True)
class Parts:
    """What a source of rollouts is made from.

    Attributes:
        config: of the run, resolved. run: its folder.
        model: the one that is trained, in its newest state whenever `Source.get` is called.
        weights: whole, plain models with its weights to draw completions with (`weights.newest()`); with
            `Ahead` for `rollout.staleness`.
        tasks: prompts to draw from; none where the run learns from rows.
        reference: a frozen model, where the objective reads `ref_logp`; else None.
        dtype: of the products: fp32, bf16, fp16.
    """

    config: RunConfig
    run: Path
    world: World
    model: Model
    objective: Objective
    codec: Codec
    weights: Weights
    tasks: Tasks
    reference: Reference | None = None
    dtype: str = "fp32"
