"""The quickstart: stages in order, one function each, on the embedded world or on the user's own files.

::

    figures = start(data=None, minutes=None, run=None, seed=0)

A stage reads and fills a `Chain`; longer chains add a stage to `STAGES`. Without ``minutes=`` the pretraining
stage takes what is left of `TOTAL` seconds after the tokenizer and the data, less what the scores will need.
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

TOTAL = 205.0  # seconds for all stages; promised are 240 on two cores
RESERVE = {"world": 32.0, "own": 16.0}  # of them for the scores, the pictures and the report
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
    tables: list[dict[str, Any]] = field(default_factory=list)

    @property
    def world(self) -> bool:
        """Whether it runs on the embedded world."""
        return self.data is None

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


def stages() -> tuple[Stage, ...]:
    """The chain, in order."""
    from exnihilo.quickstart import closing, pretraining, tokens

    return (
        tokens.tokenizer,
        pretraining.data,
        pretraining.pretrain,
        closing.texts,
        closing.scores,
        closing.report,
    )


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
        minutes: of pretraining; None: what fits into four minutes in all.
        run: the folder; default ``runs/quickstart``, or the next free ``runs/quickstart-N``.
        stream: where the story of the run is told; default standard output.
    """
    if minutes is not None and minutes <= 0:
        raise UsageError(f"minutes={minutes}", expected="a number above 0", next="minutes=2.3")
    out = Console(file=stream or sys.stdout, highlight=False)
    return walk(Chain(data, minutes, run or free(), seed, device, force, out), stages())


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
            chain.say(f"interrupted; go on with: exnihilo train --resume run={chain.run}")
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
