"""A training run from end to end: configuration -> tokenizer -> data -> model -> loop -> Hugging Face folder,
and after fine-tuning the control runs.

::

    from exnihilo.train import run
    result = run(RunConfig(data="books/", minutes=10, run="runs/books"))
    result = run(config, resume=True)           # goes on bit for bit where the newest checkpoint stands

Under torchrun every worker calls it; worker 0 alone writes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from exnihilo import data as datas
from exnihilo import log
from exnihilo.config import RunConfig
from exnihilo.environment import keep_memory
from exnihilo.errors import ConfigError, UsageError
from exnihilo.interop import hf
from exnihilo.model import build, flops_per_token, parameters, resolve
from exnihilo.optim import create as create_optimizer
from exnihilo.parallel import checkpoint_blocks, fsdp, matmul_flops
from exnihilo.parallel import compile as compiling
from exnihilo.parallel.mesh import World
from exnihilo.train import changes, checkpoint, control, facts, metrics, runfolder, saving, setup, start
from exnihilo.train.adapt import adapt
from exnihilo.train.batches import Batches
from exnihilo.train.budget import Budget
from exnihilo.train.ema import Ema
from exnihilo.train.evaluation import Evaluator, default_tokens
from exnihilo.train.loop import Loop, Result
from exnihilo.train.precision import DTYPES
from exnihilo.train.progress import Display, shown
from exnihilo.train.signals import Stop
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
        try:
            result = self._train()
            if result.interrupted or not control.wanted(self.config, self.objective):
                return result
            settled = RunConfig.model_validate(self.state.config)
            self._forget()
            return control.compare(settled, result, self.objective, self.world, self.display, run)
        finally:
            for lock in locks:
                lock.release()

    def _forget(self) -> None:
        """Free what a finished run holds: the control runs have models of their own."""
        del self.model, self.optimizer, self.ema, self.batches, self.splits, self.metrics

    def _train(self) -> Result:
        if self.resume:
            self._look_back()
        self._check()
        init, parent = start.read_init(self.config) if self.config.init and not self.found else (None, None)
        self.state.parent = self.state.parent or parent
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
            self._finish()
        return loop.result(self.path, interrupted)

    # before --------------------------------------------------------------------------------

    def _look_back(self) -> None:
        """Find the checkpoint to go on from, and what has changed since."""
        folder = self.path / "checkpoints"

        def find() -> str | None:
            checkpoint.sweep(folder)
            found = checkpoint.newest(folder)
            return str(found) if found else None

        found = self.world.first(find)
        if found is None:
            if not (self.path / "config.toml").exists():
                raise UsageError(
                    f"{self.path} holds no run: neither config.toml nor checkpoints",
                    expected="the folder of a run that was cut",
                    next="check run=DIR, or start it without --resume",
                )
            log.say(f"{self.path} was cut before its first checkpoint: starting over")
            return
        self.found = Path(found)
        self.state = State.from_json(checkpoint.read_state(self.found))
        self.changes = changes.compare(self.state.config, self.config, self.origins)
        changes.check(self.changes, force=self.force)
        where = self.config.run
        self.config = changes.apply(self.state.config, self.changes).model_copy(update={"run": where})
        self.origins = dict(self.origins or {})
        log.say(f"resuming {self.path} at step {self.state.step}")

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
        shape = resolve(shape.model_copy(update=self.objective.model_settings), self.codec.vocab_size)
        self.config = config = config.model_copy(update={"model": shape})
        control.check(config, self.objective)
        self.splits = self._data()
        train = self.splits.train
        if self.found is None:
            self.choices = setup.choose_format(config, world)
        self.rows_per_step = max(1, config.batch.tokens // train.context)
        self.order = train.order(config.seed)
        self.budget = Budget(config, self.rows_per_step * train.context, train.rows * train.context)
        model, known = (init.model, getattr(init, "objective", None)) if init else (None, None)
        self.model = start.make_model(config, self.objective, world, model, known)
        self.adapters = adapt(self.model, config.tune, shape.depth, config.seed)
        if config.checkpointing:
            checkpoint_blocks(self.model)
        fsdp.shard(self.model, world, config.parallel.mode)
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

    def _objective(self, length: int) -> None:
        """The objective with its facts: learnt now, or as the checkpoint holds them."""
        config, state = self.config, self.state
        self.objective = facts.create(config, length=length)
        if self.found is None:
            state.facts = facts.survey(self.objective, config, self.world)
        self.objective.facts = {**state.facts, **state.calibrated}

    def _data(self) -> Any:
        config, world, state = self.config, self.world, self.state
        identity: dict[str, Any] = {"objective": config.objective, "options": config.options}
        if self.objective.supervised or state.facts:  # what else the encoding may depend on
            identity.update(facts=state.facts)
        if not self.objective.joins:
            identity.update(length=self.objective.length)
        key = setup.digest({**identity, "codec": self.codec.hash})

        def prepare(display: Any = None) -> Any:
            return datas.prepare(
                config.data,
                config.val,
                encode=partial(self.objective.encode_many, codec=self.codec),
                key=key,
                context=self.objective.row or config.model.context,
                seed=config.seed,
                progress=display,
                pad_id=self.codec.pad_id,
                **facts.laying(self.objective),
            )

        made: list[Any] = []
        world.first(lambda: made.append(prepare(self.display)))
        splits = made[0] if made else prepare()  # the others read worker 0's cache
        known = state.hashes.get("data")
        if known is not None and known != splits.train.hash and not self.force:
            raise ConfigError(
                f"the training data has changed since the run was started: its hash is "
                f"{splits.train.hash[:12]}, was {known[:12]}",
                expected="the same files, so that the rest of the run sees what it would have seen",
                next="restore the files, or add --force to go on with the new data",
            )
        state.hashes.update(data=splits.train.hash, codec=self.codec.hash)
        return splits

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
        self.batches = self._batches(1)
        if not same or touched:
            open_again = {"batch.micro_tokens"} & {c.key for c in self.changes if c.new is None}
            micro = None if open_again or (self.found and not same) else config.batch.micro_tokens
            wanted = config.model_copy(
                update={"batch": config.batch.model_copy(update={"micro_tokens": micro})}
            )
            setup.choose_batching(wanted, world, self.model, self.objective, self.batches, self.choices)
        elif self.choices.compile:
            compiling.compile_blocks(self.model)
        self.batches.close()
        self.batches = self._batches(self.choices.micro_rows)
        state.choices = self.choices
        train = self.splits.train
        if self.found is None:
            self.budget.begin(state, self.choices.step_seconds)
            expected = min(self.budget.estimate(state), 1e12) * self.rows_per_step * train.context
            most = default_tokens(expected, train.context)
            val = self.splits.val
            small = val is not None and val.tokens <= most
            self.choices.eval_tokens = config.eval.tokens or (None if small else most)
        self._extend()
        self._describe()

    def _batches(self, micro_rows: int) -> Batches:
        return Batches(
            self.splits.train,
            self.order,
            self.objective,
            rows_per_step=self.rows_per_step,
            micro_rows=micro_rows,
            rank=self.world.rank,
            world=self.world.size,
            pin=self.world.device.type == "cuda",
            codec=self.codec,
            seed=self.config.seed,
        )

    def _extend(self) -> None:
        """On resume with another budget: set the schedule's horizon anew, and say what that does."""
        if not any(c.key in changes.BUDGET or c.key.startswith("optim.schedule") for c in self.changes):
            return
        state, budget = self.state, self.budget
        before, old = state.horizon, budget.scale(state, max(0, state.step - 1))
        if budget.steps is not None and budget.steps < state.step:
            raise ConfigError(
                f"the new budget ends at step {budget.steps}, the run is at step {state.step}",
                expected=f"more than {state.step} steps",
                next="a larger steps=, tokens= or epochs=",
            )
        state.horizon = budget.steps if budget.seconds is None else None
        state.mark = state.bend = None
        budget.begin(state, self.choices.step_seconds)
        ends = state.horizon if state.horizon is not None else "to be measured"
        log.say(
            f"resume: the schedule's last step is {ends} (was {before}); at step {state.step} the learning "
            f"rate is {budget.scale(state, state.step):.0%} of its peak (it was {old:.0%})"
        )

    def _describe(self) -> None:
        """Write the folder's descriptions: config.toml, env.json, data.json, model.json, objective.json."""
        base = dict(self.origins or {})
        if self.origins is None:
            base = dict.fromkeys(changes.given(self.config, None), "given")
        where = {"run": str(self.path)}
        self.config = self.config.model_copy(update=where)
        settled, marks = setup.settled(
            self.config, self.choices, self.optimizer, self.splits.train.context, base
        )
        self.state.config = settled.model_dump(mode="json")
        self.state.hashes["config"] = setup.digest(self.state.config)
        if not self.world.main:
            return
        if not self.found:
            runfolder.write_json(self.path / "env.json", runfolder.environment(str(self.world.device)))
        runfolder.write_json(self.path / "data.json", self.splits.report.to_json())
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
            for name in ("choices", "config", "hashes", "horizon", "mark", "bend", "warmup", "parent"):
                setattr(state, name, kept[name])
            if any(c.key.startswith("val") for c in self.changes):
                state.best, state.last_val = None, None
        path = self.path / "metrics.jsonl"
        if world.main:
            metrics.truncate(path, state.step if self.found else -1, state.evaluated)
            self._trim_guard(state.step if self.found else -1)
        self.metrics = keeper.metrics = metrics.Metrics(path if world.main else None)
        evaluator = Evaluator(
            config, self.path, world, self.model, self.objective, self.codec, self.splits.val, self.ema
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
            flops_per_token=flops_per_token(config.model, self.splits.train.context, training=True),
            peak_flops=matmul_flops(world.device, DTYPES[self.choices.dtype]),
            clock=self.clock,
        )
        if loop.scaler is not None:
            keeper.loss_scale = lambda: loop.scaler
        return loop

    def _trim_guard(self, step: int) -> None:
        """Events after the checkpoint will happen again."""
        path = self.path / "guard.json"
        if path.exists():
            events = [e for e in json.loads(path.read_text(encoding="utf-8")) if e["step"] < step]
            runfolder.write_json(path, events)

    # after --------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Write the trained model to the root of the run folder, as a Hugging Face folder."""
        if self.ema is not None:
            fsdp.reshard(self.model)
            tensors = {name: fsdp.full(t) for name, t in self.ema.average.items()}
        else:
            tensors = saving.weights(self.model)
        state, config = self.state, self.config
        if self.adapters is not None:
            tensors = self.adapters.merged(tensors)

        def write() -> None:
            whole = build(config.model, heads=self.objective.heads, seed=config.seed)
            saving.put_weights(whole, {**saving.weights(whole), **tensors}, "this run")
            extra = {
                "objective": config.objective,
                "step": state.step,
                "tokens": state.tokens,
                "seed": config.seed,
            }
            trained = facts.to_json(config.objective, self.objective)
            hf.save(whole, self.codec, self.path, extra=extra, objective=trained)
            facts.write(self.path, config.objective, self.objective)

        self.world.first(write)
        saving.say_best(state, self.path / "checkpoints")
        log.say(f"done: {state.step} steps, {state.tokens:,} tokens; the model is in {self.path}")
