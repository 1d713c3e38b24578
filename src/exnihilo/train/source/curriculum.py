"""Rows that grow longer over a run: stages of (share of the steps, length), at constant tokens a step.

::

    exnihilo train gpt data=books/ steps=4000 model.context=2048 \\
        'batch.lengths=[[0.5, 256], [0.3, 1024], [0.2, 2048]]'

A step of a stage has ``batch.tokens // length`` rows, so short rows are many and cheap: attention costs their
length, and what a model learns from near tokens it learns there. Which stage a step is in follows from its
number and the run's, and which rows it has from its number within the stage: a run that is cut goes on
exactly, and needs a step number alone.

Sources: Li et al. 2021 (sequence length warmup, arXiv 2108.06084); Press et
al. 2021, *Shortformer* (arXiv 2012.15832), section 4.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from exnihilo import log
from exnihilo.config import RunConfig
from exnihilo.data.lengths import fitting, shorter
from exnihilo.errors import ConfigError
from exnihilo.objective.base import Objective
from exnihilo.train.batches import Batches, Fixed, Step
from exnihilo.train.facts import laying

if TYPE_CHECKING:
    from exnihilo.data.dataset import Dataset

Stage = tuple[float, int]


def check(config: RunConfig, objective: Objective) -> None:
    """Refuse a curriculum that cannot be obeyed.

    Raises:
        ConfigError: lengths that do not rise to the context, an objective whose rows have another shape, or a
            run whose number of steps is not known.
    """
    stages = config.batch.lengths
    if not stages:
        return
    said = f"batch.lengths={[list(stage) for stage in stages]}"
    lengths = [length for _, length in stages]
    context = objective.length or config.model.context
    if objective.needs != "dataset" or objective.row not in (None, context):
        raise ConfigError(
            f"{said} with objective {config.objective}, whose rows are not the context long",
            expected="an objective that learns from rows of items",
            next="leave batch.lengths out",
        )
    if lengths != sorted(set(lengths)) or lengths[-1] != context:
        raise ConfigError(
            f"{said} with model.context={context}",
            expected="lengths that rise, the last one the context",
            next=f"end it with [SHARE, {context}], or set model.context={lengths[-1]}",
        )
    if config.batch.tokens < context:
        raise ConfigError(
            f"{said} with batch.tokens={config.batch.tokens}: steps would differ in tokens",
            expected=f"at least one row of {context} a step",
            next=f"batch.tokens={context}",
        )
    if config.steps is None and config.tokens is None and config.epochs is None:
        raise ConfigError(
            f"{said} in a run by the clock: its number of steps is not known",
            expected="steps=, tokens= or epochs=, of which stages are shares",
            next="steps=2000",
        )


def starts(stages: Sequence[Stage], steps: int) -> list[int]:
    """The first step of each stage; one that gets no step begins where the next does.

    >>> starts([(0.5, 64), (0.25, 256), (0.25, 1024)], 100)
    [0, 50, 75]
    """
    whole, done, out = sum(share for share, _ in stages), 0.0, []
    for share, _ in stages:
        out.append(round(steps * done / whole))
        done += share
    return out


def stage_sets(dataset: Dataset, config: RunConfig, objective: Objective) -> list[Dataset]:
    """The training split in rows of each stage's length, and what is left out of the short ones."""
    laid = {name: laying(objective)[name] for name in ("join", "frame")}
    out = []
    for _, length in config.batch.lengths:
        short = dataset if length == dataset.context else shorter(dataset, length, **laid)
        left = dataset.documents - fitting(dataset, length, **laid)
        rest = f"; {left:,} items are longer, and left out of it" if left else ""
        log.say(f"lengths: {short.rows:,} rows of {length} tokens{rest}")
        out.append(short)
    return out


class Curriculum(Fixed):
    """A source of batches (`base.Source`) made of one for each stage.

    Args:
        stages: (share, length) of each.
        steps: of the whole run.
        sets: the data of each stage.
        make: (data set, rows a step, rows a micro-batch) -> its batches.
        tokens: of a step, about.
        micro_rows: of the longest rows; shorter ones are as many tokens.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        steps: int,
        sets: Sequence[Dataset],
        make: Callable[[Dataset, int, int], Batches],
        *,
        tokens: int,
        micro_rows: int,
    ) -> None:
        self._starts, self._lengths = starts(stages, steps), [length for _, length in stages]
        longest = self._lengths[-1]
        self._parts = [
            make(data, max(1, tokens // length), max(1, micro_rows * longest // length))
            for data, length in zip(sets, self._lengths, strict=True)
        ]
        self.rows_per_step = self._parts[-1].rows_per_step
        self._at = len(self._parts) - 1

    @property
    def dataset(self) -> Any:
        """The rows of the stage that a step was last taken from; the last stage's before the first step."""
        return self._parts[self._at].dataset

    @property
    def order(self) -> Curriculum:
        return self

    def epoch(self, step: int, rows_per_step: int) -> float:
        """Passes over each stage's rows so far, added up."""
        del rows_per_step
        done = 0.0
        for part, start, end in zip(self._parts, self._starts, [*self._starts[1:], None], strict=True):
            taken = max(0, (step if end is None else min(step, end)) - start)
            done += part.order.epoch(taken, part.rows_per_step)
        return done

    def stage(self, step: int) -> int:
        """The number of the stage that a step is in."""
        return bisect_right(self._starts, step) - 1

    def get(self, step: int) -> Step:
        """The step's micro-batches."""
        number = self.stage(step)
        part, start = self._parts[number], self._starts[number]
        if number != self._at or step == start:
            length, rows = self._lengths[number], part.rows_per_step
            log.say(f"step {step}: rows of {length} tokens, {rows} a step")
            self._at = number
        found = part.get(step - start)
        found.step, found.tokens = step, part.rows_per_step * self._lengths[number]
        found.begins = step == start
        return found

    def report(self, step: int) -> dict[str, float]:
        """The length of the step's rows."""
        return {"row_length": float(self._lengths[self.stage(step)])}

    def close(self) -> None:
        """End all threads."""
        for part in self._parts:
            part.close()
