"""What a run will cost on this machine, before it starts: parameters, FLOPs, memory, tokens and time.

Counted from the structure: parameters, operations a token, bytes of weights, gradients and optimiser state.
Measured here, in a few seconds: the matrix-product peak, a step of the chosen shape, the bytes a forward
keeps. A loss is not forecast: it depends on the data, and no run on it has been seen yet.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from exnihilo.config import ModelConfig, RunConfig
from exnihilo.errors import ConfigError

if TYPE_CHECKING:
    from exnihilo.model.model import Model
    from exnihilo.objective.base import Objective


@dataclass(frozen=True)
class Plan:
    """Figures of a run to be. Bytes, seconds and operations; None where nothing was measured."""

    recipe: str
    device: str
    dtype: str | None
    depth: int
    width: int
    vocab_size: int
    vocab_note: str
    context: int
    parameters: int
    embedding_parameters: int
    flops_per_token: float
    step_tokens: int
    steps: int | None
    tokens: int | None
    seconds: float | None
    flops: float | None
    chance_loss: float | None  # None: the objective does not predict tokens
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    checkpoint_bytes: int
    activation_bytes: int | None = None
    micro_tokens: int | None = None
    tokens_per_second: float | None = None
    peak_flops: float | None = None
    mfu: float | None = None

    def figures(self) -> dict[str, Any]:
        """As a plain mapping, for JSON."""
        return asdict(self)

    @property
    def memory_bytes(self) -> int:
        """Weights, gradients, optimiser state and, where measured, one micro-batch's activations."""
        return self.weight_bytes + self.gradient_bytes + self.optimizer_bytes + (self.activation_bytes or 0)


def make(config: RunConfig, origins: Mapping[str, str] | None = None, *, measure: bool = True) -> Plan:
    """The plan of a configuration.

    Args:
        origins: where its values come from: with minutes and no size of the user's, a smaller model may be
            made of it, as in training (`train.fitting`).
        measure: time a step on this machine (about ten seconds); without it, times are left open, and the
            size is as it is set.

    Raises:
        ConfigError: a shape that cannot be built.
    """
    from exnihilo.model import flops_per_token, parameters
    from exnihilo.model.model import shape_of
    from exnihilo.parallel import resolve_device

    if origins is not None and measure:
        config, _ = sized(config, origins)
    init = None
    if config.init is not None:
        from exnihilo.interop.load import load

        init = load(config.init).model
        config = config.model_copy(update={"model": init.config})
        vocab, note = init.config.vocab_size, f"of {config.init}"
    else:
        vocab, note = vocabulary(config)
    model, objective = _model(config, vocab)
    assert model.width is not None and model.vocab_size is not None
    count = parameters(model)
    step_tokens = max(1, config.batch.tokens // model.context) * model.context
    per_token = flops_per_token(model, model.context)
    measured: dict[str, Any] = {}
    if measure:
        measured = _measure(config, model.vocab_size, step_tokens, per_token, init)
    steps, tokens, seconds = budget(config, step_tokens, measured.get("tokens_per_second"))
    weights = 4 * count
    state = _optimizer_bytes(config, model)
    ema = weights if config.ema is not None else 0
    shape = shape_of(model)
    embeddings = model.vocab_size * shape.width * (1 if model.tied else 2)
    return Plan(
        recipe=config.recipe,
        device=str(resolve_device(config.device)),
        dtype=measured.pop("dtype", None),
        depth=model.depth,
        width=shape.width,
        vocab_size=model.vocab_size,
        vocab_note=note,
        context=model.context,
        parameters=count,
        embedding_parameters=embeddings,
        flops_per_token=per_token,
        step_tokens=step_tokens,
        steps=steps,
        tokens=tokens,
        seconds=seconds,
        flops=None if tokens is None else tokens * per_token,
        chance_loss=None if objective.supervised else math.log(model.vocab_size),
        weight_bytes=weights + ema,
        gradient_bytes=weights,
        optimizer_bytes=state,
        checkpoint_bytes=weights + ema + state,
        **measured,
    )


def sized(config: RunConfig, origins: Mapping[str, str]) -> tuple[RunConfig, dict[str, str]]:
    """The configuration and its origins with the size that its minutes allow, as training will take it
    (`train.fitting`)."""
    import torch

    from exnihilo.parallel import resolve_device
    from exnihilo.train import fitting, precision, tune
    from exnihilo.train.changes import given

    said, kept = given(config, origins), dict(origins)
    if not fitting.wanted(config, said):
        return config, kept
    model, objective = _model(config, vocabulary(config)[0])
    if objective.needs == "rollout":
        return config, kept
    device = resolve_device(config.device)
    torch.set_num_threads(tune.threads(config.threads))  # as `_measure` will
    speed = fitting.machine(device, precision.choose(config.dtype, device))
    found, marks = fitting.fitted(config.model_copy(update={"model": model}), said, speed=speed)
    if not marks:
        return config, kept
    sizes = {name: getattr(found.model, name) for name in ("family", *fitting.SIZES)}
    changed = {"model": config.model.model_copy(update=sizes), "batch": found.batch}
    return config.model_copy(update=changed), {**kept, **marks}


def _model(config: RunConfig, vocab: int | None) -> tuple[ModelConfig, Objective]:
    """The model's shape with nothing left open, and the objective that asks for it."""
    from exnihilo.model import resolve
    from exnihilo.objective import registry
    from exnihilo.train.start import check_family

    model = resolve(config.model, vocab)
    check_family(model.family, config)
    objective = registry.create(config.objective, config.options, length=model.context)
    asked = objective.model_settings  # labels are not counted yet: a few weights
    asked = {**asked, "outputs": tuple(objective.heads), "labels": objective.labels or model.labels or 2}
    return resolve(model.model_copy(update=asked), vocab), objective


def vocabulary(config: RunConfig) -> tuple[int, str]:
    """Ids the codec will have, and how that is known."""
    codec = config.codec
    if codec.path is not None:
        from exnihilo import codec as codecs

        return codecs.load(codec.path).vocab_size, f"of {codec.path}"
    if config.model.vocab_size is not None:
        return config.model.vocab_size, "as set"
    if codec.kind == "bytes":
        from exnihilo.codec.bytes import Bytes

        return Bytes.make().vocab_size, "bytes and special tokens"
    if codec.kind in ("marks", "waves"):
        from exnihilo import codec as codecs

        return codecs.train(codec, ()).vocab_size, f"those of codec.kind={codec.kind}"
    if codec.kind == "chars":
        if not config.data.sources:
            raise ConfigError("codec.kind=chars without data", expected="data=PATH, to count its characters")
        from exnihilo import codec as codecs
        from exnihilo.objective import registry
        from exnihilo.train import facts

        found = codecs.train(codec, facts.texts(config, registry.create(config.objective, config.options)))
        return found.vocab_size, "counted in the data"
    return codec.vocab_size, "at most; a small corpus gives fewer"


def budget(
    config: RunConfig, step_tokens: int, tokens_per_second: float | None
) -> tuple[int | None, int | None, float | None]:
    """(steps, tokens, seconds) of a run: whichever of the three limits ends first. None: not known
    unmeasured.

    >>> budget(RunConfig(steps=10, minutes=1), 100, 50.0)
    (10, 1000, 20.0)
    """
    limits = [config.steps] if config.steps is not None else []
    if config.tokens is not None:
        limits.append(math.ceil(config.tokens / step_tokens))
    if config.minutes is not None and tokens_per_second is not None:
        limits.append(max(1, int(config.minutes * 60 * tokens_per_second / step_tokens)))
    known_end = bool(limits) and (config.minutes is None or tokens_per_second is not None)
    if not known_end:
        return None, None, config.minutes * 60 if config.minutes is not None and not limits else None
    steps = min(limits)
    tokens = steps * step_tokens
    return steps, tokens, None if tokens_per_second is None else tokens / tokens_per_second


def _optimizer_bytes(config: RunConfig, model: Any) -> int:
    """Bytes of optimiser state, from the optimiser itself on a model without memory."""
    from exnihilo.model import build
    from exnihilo.optim import create

    groups = create(build(model, device="meta"), config.optim, model).param_groups
    moments = {"muon": 1, "adamw": 2, "sgd": 1}
    return sum(
        4 * parameter.numel() * (0 if group.get("momentum") == 0 else moments[group["algorithm"]])
        for group in groups
        for parameter in group["params"]
    )


def _measure(
    config: RunConfig, vocab: int, step_tokens: int, per_token: float, init: Model | None
) -> dict[str, Any]:
    """Time a step and count what a forward keeps, on this machine."""
    from exnihilo.parallel import matmul_flops
    from exnihilo.rehearse import Bench, saved_bytes
    from exnihilo.train import precision, tune

    bench = Bench.make(config, vocab, init)
    world, context = bench.world, config.model.context
    rows = bench.rows
    if config.batch.micro_tokens is not None:
        micro = max(1, min(rows, config.batch.micro_tokens // context))
    else:
        micro, _ = tune.micro_rows(
            lambda n: bench.loss(bench.random_batch(n)), bench.model, world, rows=rows, context=context
        )
    batch = bench.random_batch(micro)
    kept = saved_bytes(lambda: bench.loss(batch))
    bench.step([batch])  # warm caches, make the optimiser's state
    tune.synchronize(world.device)
    begun = time.perf_counter()
    count = 0
    while count < 1 or time.perf_counter() - begun < 1.0:
        bench.loss(batch).backward()
        tune.synchronize(world.device)
        count += 1
    forward = (time.perf_counter() - begun) / count
    begun = time.perf_counter()
    bench.optimizer.step()
    tune.synchronize(world.device)
    update = time.perf_counter() - begun
    speed = step_tokens / (forward * rows / micro + update)
    peak = matmul_flops(world.device, precision.DTYPES[bench.dtype])
    return {
        "dtype": bench.dtype,
        "activation_bytes": kept,
        "micro_tokens": micro * context,
        "tokens_per_second": speed,
        "peak_flops": peak,
        "mfu": speed * per_token / peak,
    }


def size(value: float) -> str:
    """Bytes in words: ``1.5 GB`` is 1.5e9 bytes."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.0f} bytes"


def duration(seconds: float) -> str:
    """Seconds in words: ``2 h 05 min``, ``3 min 20 s``."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{seconds:.0f} s"


def table(plan: Plan) -> str:
    """The plan as lines of text."""
    rows = [
        ("model", f"{plan.depth} layers × {plan.width}, context {plan.context}, "
                  f"vocabulary {plan.vocab_size:,} ({plan.vocab_note})"),
        ("parameters", f"{plan.parameters:,} ({plan.embedding_parameters:,} in embeddings)"),
        ("a step", f"{plan.step_tokens:,} tokens"
                   + (f" in micro-batches of {plan.micro_tokens:,}" if plan.micro_tokens else "")),
        ("operations", f"{plan.flops_per_token:.3g} a token"
                       + (f", {plan.flops:.3g} in all" if plan.flops is not None else "")),
    ]  # fmt: skip
    memory = f"{size(plan.memory_bytes)}: weights {size(plan.weight_bytes)}, "
    memory += f"gradients {size(plan.gradient_bytes)}, "
    memory += f"optimiser {size(plan.optimizer_bytes)}"
    memory += (
        f", activations {size(plan.activation_bytes)}"
        if plan.activation_bytes
        else " (activations not measured)"
    )
    rows += [("memory", memory), ("a checkpoint", size(plan.checkpoint_bytes))]
    if plan.tokens_per_second is not None and plan.mfu is not None and plan.peak_flops is not None:
        speed = f"{plan.tokens_per_second:,.0f} tokens/s on {plan.device}, {plan.dtype}; "
        speed += f"{plan.mfu:.0%} of this machine's {plan.peak_flops / 1e9:,.0f} GFLOP/s"
        rows.append(("speed", speed))
    if plan.tokens is not None and plan.steps is not None:
        per = plan.tokens / plan.parameters
        rows.append(("budget", f"{plan.steps:,} steps, {plan.tokens:,} tokens ({per:.3g} a parameter)"))
    if plan.seconds is not None:
        rows.append(("time", f"{duration(plan.seconds)}, preparation and evaluation not counted"))
    if plan.chance_loss is not None:
        rows.append(("loss", f"begins at ln V = {plan.chance_loss:.3f} nats a token"))
    return "\n".join(f"{name:<14}{text}" for name, text in rows)
