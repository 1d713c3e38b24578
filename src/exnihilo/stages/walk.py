"""The chain `train chat`: its stages in order, each a run in ``RUN/STAGE`` that starts from the one before.

::

    result = train(read(given(["data=books/", "sft=chats.jsonl", "run=runs/mine"])))
    result = resume(Path("runs/mine"))       # goes on in the stage that was cut, bit for bit

``RUN/chain.json`` says which stages there are, what they were told and how far the chain is. When a stage is
done its model is put at the root of RUN, so that RUN is always the best model so far: `exnihilo chat RUN`,
and a Hugging Face folder. At the end a table says what each stage gained on its held-out split (`gains`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exnihilo import log
from exnihilo.errors import TrainError, UsageError
from exnihilo.interop.files import read_json
from exnihilo.stages import gains
from exnihilo.stages.settings import Plan, Stage, given, read

if TYPE_CHECKING:
    from exnihilo.config import RunConfig
    from exnihilo.train.loop import Result

FILE = "chain.json"
# what a stage's folder has beside its model
LEFT = (
    "config.toml",
    "env.json",
    "data.json",
    "metrics.jsonl",
    "guard.json",
    "alarms.json",
    "control.json",
    ".lock",
)
MODEL = (".safetensors", ".json", ".jinja", ".model", ".txt", ".md")


def wanted(recipe: str | None, resume: bool, overrides: Sequence[str], settings: Mapping[str, Any]) -> bool:
    """Whether a call of `train` is one of a chain: its recipe is, or the run that it goes on with."""
    if recipe is not None or not resume:
        return recipe == "chat"
    return is_chain(given(overrides, settings).get("run"))


def call(
    overrides: Sequence[str],
    settings: Mapping[str, Any],
    *,
    overlay: Path | None = None,
    again: bool = False,
    force: bool = False,
    progress: bool = True,
) -> Result:
    """What `train` does for a chain; arguments as there.

    Args:
        again: go on with the run of ``run=``.
    """
    told = given(overrides, settings, overlay)
    if not again:
        return train(read(told), force=force, progress=progress)
    if told.get("run") is None:
        raise UsageError("resume without a run folder", expected="run=DIR", next="--resume run=DIR")
    return resume(Path(told["run"]), more=told, force=force, progress=progress)


def configurations(
    overrides: Sequence[str], settings: Mapping[str, Any], overlay: Path | None = None
) -> dict[str, tuple[RunConfig, dict[str, str]]]:
    """Each stage's configuration with the origin of each value: what ``--dry-run`` shows."""
    plan = read(given(overrides, settings, overlay))
    run, init, out = Path(plan.run or "runs/chat-TIME"), plan.init, {}
    for stage in plan.stages:
        out[stage.name] = stage.config(run, init)
        init = str(run / stage.name)
    return out


def is_chain(run: str | Path | None) -> bool:
    """Whether a folder holds a chain that `resume` can go on with."""
    return run is not None and (Path(run) / FILE).is_file() and "given" in read_json(Path(run) / FILE)


def train(plan: Plan, *, force: bool = False, progress: bool = True) -> Result:
    """Run a chain from its beginning.

    Args:
        plan: `settings.read`.
        force: move a run that is in the folder aside.

    Returns:
        The last stage's `Result` with the chain's folder; interrupted where a stage was.
    """
    from exnihilo.train import runfolder

    run = Path(plan.run or runfolder.default_name("chat"))
    if log.rank() == 0:
        runfolder.open_folder(run, resume=False, force=force).release()
        write(run, {"given": plan.given, "stages": [], "skipped": dict(plan.skipped)})
    return _go(plan, run, [], progress)


def resume(
    run: Path, *, more: Mapping[str, Any] | None = None, force: bool = False, progress: bool = True
) -> Result:
    """Go on with a chain that was cut.

    Args:
        run: its folder.
        more: settings that are added or changed. A stage that is done stays as it is.
        force: although the configuration of the stage that was cut has changed.
    """
    if not is_chain(run):
        raise UsageError(f"{run} holds no chain", expected=f"a folder with {FILE}", next="check run=DIR")
    known = read_json(run / FILE)
    plan = read({**known["given"], **(more or {}), "run": str(run)})
    return _go(plan, run, list(known["stages"]), progress, force)


def _go(plan: Plan, run: Path, done: list[dict[str, Any]], progress: bool, force: bool = False) -> Result:
    from exnihilo.report import page
    from exnihilo.train import run as start

    names = [each["name"] for each in done if each.get("done")]
    _say(plan, run, names)
    init, result = plan.init, None
    for number, stage in enumerate(plan.stages, 1):
        folder = run / stage.name
        if stage.name in names:
            init = str(folder)
            continue
        config, origins = stage.config(run, init)
        log.say(f"stage {number} of {len(plan.stages)}: {stage.name}" + (f", from {init}" if init else ""))
        begun = (folder / "config.toml").is_file()
        result = start(config, resume=begun, force=force, origins=origins, progress=progress)
        if result.interrupted:
            log.say(f"the chain goes on with: exnihilo train --resume run={run}")
            return replace(result, run=run)
        entry = {
            "name": stage.name,
            "folder": stage.name,
            "objective": config.objective,
            "init": init,
            "done": True,
            "steps": result.step,
            "tokens": result.tokens,
            "seconds": round(result.seconds, 1),
            "gains": gains.of(folder, config.objective),
        }
        done = [*[each for each in done if each["name"] != stage.name], entry]
        if log.rank() == 0:
            publish(folder, run)
            write(run, {"given": plan.given, "stages": done, "skipped": dict(plan.skipped)})
        init = str(folder)
    if log.rank() == 0:
        log.say(gains.text(done))
        page.write(run)
    if result is None:
        log.say(f"all stages of {run} are done")
        result = _known(run, plan.stages[-1], done[-1])
    return replace(result, run=run)


def _say(plan: Plan, run: Path, done: list[str]) -> None:
    """What will happen, and what not."""
    words = [f"{stage.name}{' (done)' if stage.name in done else ''}" for stage in plan.stages]
    log.say(f"{run}: " + " -> ".join(["random weights" if plan.init is None else plan.init, *words]))
    for name, why in plan.skipped.items():
        log.say(f"{name} is skipped: {why}")


def _known(run: Path, stage: Stage, entry: Mapping[str, Any]) -> Result:
    """The result of a chain that was done already."""
    from exnihilo.train.loop import Result

    return Result(
        run / stage.name,
        int(entry["steps"]),
        int(entry["tokens"]),
        float(entry["seconds"]),
        None,
        None,
        None,
        False,
    )


def write(run: Path, value: Mapping[str, Any]) -> None:
    """``RUN/chain.json``, whole or not at all."""
    from exnihilo.train.runfolder import write_json

    write_json(run / FILE, dict(value))


def publish(stage: Path, run: Path) -> None:
    """Put a finished stage's model at the root of the run: linked where the disk can, else copied.

    Raises:
        TrainError: the stage holds no model, or the disk is full.
    """
    if not (stage / "model.safetensors").is_file() or not (stage / "config.json").is_file():
        raise TrainError(f"{stage} holds no finished model", expected="model.safetensors and config.json")
    names = [path.name for path in sorted(stage.iterdir()) if _is_model(path)]
    names.sort(key=lambda name: name == "config.json")  # last: a folder with a config.json is complete
    try:
        for old in run.iterdir():  # the model of the stage before may have had more files
            if _is_model(old) and old.name not in names and old.name not in (FILE, "quickstart.json"):
                old.unlink()
        for name in names:
            aside = run / f".{name}.new"
            aside.unlink(missing_ok=True)
            try:
                os.link(stage / name, aside)
            except OSError:
                shutil.copyfile(stage / name, aside)
            os.replace(aside, run / name)
    except OSError as error:
        raise TrainError(
            f"the model cannot be put into {run}: {error.strerror or error}", expected="a folder with room"
        ) from error


def _is_model(path: Path) -> bool:
    return path.is_file() and path.suffix in MODEL and path.name not in LEFT
