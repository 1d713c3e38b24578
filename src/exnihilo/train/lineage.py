"""Where a model comes from, stage by stage: from random weights to what it is now.

::

    lineage = [*read("runs/sft"), entry(config, run, weights_hash(model), steps)]
    [{"stage": "gpt", "objective": "causal_lm", "run": "runs/base", "hash": "9f2c...", "steps": 4000}, ...]

The list is in the run's state, in ``config.json`` of the artifact under ``exnihilo.lineage``, and so goes
from each artifact to those that are trained from it. `hash` is that of the weights under their names in this
project (`weights_hash`), so that it does not depend on files or folders.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from exnihilo.config import RunConfig
from exnihilo.interop.files import read_json

KEY = "lineage"


def weights_hash(model: torch.nn.Module) -> str:
    """Hash (hex, 32 digits) of a model's weights by name: the same wherever they were read from."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()[:32]


def entry(config: RunConfig, run: Path, hash: str, steps: int) -> dict[str, Any]:
    """One stage."""
    made: dict[str, Any] = {
        "stage": config.recipe,
        "objective": config.objective,
        "run": str(run),
        "hash": hash,
    }
    if config.tune.lora is not None:
        made["adapters"] = config.tune.lora.rank
    return {**made, "steps": steps, "seed": config.seed}


def read(folder: str | Path) -> list[dict[str, Any]]:
    """The stages of a run, one of its checkpoints, or an artifact; empty where it does not say.

    A checkpoint (or a run that is not finished) is named with the step it stands at.
    """
    folder = Path(folder)
    if (folder / "config.json").is_file():
        own = (read_json(folder / "config.json").get("exnihilo") or {}).get(KEY)
        return list(own or [])
    state = folder / "state.json"
    if not state.is_file():
        return []
    told = read_json(state)
    config = RunConfig.model_validate(told["config"])
    made = entry(config, folder, "", int(told["step"]))
    return [*told.get(KEY, []), made]


def parents(loaded_from: str | Path, where: str, model: torch.nn.Module) -> list[dict[str, Any]]:
    """The lineage of what a run starts from.

    Args:
        loaded_from: the folder the weights were read from.
        where: as the user named it.
        model: with those weights.
    """
    found, hash = read(loaded_from), weights_hash(model)
    if not found:  # not made here, or before lineages were kept
        return [{"stage": "", "objective": "", "run": where, "hash": hash}]
    return [*found[:-1], {**found[-1], "hash": hash}]


def adapters_merged(loaded_from: str | Path) -> bool:
    """Whether the weights of a folder had low-rank adapters that were merged into them."""
    found = read(loaded_from)
    return bool(found) and "adapters" in found[-1]


def words(lineage: list[dict[str, Any]]) -> str:
    """The stages in one line.

    >>> words([{"stage": "gpt"}, {"stage": "sft", "adapters": 8}])
    'gpt -> sft (adapters)'
    """
    return " -> ".join(
        (e.get("stage") or e.get("run") or "?") + (" (adapters)" if "adapters" in e else "") for e in lineage
    )
