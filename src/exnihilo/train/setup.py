"""Puts a run's parts together: tokenizer, model, measured choices, and the configuration with nothing left
open."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from exnihilo import codec as codecs
from exnihilo import data as datas
from exnihilo import log
from exnihilo.config import ModelConfig, RunConfig
from exnihilo.errors import CodecError, ConfigError, ModelError
from exnihilo.interop.load import load as load_trained
from exnihilo.model import build, resolve
from exnihilo.objective.base import Objective
from exnihilo.parallel.mesh import World
from exnihilo.train import precision, tune
from exnihilo.train.batches import Batches
from exnihilo.train.changes import given
from exnihilo.train.checkpoint import sha256
from exnihilo.train.saving import put_weights
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
    limit = int(config.codec.sample_mb * 1e6)
    made = codecs.train(config.codec, datas.texts(config.data, limit_bytes=limit, val=config.val), display)
    log.say(f"tokenizer: {config.codec.kind}, {made.vocab_size} ids")
    return made


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


# model ------------------------------------------------------------------------------------------


def read_init(config: RunConfig) -> tuple[Any, dict[str, str]]:
    """What ``init=`` names: (model and codec, where they come from)."""
    assert config.init is not None
    loaded = load_trained(config.init)
    source = loaded.path / "model.safetensors"
    parent = {"path": str(config.init), "weights": str(source)}
    if source.is_file():
        parent["sha256"] = sha256(source)
    return loaded, parent


def model_config(
    config: RunConfig, codec: Codec, init: ModelConfig | None, origins: Mapping[str, str] | None
) -> ModelConfig:
    """The model's shape with nothing open: from the dial, or that of `init`, whose shape settings cannot
    contradict.

    ``context`` may be changed for rotary models; ``dropout`` always.
    """
    if init is None:
        return resolve(config.model, codec.vocab_size)
    if codec.vocab_size > (init.vocab_size or 0):
        raise CodecError(
            f"the tokenizer has {codec.vocab_size} ids, "
            f"the model of init={config.init} has {init.vocab_size}",
            expected="the tokenizer that the weights were trained with",
            next="leave codec.path out",
        )
    wanted = {k.removeprefix("model.") for k in given(config, origins) if k.startswith("model.")}
    changed: dict[str, Any] = {}
    for name in sorted(wanted):
        new, old = getattr(config.model, name), getattr(init, name)
        if new is None or new == old:
            continue
        if name == "dropout" or (name == "context" and init.family != "gpt2"):
            changed[name] = new
        elif origins is not None:  # without origins a recipe's own values cannot be told from the user's
            raise ModelError(
                f"model.{name}={new}, but the model of init={config.init} has {old}",
                expected="the shape of the weights that are taken",
                next=f"leave model.{name} out",
            )
    if origins is None and "context" not in wanted:
        changed.pop("context", None)
    return resolve(init.model_copy(update=changed), codec.vocab_size)


def make_model(config: RunConfig, objective: Objective, world: World, init: Model | None) -> Model:
    """The model on its device: random, or with the weights of `init`."""
    model = build(config.model, heads=objective.heads, seed=config.seed, device=world.device)
    if init is not None:
        own = {name for name, _ in model.named_parameters()}
        tensors: dict[str, Tensor] = {n: p.detach() for n, p in init.named_parameters() if n in own}
        put_weights(model, tensors, str(config.init))
    return model


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
            made = batches.tensors(batches.dataset.batch(batches.order.rows(0, rows)))
            tensors[rows] = {k: v.to(world.device) for k, v in made.items()}
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
    run_seconds = expected_seconds(config, row_seconds * most, batches.rows_per_step * context)
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


def expected_seconds(config: RunConfig, step_seconds: float, step_tokens: int) -> float:
    """How long the run will take, as its budget says."""
    limits = [config.minutes * 60] if config.minutes is not None else []
    if config.steps is not None:
        limits.append(config.steps * step_seconds)
    if config.tokens is not None:
        limits.append(config.tokens / step_tokens * step_seconds)
    if not limits:
        raise ConfigError(
            "the run has no budget", expected="steps=, tokens= or minutes=", next="e.g. minutes=10"
        )
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
    main = groups[config.optim.name]
    rates: dict[str, Any] = {
        "lr": fill("optim.lr", config.optim.lr, main["peak_lr"], "derived"),
        "weight_decay": fill(
            "optim.weight_decay", config.optim.weight_decay, main["weight_decay"], "derived"
        ),
    }
    if config.optim.name == "muon" and "adamw" in groups:
        rest = groups["adamw"]["peak_lr"]
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
