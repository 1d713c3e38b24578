"""Puts a run's parts together: tokenizer, measured choices, and the configuration with nothing left open.
(`start` makes the model.)"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from exnihilo import codec as codecs
from exnihilo import log
from exnihilo.config import RunConfig
from exnihilo.data.raw import is_ids
from exnihilo.errors import CodecError, ConfigError
from exnihilo.objective import preludes, registry
from exnihilo.objective.base import Objective
from exnihilo.optim.create import Purpose
from exnihilo.parallel import compile as compiling
from exnihilo.parallel.mesh import World
from exnihilo.train import facts, precision, tune
from exnihilo.train.batches import Batches
from exnihilo.train.budget import Budget
from exnihilo.train.state import Choices, State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model
    from exnihilo.train.progress import Display


def digest(value: Any) -> str:
    """A content hash of JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


# tokenizer ------------------------------------------------------------------------------------------


def make_codec(
    config: RunConfig, run: Path, world: World, init: Codec | None, display: Display, *, resumed: bool
) -> Codec:
    """The run's tokenizer: the folder's own when resuming, else that of `init`, of ``codec.path``, or a new
    one.

    It is written to the run folder at once: ids mean nothing without it.
    """
    if not resumed:

        def make() -> None:
            made = _choose(config, init, display)
            _check_ids(config, made)
            try:
                made.save(run)
            except OSError as error:
                raise CodecError(
                    f"the tokenizer cannot be saved in {run}: {error}", next="choose another run="
                ) from error

        world.first(make)
    return codecs.load(run)


def _choose(config: RunConfig, init: Codec | None, display: Display) -> Codec:
    if config.codec.path is not None:
        named = codecs.load(config.codec.path)
        if init is not None and named.hash != init.hash:
            raise CodecError(
                f"the tokenizer in {config.codec.path} ({named.vocab_size} ids, hash {named.hash[:12]}) "
                f"is not that of init={config.init} ({init.vocab_size} ids, hash {init.hash[:12]})",
                expected="the tokenizer that the weights were trained with: its ids index their embeddings",
                next="leave codec.path out, or leave init out to train from random weights",
            )
        return named
    if init is not None:
        log.say(f"tokenizer: that of {config.init} ({init.vocab_size} ids)")
        return init
    objective = registry.create(config.objective, config.options)  # for its roles
    made = codecs.train(config.codec, facts.texts(config, objective), display)
    log.say(f"tokenizer: {config.codec.kind}, {made.vocab_size} ids")
    return made


def _check_ids(config: RunConfig, codec: Codec) -> None:
    """Raises CodecError where the data is ids and the tokenizer one of text: it would learn their digits."""
    ids = [s.path for s in config.data.sources if is_ids(s.path)]
    reads = set(registry.find(config.objective).roles) <= {"text"} and config.data.format != "bytes"
    if ids and reads and codec.kind != "ids":
        raise CodecError(
            f"{ids[0]} holds ids, the tokenizer is one of text ({codec.kind}, {codec.vocab_size} ids)",
            expected="codec.kind=ids, from random weights or init= of a run that has it",
            next="leave codec.kind, codec.path and init out; or decode the ids into texts first",
        )


def check_codec(codec: Codec, state: State, run: Path) -> None:
    """Raises CodecError where the folder's tokenizer is not the one that the run was trained with."""
    known = state.hashes.get("codec")
    if known is not None and known != codec.hash:
        raise CodecError(
            f"the tokenizer in {run} has hash {codec.hash[:12]} and {codec.vocab_size} ids, the checkpoint "
            f"was trained with {known[:12]}",
            expected="the run's own tokenizer.json",
            next="restore tokenizer.json; a new tokenizer needs a new run",
        )


def check_data(found: str, state: State, *, force: bool) -> None:
    """Raises ConfigError where the training data is not what the run was started with, unless forced."""
    known = state.hashes.get("data")
    if known is not None and known != found and not force:
        raise ConfigError(
            f"the training data has changed since the run was started: its hash is "
            f"{found[:12]}, was {known[:12]}",
            expected="the same files, so that the rest of the run sees what it would have seen",
            next="restore the files, or add --force to go on with the new data",
        )


# measured choices ------------------------------------------------------------------------------------------


def choose_format(config: RunConfig, world: World) -> Choices:
    """Threads and number format, measured by worker 0 for all."""

    def measure() -> dict[str, Any]:
        count = tune.threads(config.threads)
        torch.set_num_threads(count)
        return {"threads": count, "dtype": precision.choose(config.dtype, world.device)}

    return Choices(device=str(world.device.type), world=world.size, **world.first(measure))


def choose_batching(
    config: RunConfig, world: World, model: Model, objective: Objective, batches: Batches, choices: Choices
) -> None:
    """The micro-batch size, and whether to compile; fills in `choices` and leaves the model as chosen."""
    context = batches.dataset.context
    most = -(-batches.rows_per_step // world.size)
    tensors: dict[int, dict[str, Tensor]] = {}

    def forward(rows: int) -> Tensor:
        if rows not in tensors:
            made = batches.tensors(batches.columns(batches.order.rows(0, rows), 0))
            placed = {k: v.to(world.device) for k, v in made.items()}
            tensors[rows] = preludes.alone(model, objective, placed)
        counts = objective.counts(tensors[rows])
        with precision.autocast(choices.dtype, world.device):
            sums = objective.sums(model, tensors[rows])
        trained = [k for k in sums if "@" not in k]
        return torch.stack([sums[k].float() / max(1.0, float(counts[k])) for k in trained]).sum()

    model.train()
    if config.batch.micro_tokens is not None:
        choices.micro_rows = max(1, min(most, config.batch.micro_tokens // context))
        tune.timed(forward, model, world, choices.micro_rows)
        row_seconds = tune.timed(forward, model, world, choices.micro_rows) / choices.micro_rows
        row_seconds = max(world.gather(row_seconds))
    else:
        choices.micro_rows, row_seconds = tune.micro_rows(forward, model, world, rows=most, context=context)
        speed = context * world.size / row_seconds
        log.say(f"micro-batch: {choices.micro_rows} rows of {context} tokens ({speed:,.0f} tokens/s)")
    run_seconds = expected_seconds(
        config, row_seconds * most, batches.rows_per_step * context, batches.dataset.rows * context
    )
    choices.compile, row_seconds = tune.compile_or_not(
        config.compile,
        forward,
        model,
        world,
        rows=choices.micro_rows,
        row_seconds=row_seconds,
        run_seconds=run_seconds,
    )
    choices.step_seconds = row_seconds * most


ROLLED = {"cpu": 8192, "cuda": 1 << 16}  # tokens of one forward over rollouts, where nothing is given


def choose_rollouts(config: RunConfig, model: Model, world: World, choices: Choices) -> None:
    """The micro-batch size where rows are drawn anew each step, and so differ in length: by tokens, not
    measured."""
    tokens = config.batch.micro_tokens or ROLLED.get(world.device.type, 8192)
    choices.micro_rows = max(1, tokens // config.model.context)
    choices.compile = config.compile == "on"
    if choices.compile:
        compiling.compile_blocks(model)


def purpose(config: RunConfig, objective: Objective) -> Purpose:
    """What the weights are trained for; decides the default learning rates."""
    if not objective.supervised and objective.stage == "pretrain":
        return "pretrain"
    if objective.stage == "align":
        return "align"
    if config.init is None:
        return objective.fresh
    return "tune" if objective.supervised else "instruct"


def expected_seconds(
    config: RunConfig, step_seconds: float, step_tokens: int, epoch_tokens: int | None = None
) -> float:
    """How long the run will take, as its budget says."""
    budget = Budget(config, step_tokens, epoch_tokens)
    limits = [budget.seconds] if budget.seconds is not None else []
    if budget.steps is not None:
        limits.append(budget.steps * step_seconds)
    return min(limits)


# configuration ------------------------------------------------------------------------------------------


def settled(
    config: RunConfig,
    choices: Choices,
    optimizer: torch.optim.Optimizer,
    context: int,
    origins: Mapping[str, str],
) -> tuple[RunConfig, dict[str, str]]:
    """The configuration as it was obeyed: what was open is filled in, and says that it was derived or
    measured."""
    marks = dict(origins)

    def fill(path: str, before: Any, now: Any, origin: str) -> Any:
        if before != now:
            marks[path] = origin if before is None else f"{before}: {origin}"
        return now

    for name in type(config.model).model_fields:
        if origins.get(f"model.{name}", "default") == "default" and name in (
            "width", "heads", "kv_heads", "head_dim", "mlp_width", "vocab_size",
        ):  # fmt: skip
            marks[f"model.{name}"] = "derived"
    groups = {g.get("algorithm", config.optim.name): g for g in reversed(optimizer.param_groups)}
    rates: dict[str, Any] = {}
    if main := groups.get(config.optim.name):  # muon has none where all matrices are frozen
        rates["lr"] = fill("optim.lr", config.optim.lr, main["base_lr"], "derived")
        decay = main["weight_decay"]
        rates["weight_decay"] = fill("optim.weight_decay", config.optim.weight_decay, decay, "derived")
    if config.optim.name == "muon" and "adamw" in groups:
        rest = groups["adamw"]["base_lr"]
        rates["adamw_lr"] = fill("optim.adamw_lr", config.optim.adamw_lr, rest, "derived")
    micro = choices.micro_rows * context
    given_micro = config.batch.micro_tokens
    batch = config.batch.model_copy(
        update={"micro_tokens": fill("batch.micro_tokens", given_micro, given_micro or micro, "measured")}
    )
    return config.model_copy(
        update={
            "optim": config.optim.model_copy(update=rates),
            "batch": batch,
            "dtype": fill("dtype", config.dtype, choices.dtype, "measured"),
            "compile": fill("compile", config.compile, "on" if choices.compile else "off", "estimated"),
            "threads": fill("threads", config.threads, choices.threads, "measured"),
            "device": fill("device", config.device, choices.device, "found"),
        }
    ), marks
