"""A training run from end to end: configuration -> tokenizer -> data -> model -> loop -> Hugging Face folder,
and after fine-tuning the control runs.

::

    from exnihilo.train import run
    result = run(RunConfig(data="books/", minutes=10, run="runs/books"))
    result = run(config, resume=True)           # goes on bit for bit where the newest checkpoint stands

Under torchrun every worker calls it; worker 0 alone writes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from exnihilo import data as datas
from exnihilo import log
from exnihilo.config import RunConfig
from exnihilo.environment import keep_memory
from exnihilo.errors import UsageError
from exnihilo.interop.adapters import scale_of
from exnihilo.model import flops_per_token, parameters, resolve
from exnihilo.optim import create as create_optimizer
from exnihilo.parallel import checkpoint_blocks, fsdp, matmul_flops
from exnihilo.parallel import compile as compiling
from exnihilo.parallel.mesh import World
from exnihilo.train import (
    changes,
    control,
    facts,
    finish,
    fitting,
    lineage,
    metrics,
    resuming,
    runfolder,
    saving,
    setup,
    start,
)
from exnihilo.train.adapt import adapt
from exnihilo.train.budget import Budget
from exnihilo.train.ema import Ema
from exnihilo.train.evaluation import Evaluator, default_tokens
from exnihilo.train.loop import Loop, Result
from exnihilo.train.precision import DTYPES
from exnihilo.train.progress import Display, shown
from exnihilo.train.signals import Stop
from exnihilo.train.source import create as sources
from exnihilo.train.source.base import Parts, Source
from exnihilo.train.source.reference import Reference
from exnihilo.train.source.tasks import Tasks
from exnihilo.train.source.weights import Weights
from exnihilo.train.state import State


def run(
    config: RunConfig,
    resume: bool = False,
    force: bool = False,
    origins: Mapping[str, str] | None = None,
    progress: bool = True,
) -> Result:
    """Train a model, or go on with a run that was cut.

    Args:
        config: what to do. Open values are derived or measured; ``RUN/config.toml`` holds what they became.
        resume: go on in ``config.run`` from its newest whole checkpoint.
        force: with `resume`, go on although the configuration changed; without, move what is in the folder
        aside.
        origins: where each value comes from, for ``config.toml``, and to tell the user's values from
        defaults.
        progress: show a bar, or plain lines without a terminal; False is silent.

    Returns:
        A `Result`; ``interrupted`` where SIGTERM or Ctrl-C ended it early (it has saved and can be resumed).

    Raises:
        ExNihiloError: with what was given, what was expected, and the next action.
    """
    threads = torch.get_num_threads()
    keep_memory()
    world = World.start(config.device)
    try:
        with shown(progress and world.main) as display:
            return _Run(config, world, resume, force, origins, display).go()
    finally:
        torch.set_num_threads(threads)


class _Run:
    """The stages of one call, in order."""

    def __init__(
        self,
        config: RunConfig,
        world: World,
        resume: bool,
        force: bool,
        origins: Mapping[str, str] | None,
        display: Display,
    ) -> None:
        self.config, self.world, self.force, self.display = config, world, force, display
        self.origins = origins
        self.resume = resume
        self.state = State()
        self.found: Path | None = None  # the checkpoint to go on from
        self.changes: list[changes.Change] = []

    @property
    def context(self) -> int:
        """Positions of a training row."""
        train = self.splits.train
        return self.config.model.context if isinstance(train, Tasks) else train.context

    def go(self) -> Result:
        config = self.config
        if self.resume and config.run is None:
            raise UsageError(
                "resume without a run folder", expected="run=DIR", next="give the folder of the run"
            )
        name = self.world.first(lambda: config.run or runfolder.default_name(config.recipe))
        self.path = Path(name)
        locks: list[runfolder.Lock] = []
        open_it = partial(runfolder.open_folder, self.path, resume=self.resume, force=self.force)
        self.world.first(lambda: locks.append(open_it()))
        before = self.world.first(lambda: runfolder.names(self.path))
        try:
            result = self._train()
            if result.interrupted or not control.wanted(self.config, self.objective):
                return result
            settled = RunConfig.model_validate(self.state.config)
            self._forget()
            return control.compare(settled, result, self.objective, self.world, self.display, run)
        except BaseException:
            if self.world.main:
                runfolder.abandon(self.path, before)
            raise
        finally:
            for lock in locks:
                lock.release()

    def _forget(self) -> None:
        """Free what a finished run holds: the control runs have models of their own."""
        del self.model, self.optimizer, self.ema, self.batches, self.splits, self.metrics, self.parts

    def _train(self) -> Result:
        if self.resume:
            self._look_back()
        self._check()
        init, parent = start.read_init(self.config) if self.config.init and not self.found else (None, None)
        self.state.parent = self.state.parent or parent
        if init is not None:
            self.state.lineage = lineage.parents(init.path, str(self.config.init), init.model)
            log.say(f"lineage: {lineage.words(self.state.lineage)} -> {self.config.recipe}")
        self._parts(init)
        del init
        self._tune()
        loop = self._loop()
        with Stop() as stop:
            try:
                interrupted = loop.run(stop)
            finally:
                self.batches.close()
                self.metrics.close()
        self.display.stop()
        if interrupted:
            log.say(f"saved at step {self.state.step}; go on with: exnihilo train --resume run={self.path}")
        else:
            with loop.keeper.at_best():
                finish.write(
                    self.path, self.config, self.model, self.objective, self.codec, state=self.state,
                    world=self.world, ema=self.ema, adapters=self.adapters,
                )  # fmt: skip
        return loop.result(self.path, interrupted)

    # before --------------------------------------------------------------------------------

    def _look_back(self) -> None:
        """Find the checkpoint to go on from, and what has changed since."""
        found = resuming.look_back(self.path, self.config, self.origins, self.world, force=self.force)
        if found is None:
            return
        self.found, self.state, self.changes, self.config = found
        self.origins = dict(self.origins or {})

    def _check(self) -> None:
        if not self.config.data.sources:
            raise UsageError("no data was given", expected="data=PATH", next="e.g. data=books/ or data=world")
        if self.config.init is None:
            shape = resolve(self.config.model, self.config.model.vocab_size or 1)  # a preset names its family
            start.check_family(shape.family, self.config)
        if any(source.path == "-" for source in self.config.data.sources):
            data = self.config.data  # standard input is read once and kept, so that the run can be resumed
            kept = self.world.first(lambda: datas.settle(data).model_dump(mode="json"))
            self.config = self.config.model_copy(update={"data": type(data).model_validate(kept)})
        if (
            self.config.device != "auto"
            and self.found
            and self.state.choices.device != self.world.device.type
        ):
            log.warn(f"the run was on {self.state.choices.device}: from here on the same up to rounding")

    # parts --------------------------------------------------------------------------------

    def _parts(self, init: Any) -> None:
        """Tokenizer, objective, data, shapes; the model on its device with its optimiser."""
        config, world, state = self.config, self.world, self.state
        said = changes.given(config, self.origins)
        if self.found:
            self.choices = state.choices
            if self.choices.world == world.size and self.choices.device == world.device.type:
                torch.set_num_threads(config.threads or self.choices.threads)
        self.codec = setup.make_codec(
            config,
            self.path,
            world,
            init.codec if init else None,
            self.display,
            resumed=self.found is not None,
        )
        if self.found:
            setup.check_codec(self.codec, state, self.path)
        shape = start.model_config(config, self.codec, init.model.config if init else None, self.origins)
        self._objective(shape.context)
        sources.check(config, self.objective)
        shape = resolve(shape.model_copy(update=self.objective.model_settings), self.codec.vocab_size)
        self.config = config = config.model_copy(update={"model": shape})
        control.check(config, self.objective)
        self.splits = sources.splits(
            config, self.objective, self.codec, world, learnt=state.facts, progress=self.display
        )
        train = self.splits.train
        setup.check_data(train.hash, state, force=self.force)
        state.hashes.update(data=train.hash, codec=self.codec.hash)
        if self.found is None:
            self.choices = setup.choose_format(config, world)
        rolls = isinstance(train, Tasks)
        if self.found is None and not rolls:
            self._fit(said, train.context, train.rows)
            config, shape = self.config, self.config.model
        a_step = config.rollout.prompts // config.rollout.updates
        self.rows_per_step = max(1, a_step if rolls else config.batch.tokens // train.context)
        self.order = train.order(config.seed)
        self.budget = Budget(config, self.rows_per_step * train.context, train.rows * train.context)
        model, known = (init.model, getattr(init, "objective", None)) if init else (None, None)
        self.model = start.make_model(config, self.objective, world, model, known)
        self.adapters = adapt(self.model, config.tune, shape.depth, config.seed)
        if config.checkpointing:
            checkpoint_blocks(self.model)
        fsdp.shard(self.model, world, config.parallel.mode)
        self._feed(init)
        self.optimizer = create_optimizer(
            self.model,
            config.optim,
            shape,
            layer_decay=config.tune.layer_decay,
            purpose=setup.purpose(config, self.objective),
        )
        self.ema = Ema(self.model, config.ema) if config.ema is not None else None
        say = (
            f"model: {shape.family}, {parameters(shape):,} parameters ({shape.depth} layers × {shape.width})"
        )
        log.say(say + f", {world.size} × {world.device.type}")

    def _fit(self, said: set[str], row: int, rows: int) -> None:
        """A size that the run's minutes allow, where none was given."""
        config, world = self.config, self.world
        if not fitting.wanted(config, said):
            return
        speed = world.first(lambda: fitting.machine(world.device, self.choices.dtype, world.size))
        self.config, marks = fitting.fitted(config, said, speed=speed, row=row, epoch_tokens=rows * row)
        if marks:
            self.origins = {**(self.origins or dict.fromkeys(said, "given")), **marks}

    def _feed(self, init: Any) -> None:
        """What the source of batches is made from; the reference's log-probabilities, where they are read."""
        config, world = self.config, self.world
        lora = config.tune.lora
        weights = Weights(
            self.model,
            config.model,
            heads=self.objective.heads,
            scale=None if lora is None else scale_of(lora.model_dump()),
            device=world.device,
        )
        reference = None
        if sources.reads_reference(self.objective):
            reference = Reference.open(config, init, self.codec, world.device)
        train = self.splits.train
        self.parts = Parts(
            config=config,
            run=self.path,
            world=world,
            model=self.model,
            objective=self.objective,
            codec=self.codec,
            weights=weights,
            reference=reference,
            tasks=train if isinstance(train, Tasks) else Tasks([], context=train.context),
            dtype=self.choices.dtype,
        )
        if reference is not None and not isinstance(train, Tasks):
            self.splits = sources.referenced(self.splits, reference, self.parts, self.display)
            self.parts = replace(self.parts, reference=None)  # its work is done

    def _objective(self, length: int) -> None:
        """The objective with its facts: learnt now, or as the checkpoint holds them."""
        config, state = self.config, self.state
        self.objective = facts.create(config, length=length)
        if self.found is None:
            state.facts = facts.survey(self.objective, config, self.world)
        self.objective.facts = {**state.facts, **state.calibrated}

    # choices --------------------------------------------------------------------------------

    def _tune(self) -> None:
        """What is measured; on resume what was chosen then, so that sums are added in the same order."""
        config, world, state = self.config, self.world, self.state
        self.clock = time.perf_counter()
        same = self.found is not None and (self.choices.world, self.choices.device) == (
            world.size,
            world.device.type,
        )
        touched = {c.key for c in self.changes} & {
            "batch.micro_tokens",
            "compile",
            "threads",
            "checkpointing",
            "dtype",
        }
        if self.found is not None and not same:
            fresh = setup.choose_format(config, world)
            fresh.eval_tokens = self.choices.eval_tokens
            fresh.dtype = self.choices.dtype if fresh.device == self.choices.device else fresh.dtype
            self.choices = fresh
            log.say(f"resume: on {world.size} × {world.device.type} now; the same rows in the same order")
        if self.found is not None and "dtype" in touched:
            self.choices.dtype = setup.choose_format(config, world).dtype
        if isinstance(self.splits.train, Tasks):
            if not same or touched:
                setup.choose_rollouts(config, self.model, world, self.choices)
        elif not same or touched:
            open_again = {"batch.micro_tokens"} & {c.key for c in self.changes if c.new is None}
            micro = None if open_again or (self.found and not same) else config.batch.micro_tokens
            wanted = config.model_copy(
                update={"batch": config.batch.model_copy(update={"micro_tokens": micro})}
            )
            some: Any = self._batches(1, None)
            setup.choose_batching(wanted, world, self.model, self.objective, some, self.choices)
            some.close()
        elif self.choices.compile:
            compiling.compile_blocks(self.model)
        self.batches = self._batches(self.choices.micro_rows, self.budget.steps)
        state.choices = self.choices
        train = self.splits.train
        if self.found is None:
            self.budget.begin(state, self.choices.step_seconds)
            expected = min(self.budget.estimate(state), 1e12) * self.rows_per_step * train.context
            most = default_tokens(expected, train.context)
            val = self.splits.val
            small = val is not None and val.tokens <= most
            self.choices.eval_tokens = config.eval.tokens or (None if small else most)
        resuming.extend(self.state, self.budget, self.changes, self.choices.step_seconds)
        self._describe()

    def _batches(self, micro_rows: int, steps: int | None) -> Source:
        rows: dict[str, Any] = {"rows_per_step": self.rows_per_step, "micro_rows": micro_rows}
        return sources.create(self.splits, self.parts, **rows, order=self.order, steps=steps)

    def _describe(self) -> None:
        """Write the folder's descriptions: config.toml, env.json, data.json, model.json, objective.json."""
        base = dict(self.origins or {})
        if self.origins is None:
            base = dict.fromkeys(changes.given(self.config, None), "given")
        where = {"run": str(self.path)}
        self.config = self.config.model_copy(update=where)
        settled, marks = setup.settled(self.config, self.choices, self.optimizer, self.context, base)
        self.state.config = settled.model_dump(mode="json")
        self.state.hashes["config"] = setup.digest(self.state.config)
        if not self.world.main:
            return
        if not self.found:
            runfolder.write_json(self.path / "env.json", runfolder.environment(str(self.world.device)))
        runfolder.write_json(self.path / "data.json", self.splits.report)
        runfolder.write_json(self.path / "model.json", self.config.model.model_dump(mode="json"))
        facts.write(self.path, self.config.objective, self.objective)
        runfolder.write_config(self.path, settled, marks)

    # the loop --------------------------------------------------------------------------------

    def _loop(self) -> Loop:
        config, world, state = self.config, self.world, self.state
        keeper = saving.Keeper(
            self.path, config.checkpoint, world, self.model, self.optimizer, state, self.ema
        )
        if self.found is not None:
            kept = dict(state.__dict__)  # what this start has changed on purpose
            keeper.load(self.found)
            for name in (
                "choices",
                "config",
                "hashes",
                "horizon",
                "mark",
                "bend",
                "warmup",
                "parent",
                "stopped",
            ):
                setattr(state, name, kept[name])
            if any(c.key.startswith("val") for c in self.changes):
                state.best, state.last_val = None, None
        path = self.path / "metrics.jsonl"
        if world.main:
            metrics.truncate(path, state.step if self.found else -1, state.evaluated)
            resuming.trim_events(self.path, state.step if self.found else -1)
        self.metrics = keeper.metrics = metrics.Metrics(path if world.main else None)
        evaluator = Evaluator(
            config,
            self.path,
            world,
            self.model,
            self.objective,
            self.codec,
            self.splits.val,
            self.ema,
            tasks=self.splits.tasks,
            weights=self.parts.weights,
        )
        loop = Loop(
            config,
            world,
            self.model,
            self.objective,
            self.optimizer,
            state,
            batches=self.batches,
            budget=self.budget,
            evaluator=evaluator,
            keeper=keeper,
            metrics=self.metrics,
            display=self.display,
            ema=self.ema,
            flops_per_token=flops_per_token(config.model, self.context, training=True),
            peak_flops=matmul_flops(world.device, DTYPES[self.choices.dtype]),
            clock=self.clock,
        )
        if loop.scaler is not None:
            keeper.loss_scale = lambda: loop.scaler
        return loop
