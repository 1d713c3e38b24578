"""Going on with a run that was cut: its newest checkpoint, what has changed since, and what that means.

::

    found = look_back(run, config, origins, world, force=False)     # (checkpoint, state, changes, config)
    extend(state, budget, changes, step_seconds)                    # another budget: another horizon
    trim_events(run, state.step)                                    # what comes after will happen again
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from exnihilo import log
from exnihilo.config import RunConfig
from exnihilo.errors import ConfigError, UsageError
from exnihilo.train import changes, checkpoint, runfolder
from exnihilo.train.budget import Budget
from exnihilo.train.state import State

if TYPE_CHECKING:
    from exnihilo.parallel.mesh import World

EVENTS = ("guard.json", "alarms.json")


def look_back(
    run: Path, config: RunConfig, origins: Mapping[str, str] | None, world: World, *, force: bool
) -> tuple[Path, State, list[changes.Change], RunConfig] | None:
    """The checkpoint to go on from, its state, what has changed, and the configuration to go on with; None
    where the run was cut before its first checkpoint.

    Raises:
        UsageError: the folder holds no run.
        ConfigError: a change that would make it another run.
    """
    folder = run / "checkpoints"

    def find() -> str | None:
        checkpoint.sweep(folder)
        found = checkpoint.newest(folder)
        return str(found) if found else None

    found = world.first(find)
    if found is None:
        if not (run / "config.toml").exists():
            raise UsageError(
                f"{run} holds no run: neither config.toml nor checkpoints",
                expected="the folder of a run that was cut",
                next="check run=DIR, or start it without --resume",
            )
        log.say(f"{run} was cut before its first checkpoint: starting over")
        return None
    state = State.from_json(checkpoint.read_state(Path(found)))
    made = changes.compare(state.config, config, origins)
    changes.check(made, force=force)
    settled = changes.apply(state.config, made).model_copy(update={"run": config.run})
    log.say(f"resuming {run} at step {state.step}")
    if state.stopped is not None:
        if settled.alarms.enabled and settled.alarms.stop:
            log.warn(f"an alarm has ended this run ({state.stopped}); alarms.stop=false goes on")
        else:
            state.stopped = None
    return Path(found), state, made, settled


def extend(state: State, budget: Budget, made: list[changes.Change], step_seconds: float) -> None:
    """With another budget: set the schedule's horizon anew, and say what that does.

    Raises:
        ConfigError: it ends before the step that the run is at.
    """
    if not any(c.key in changes.BUDGET or c.key.startswith("optim.schedule") for c in made):
        return
    before, old = state.horizon, budget.scale(state, max(0, state.step - 1))
    if budget.steps is not None and budget.steps < state.step:
        raise ConfigError(
            f"the new budget ends at step {budget.steps}, the run is at step {state.step}",
            expected=f"more than {state.step} steps",
            next="a larger steps=, tokens= or epochs=",
        )
    state.horizon = budget.steps if budget.seconds is None else None
    state.mark = state.bend = None
    budget.begin(state, step_seconds)
    ends = state.horizon if state.horizon is not None else "to be measured"
    log.say(
        f"resume: the schedule's last step is {ends} (was {before}); at step {state.step} the learning "
        f"rate is {budget.scale(state, state.step):.0%} of its peak (it was {old:.0%})"
    )


def trim_events(run: Path, step: int) -> None:
    """Drop the events after the checkpoint: they will happen again."""
    for name in EVENTS:
        path = run / name
        if path.exists():
            events = [e for e in json.loads(path.read_text(encoding="utf-8")) if e["step"] < step]
            runfolder.write_json(path, events)
