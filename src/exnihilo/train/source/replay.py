"""Any step of a run again, from its files: what was drawn, what it scored, and the very tensors it was
trained on.

::

    found = replay("runs/rl", step=17)
    found.records[0].text, found.records[0].reward
    found.step.micros[0].batch["advantage"]

Nothing is drawn or computed by a model: ``RUN/rollouts`` holds all that the step read. The run's folder
says how rows were laid out. Of a run on several workers each has files of its own: ``rank=`` chooses.

Key: no tensors
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exnihilo.config_layers import load_toml
from exnihilo.errors import ConfigError, DataError
from exnihilo.objective import registry
from exnihilo.objective.rlvr import RLVR
from exnihilo.train.batches import Step
from exnihilo.train.source import records, rows, steps
from exnihilo.train.source.records import Record


@dataclass(frozen=True)
class Replay:
    """A step as it was.

    Attributes:
        records: the whole batch of rollouts that the step is a part of, this worker's.
        step: the micro-batches.
    """

    records: tuple[Record, ...]
    step: Step


def replay(run: str | Path, step: int, *, rank: int = 0) -> Replay:
    """Rebuild a step.

    Args:
        run: its folder.
        step: from 0.
        rank: which worker's part.

    Raises:
        DataError: the folder has no such rollouts: not of this kind of run, not kept, or not that far.
    """
    folder = Path(run)
    try:
        config = load_toml(folder / "config.toml")
        about: dict[str, Any] = json.loads((folder / "objective.json").read_text(encoding="utf-8"))
    except (ConfigError, OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{folder} is no run folder: {error}", expected="config.toml and objective.json"
        ) from error
    objective = registry.create(
        config.objective, about["options"], length=about["length"], facts=about["facts"]
    )
    number = step // config.rollout.updates
    batch = records.read(folder / records.FOLDER, number, rank=rank)
    if batch is None or not isinstance(objective, RLVR):
        raise DataError(
            f"{folder} has no rollouts of step {step}",
            expected=f"the file {records.path_of(folder / records.FOLDER, number, rank=rank).name}",
            next="an earlier step, or a run with rollout.keep=true",
        )
    layout = rows.Layout.read(folder / records.FOLDER)
    return Replay(batch.records, steps.step_of(batch, step, config.rollout, objective, layout))
