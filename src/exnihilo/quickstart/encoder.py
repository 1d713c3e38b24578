"""The quickstart of encoders: BERT's whole training on the embedded world, from raw text to four kinds of
predictions, each compared with the same network without pretraining.

::

    figures = start(minutes=None, run=None, seed=0)

Stages in order: a WordPiece tokenizer; masked-token and next-sentence pretraining from random weights; the
gaps it fills, as it learned; fine-tuning on four types; the comparison; an example of each; the report.
Without ``minutes=`` all of it takes `TOTAL` seconds: pretraining what the fine-tunings (`TASKS_SECONDS`) and
the report leave, and the fine-tunings fewer steps where the machine is slower.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from exnihilo.errors import UsageError
from exnihilo.quickstart.chain import Chain, Stage, free, walk

TOTAL = 270.0  # seconds for all stages; promised are 300 on two cores
TASKS_SECONDS = 150.0  # of them for the fine-tunings
CLOSING = 12.0  # and for pictures and report
NAME = "quickstart-encoder"


def stages() -> tuple[Stage, ...]:
    """The chain, in order."""
    from exnihilo.quickstart import encoder_closing, encoder_pretraining, encoder_tasks

    return (
        encoder_pretraining.tokenizer,
        encoder_pretraining.pretrain,
        encoder_pretraining.gaps,
        encoder_tasks.tune,
        encoder_closing.comparison,
        encoder_closing.examples,
        encoder_closing.report,
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
        data: refused: the four types need labelled examples, which only the world has.
        minutes: of pretraining; None: what fits into five minutes in all.
        run: the folder; default ``runs/quickstart-encoder``, or the next free number.
        stream: where the story of the run is told; default standard output.

    Raises:
        UsageError: with `data`, or `minutes` that is no positive number.
    """
    if data is not None:
        raise UsageError(
            f"quickstart --encoder with data={data}",
            expected="the embedded world: it has labelled examples of all four types",
            next=f"exnihilo train bert data={data} minutes=15 run=runs/bert",
        )
    if minutes is not None and minutes <= 0:
        raise UsageError(f"minutes={minutes}", expected="a number above 0", next="minutes=1.5")
    out = Console(file=stream or sys.stdout, highlight=False)
    chain = Chain(None, minutes, run or free(NAME), seed, device, force, out)
    return walk(chain, stages())
