"""The quickstart: stages in order, one function each, on the embedded world or on the user's own files.

::

    figures = start(data=None, minutes=None, run=None, seed=0)

On the world: random weights, base, instructions, preferences, rewards. On files: random weights to base. A
stage reads and fills a `Chain`. Without ``minutes=`` pretraining takes what is left of the total after the
tokenizer and the data, less what the later stages and the scores will need.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from exnihilo.config import RunConfig
from exnihilo.errors import ExNihiloError, UsageError

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.data import Splits
    from exnihilo.model.model import Model
    from exnihilo.train import Result

TOTAL = 450.0  # seconds for all stages on the world; promised are 480 on two cores
TOTAL_OWN = 205.0  # on files; promised are 240
SCORES = {"world": 26.0, "own": 10.0}  # of them for what the base model is measured by
CLOSING = 8.0  # and for the pictures and the report
LOCK = ".lock"
LEAST = 30.0  # of pretraining, on however slow a machine


@dataclass
class Chain:
    """What the stages hand on."""

    data: Any
    minutes: float | None
    run: Path
    seed: int
    device: str
    force: bool
    out: Console
    began: float = field(default_factory=time.perf_counter)
    config: RunConfig = field(default_factory=RunConfig)
    codec: Codec | None = None
    splits: Splits | None = None
    random: Model | None = None
    base: Model | None = None
    result: Result | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    found: dict[str, dict[str, Any]] = field(default_factory=dict)  # stage -> what its model answers
    tables: list[dict[str, Any]] = field(default_factory=list)

    @property
    def world(self) -> bool:
        """Whether it runs on the embedded world."""
        return self.data is None

    @property
    def base_run(self) -> Path:
        """The folder of the pretraining run: on files it is the run's own."""
        return self.run / "base" if self.world else self.run

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self.began

    def head(self, text: str) -> None:
        """A stage's heading."""
        self.out.print()
        self.out.rule(f"[bold]{text}[/bold]", align="left", style="dim")

    def say(self, text: str) -> None:
        """A line, as it is: texts of a model are not markup, and steer no terminal."""
        from exnihilo.log import safe

        self.out.print(safe(text), markup=False, highlight=False, soft_wrap=True)


Stage = Callable[[Chain], None]


def stages(world: bool = True) -> tuple[Stage, ...]:
    """The chain, in order."""
    from exnihilo.quickstart import closing, gains, post, pretraining, tokens

    base = (
        tokens.tokenizer,
        pretraining.data,
        pretraining.pretrain,
        closing.texts,
        closing.scores,
    )
    if not world:
        return (*base, closing.report)
    return (*base, post.untaught, post.sft, post.preference, post.rlvr, gains.gains, closing.report)


def start(
    *,
    data: Any = None,
    minutes: float | None = None,
    run: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    force: bool = False,
    stream: Any = None,
) -> dict[str, Any]:
    """Run the chain; returns the figures, which are also in ``RUN/quickstart.json``.

    Args:
        data: as ``data=`` of `train`; None: the embedded world.
        minutes: of pretraining; None: what fits into eight minutes in all, on files into four.
        run: the folder; default ``runs/quickstart``, or the next free ``runs/quickstart-N``.
        stream: where the story of the run is told; default standard output.
    """
    if minutes is not None and minutes <= 0:
        raise UsageError(f"minutes={minutes}", expected="a number above 0", next="minutes=2.3")
    out = Console(file=stream or sys.stdout, highlight=False)
    chain = Chain(data, minutes, run or free(), seed, device, force, out)
    return walk(chain, stages(chain.world))


def walk(chain: Chain, stages: Sequence[Stage]) -> dict[str, Any]:
    """Each stage in order, until one was interrupted; returns the figures."""
    for stage in stages:
        try:
            stage(chain)
        except ExNihiloError:
            _clear(chain.run)
            raise
        if chain.result is not None and chain.result.interrupted:
            chain.figures["interrupted"] = True
            chain.say(f"interrupted; go on with: exnihilo train --resume run={chain.result.run}")
            break
    return chain.figures


def _clear(run: Path) -> None:
    """Remove a run folder that nothing came of: empty but for its lock."""
    if run.is_dir() and all(path.name == LOCK for path in run.iterdir()):
        (run / LOCK).unlink(missing_ok=True)
        run.rmdir()


def free(name: str = "quickstart") -> Path:
    """``runs/NAME``, or the next number that is free."""
    for number in range(1, 10_000):
        path = Path("runs") / (name if number == 1 else f"{name}-{number}")
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return path
    raise UsageError(f"runs/{name}-9999 exists too", expected="a free folder", next="run=DIR")
