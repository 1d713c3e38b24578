"""What feeds a run, by what its objective needs: its data, and the source of its batches.

::

    check(config, objective)                               # options that nothing would read are refused
    splits = splits(config, objective, codec, ...)         # rows, or prompts; the validation split
    source = create(splits, parts, micro_rows=8)

`needs` is ``dataset`` (rows of items), ``reference`` (the same, with the log-probabilities of a frozen
reference) or ``rollout`` (prompts, whose completions the model draws itself).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from exnihilo import data as datas
from exnihilo import log
from exnihilo.config import AlarmsConfig, RolloutConfig, RunConfig
from exnihilo.errors import ConfigError
from exnihilo.objective.base import Objective
from exnihilo.train import facts
from exnihilo.train.batches import Batches
from exnihilo.train.setup import digest
from exnihilo.train.source import curriculum
from exnihilo.train.source.base import Parts, Source
from exnihilo.train.source.reference import Reference
from exnihilo.train.source.tasks import Tasks

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.data.dataset import Dataset
    from exnihilo.log import Progress
    from exnihilo.parallel.mesh import World

NEEDS = ("dataset", "reference", "rollout")


@dataclass
class Splits:
    """A run's data.

    Attributes:
        train: rows, or prompts. val: rows for the validation loss; None without them, or without a loss.
        tasks: validation prompts that are answered; None where the objective does not reply.
        report: what preparation found, JSON.
    """

    train: Dataset | Tasks
    val: Dataset | None
    tasks: Tasks | None
    report: dict[str, Any]


def reads_reference(objective: Objective) -> bool:
    """Whether a frozen reference is used."""
    return objective.needs == "reference" or objective.referenced


def check(config: RunConfig, objective: Objective) -> None:
    """Refuse options that this objective does not read.

    Raises:
        ConfigError: names the option and what would read it.
    """
    needs = objective.needs
    if needs not in NEEDS:
        raise ConfigError(
            f"objective {config.objective} needs {needs!r}", expected=f"one of {', '.join(NEEDS)}"
        )
    rolls, graded = needs == "rollout", needs == "rollout" or objective.replies
    if config.eval.tries > 1 and config.eval.temperature == 0:
        raise ConfigError(
            f"eval.tries={config.eval.tries} with eval.temperature=0: all replies would be the same",
            expected="a temperature above 0",
            next="leave eval.temperature out, or eval.tries=1",
        )
    if rolls and not config.grader:
        raise ConfigError(
            f"objective {config.objective} without a grader: nothing is rewarded",
            expected="grader=exact, number, math, ... or my.py:grade",
            next="see docs/graders.md",
        )
    rollout = config.rollout
    if rollout.engine == "vllm" and rollout.url is None:
        raise ConfigError(
            "rollout.engine=vllm without rollout.url",
            expected="where its server is",
            next="rollout.url=http://127.0.0.1:8000",
        )
    own = {"url", "folder"} & rollout.model_fields_set
    changed = {name for name in own if getattr(rollout, name) != RolloutConfig.model_fields[name].default}
    if rollout.engine == "own" and changed:
        raise ConfigError(
            f"rollout.{sorted(changed)[0]} with rollout.engine=own",
            expected="an engine that has a server",
            next="rollout.engine=vllm, or leave it out",
        )
    curriculum.check(config, objective)
    unread = {
        "rollout": (config.rollout != RolloutConfig(), rolls),
        **_alarms(config.alarms, objective, rolls),
        "environment": (bool(config.environment), rolls),
        "grader": (bool(config.grader), graded),
        "reference": (config.reference != "init", reads_reference(objective)),
    }
    for name, (given, read) in unread.items():
        if given and not read:
            raise ConfigError(
                f"{name} is given, but objective {config.objective} does not read it",
                expected="options that the objective reads",
                next=f"leave {name} out",
            )


def _alarms(config: AlarmsConfig, objective: Objective, rolls: bool) -> dict[str, tuple[bool, bool]]:
    """Options of alarms: whether each is given, and whether it is read."""
    fields, read = AlarmsConfig.model_fields, set[str]()
    if rolls:
        read = set(fields)
    elif "chosen_logp" in objective.watched:
        read = {"enabled", "stop", "patience", "likelihood"}
    return {
        f"alarms.{name}": (getattr(config, name) != field.default, name in read)
        for name, field in fields.items()
    }


def splits(
    config: RunConfig,
    objective: Objective,
    codec: Codec,
    world: World,
    *,
    learnt: dict[str, Any],
    progress: Progress | None = None,
) -> Splits:
    """Read and prepare the data: worker 0 first, the others from its cache.

    Args:
        learnt: the objective's facts, on which its encoding may depend.
    """
    tasks = None
    if objective.replies or objective.needs == "rollout":
        tasks = Tasks.read(config, objective, "val") if config.eval.replies else None
        tasks = tasks if tasks is not None and len(tasks) else None
    if objective.needs == "rollout":
        train = Tasks.read(config, objective, "train")
        report = {"tasks": len(train), "val_tasks": len(tasks) if tasks else 0, "hash": train.hash}
        report["dropped"] = train.drops.to_json()
        held = f"{len(tasks):,} for validation" if tasks else "none for validation"
        log.say(f"train: {len(train):,} prompts, {held}; grader {config.grader}{train.drops.summary('; ')}")
        if tasks is not None and config.val is not None and tasks.drops.counts:
            log.say(f"val: {tasks.drops.summary()}")
        return Splits(train, None, tasks, report)
    found = _prepared(config, objective, codec, world, learnt, progress)
    return Splits(found.train, found.val, tasks, found.report.to_json())


def _prepared(
    config: RunConfig,
    objective: Objective,
    codec: Codec,
    world: World,
    learnt: dict[str, Any],
    progress: Progress | None,
) -> datas.Splits:
    identity: dict[str, Any] = {"objective": config.objective, "options": config.options}
    if objective.supervised or learnt:  # what else the encoding may depend on
        identity.update(facts=learnt)
    if not objective.joins:
        identity.update(length=objective.length)
    key = digest({**identity, "codec": codec.hash})

    def prepare(display: Any = None) -> datas.Splits:
        return datas.prepare(
            config.data,
            config.val,
            encode=partial(objective.encode_many, codec=codec),
            key=key,
            context=objective.row or config.model.context,
            seed=config.seed,
            progress=display,
            pad_id=codec.pad_id,
            **facts.laying(objective),
        )

    made: list[datas.Splits] = []
    world.first(lambda: made.append(prepare(progress)))
    return made[0] if made else prepare()  # the others read worker 0's cache


def referenced(
    splits: Splits, reference: Reference, parts: Parts, progress: Progress | None = None
) -> Splits:
    """The splits with the reference's log-probabilities, where they are rows."""
    if isinstance(splits.train, Tasks):
        return splits
    found: dict[str, Any] = {"world": parts.world, "dtype": parts.dtype, "progress": progress}
    train = reference.column(splits.train, what="training ", **found)
    val = reference.column(splits.val, what="validation ", **found) if splits.val is not None else None
    return Splits(train, val, splits.tasks, splits.report)


def create(
    splits: Splits,
    parts: Parts,
    *,
    rows_per_step: int,
    micro_rows: int,
    order: Any,
    steps: int | None = None,
) -> Source:
    """The source of a run's batches.

    Args:
        rows_per_step: of all workers; for rollouts the prompts of a batch.
        micro_rows: rows of one forward.
        order: of the rows.
        steps: of the run, where its rows are to grow (``batch.lengths``); None: rows of the full length.
    """
    if isinstance(splits.train, Tasks):
        return _rollouts()(parts, micro_rows=micro_rows)

    def make(dataset: Dataset, rows: int, micro: int, order: Any = None) -> Batches:
        return Batches(
            dataset,
            order or dataset.order(parts.config.seed),
            parts.objective,
            rows_per_step=rows,
            micro_rows=micro,
            rank=parts.world.rank,
            world=parts.world.size,
            pin=parts.world.device.type == "cuda",
            codec=parts.codec,
            seed=parts.config.seed,
        )

    batch = parts.config.batch
    if not batch.lengths or steps is None:
        return make(splits.train, rows_per_step, micro_rows, order)
    sets: list[list[Dataset]] = []
    parts.world.first(
        lambda: sets.append(curriculum.stage_sets(splits.train, parts.config, parts.objective))  # type: ignore
    )
    found = sets[0] if sets else curriculum.stage_sets(splits.train, parts.config, parts.objective)
    return curriculum.Curriculum(
        batch.lengths, steps, found, make, tokens=batch.tokens, micro_rows=micro_rows
    )


def _rollouts() -> Callable[..., Source]:
    from exnihilo.train.source.rollout import Rollouts

    return Rollouts
