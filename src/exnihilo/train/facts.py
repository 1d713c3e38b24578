"""An objective's facts in a run: learnt from the training split on worker 0, kept in ``RUN/objective.json``.

::

    objective = facts.create(config, length=128)
    facts.survey(objective, config, world)      # label names and counts, before the first step
    facts.write(run, config.objective, objective)

``RUN/objective.json`` holds ``objective``, ``options``, ``length`` and ``facts``: all that `registry.create`
needs to make the objective again for prediction. It is written at the start, and at the end with what was
calibrated.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exnihilo import data as datas
from exnihilo import log
from exnihilo.codec import create as codecs
from exnihilo.config import RunConfig
from exnihilo.objective import registry
from exnihilo.objective.base import Objective
from exnihilo.parallel.mesh import World
from exnihilo.train.runfolder import write_json

FILE = "objective.json"


def reading(objective: Objective | type[Objective]) -> dict[str, Any]:
    """What the data room must know of an objective to read its examples."""
    return {"roles": objective.roles, "extras": objective.extras, "view": objective.view}


def laying(objective: Objective) -> dict[str, Any]:
    """What the data room must know of an objective to lay its items into rows."""
    how = {"lookahead": objective.lookahead, "join": objective.joins, "frame": objective.frame}
    return {**reading(objective), **how}


def texts(config: RunConfig, objective: Objective | type[Objective]) -> Iterator[str]:
    """What a tokenizer is trained on: the inputs of the training split, never labels or answers, but what the
    objective learns to write."""
    limit = int(config.codec.sample_mb * 1e6) if config.codec.kind != "ids" else codecs.EVERYTHING
    how: dict[str, Any] = {**reading(objective), "writes": objective.writes}
    return datas.texts(config.data, limit_bytes=limit, val=config.val, **how)


def surveys(objective: Objective) -> bool:
    """Whether an objective looks at the training split before it encodes."""
    return type(objective).survey is not Objective.survey


def survey(objective: Objective, config: RunConfig, world: World) -> dict[str, Any]:
    """Give an objective its facts; returns them, JSON, the same on every worker."""
    if not surveys(objective):
        return {}

    def look() -> dict[str, Any]:
        began = time.perf_counter()
        found = objective.survey(datas.examples(config.data, config.val, "train", **reading(objective)))
        if (took := time.perf_counter() - began) > 5:
            log.say(f"survey of the training split: {took:.0f} s")
        for note in found.get("notes", ()):  # what it found odd, and what it decided by itself
            log.say(str(note))
        return json.loads(json.dumps(found))  # as the file will give it back

    found: dict[str, Any] = world.first(look)
    objective.facts = dict(found)
    return found


def create(config: RunConfig, *, length: int, facts: dict[str, Any] | None = None) -> Objective:
    """The configuration's objective."""
    return registry.create(config.objective, config.options, length=length, facts=facts)


def to_json(name: str, objective: Objective) -> dict[str, Any]:
    """What ``objective.json`` holds."""
    return {
        "objective": name,
        "options": objective.config.model_dump(mode="json"),
        "length": objective.length,
        "facts": objective.facts,
    }


def write(run: Path, name: str, objective: Objective) -> None:
    """Write ``RUN/objective.json``, whole or not at all."""
    write_json(run / FILE, to_json(name, objective))
