"""Keeps a run's checkpoints: gathers what is to be kept, writes it from worker 0, rotates, restores,
rewinds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exnihilo import log
from exnihilo.config import CheckpointConfig
from exnihilo.errors import CheckpointError, TrainError
from exnihilo.parallel import fsdp
from exnihilo.parallel.mesh import World
from exnihilo.train import checkpoint, metrics
from exnihilo.train.ema import Ema
from exnihilo.train.runfolder import write_json
from exnihilo.train.state import State

SECONDS = 120.0  # between checkpoints, where checkpoint.every does not say
BETWEEN = "/"  # of parameter name and state key in optim.safetensors


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Full tensors of all parameters and persistent buffers, each once, on the CPU. All workers must call."""
    fsdp.reshard(model)
    out = {name: fsdp.full(p) for name, p in model.named_parameters()}
    kept = set(model.state_dict())
    out.update({name: fsdp.full(b) for name, b in model.named_buffers() if name in kept})
    return out


@torch.no_grad()
def put_weights(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy tensors into a model in place; names and shapes must be the same.

    Raises:
        CheckpointError: a name is missing or too many, or a shape differs.
    """
    fsdp.reshard(model)
    kept = set(model.state_dict())
    own: dict[str, Tensor] = dict(model.named_parameters())
    own.update({n: b for n, b in model.named_buffers() if n in kept})
    missing, extra = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    if missing or extra:
        raise CheckpointError(
            f"the weights in {where} are of another model: missing {missing[:3]}, too many {extra[:3]}",
            expected=f"the {len(own)} tensors of this model",
            next="resume with the configuration of the run (config.toml)",
        )
    for name, tensor in own.items():
        if tuple(tensors[name].shape) != tuple(tensor.shape):
            raise CheckpointError(
                f"{name} in {where} has shape {tuple(tensors[name].shape)}, "
                f"the model's is {tuple(tensor.shape)}",
                expected="equal shapes",
                next="resume with the configuration of the run (config.toml)",
            )
        tensor.copy_(fsdp.like(tensors[name], tensor))


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Tensor]:
    """The optimiser's state as full tensors named ``PARAMETER/KEY``. All workers must call."""
    out: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            for key, value in optimizer.state.get(p, {}).items():
                if isinstance(value, Tensor):
                    out[f"{names[id(p)]}{BETWEEN}{key}"] = fsdp.full(value)
                elif value is not None:
                    raise TrainError(
                        f"the optimiser keeps {key}={value!r} for {names[id(p)]}", expected="tensors only"
                    )
    return out


@torch.no_grad()
def put_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str], tensors: Mapping[str, Tensor]
) -> None:
    """Give an optimiser the state that `optimizer_tensors` took; sharded as its parameters are."""
    optimizer.state.clear()
    params = {names[id(p)]: p for group in optimizer.param_groups for p in group["params"]}
    for full_name, tensor in tensors.items():
        name, key = full_name.rsplit(BETWEEN, 1)
        if name not in params:
            raise CheckpointError(
                f"the optimiser state of {name!r} is in the checkpoint, the model has no such parameter",
                expected="the same model and optimiser",
                next="resume with the configuration of the run (config.toml)",
            )
        p = params[name]
        same = tuple(tensor.shape) == tuple(p.shape)
        optimizer.state[p][key] = fsdp.like(tensor, p) if same else tensor.to(p.device, copy=True)


class Keeper:
    """The checkpoints of one run.

    Attributes:
        last: step of the newest checkpoint written or loaded by this process; None before.
        dirty: something has changed since.
    """

    def __init__(
        self,
        run: Path,
        config: CheckpointConfig,
        world: World,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        state: State,
        ema: Ema | None,
    ) -> None:
        self.run, self.config, self.world = run, config, world
        self.model, self.optimizer, self.state, self.ema = model, optimizer, state, ema
        self.folder = run / "checkpoints"
        self.names = {id(p): name for name, p in model.named_parameters()}
        self.last: int | None = None
        self.dirty = True
        self._saved_at = state.seconds
        self.loss_scale: Any = None
        self.metrics: metrics.Metrics | None = None

    def due(self) -> bool:
        """Whether it is time for a checkpoint: by steps, or every two minutes."""
        if self.state.step == self.last and not self.dirty:
            return False
        if self.config.every is not None:
            return (
                self.state.step > 0
                and self.state.step % self.config.every == 0
                and self.state.step != self.last
            )
        return self.state.seconds - self._saved_at >= SECONDS

    def save(self) -> None:
        """Write a checkpoint of this moment. All workers must call."""
        state = self.state
        if self.loss_scale is not None:
            state.loss_scale = self.loss_scale().to_json()
        if self.ema is not None:
            state.ema_updates = self.ema.updates
        tensors: dict[str, dict[str, Tensor]] = {"model": weights(self.model)}
        tensors["optim"] = optimizer_tensors(self.optimizer, self.names)
        if self.ema is not None:
            tensors["ema"] = {name: fsdp.full(t) for name, t in self.ema.average.items()}
        content = state.to_json()

        def write() -> None:
            checkpoint.save(self.folder, state.step, tensors, content)
            best = {int(state.best["step"])} if self.config.best and state.best else set()
            checkpoint.rotate(self.folder, self.config.keep, best)

        self.world.first(write)
        self.last, self.dirty = state.step, False
        self._saved_at = state.seconds

    def load(self, path: Path) -> None:
        """Put a verified checkpoint's tensors and state in place, in the objects that are there. All
        workers must call."""
        state = State.from_json(checkpoint.read_state(path))
        put_weights(self.model, checkpoint.read(path, "model"), str(path))
        put_optimizer(self.optimizer, self.names, checkpoint.read(path, "optim"))
        if self.ema is not None:
            tensors = checkpoint.read(path, "ema")
            if not tensors:
                raise CheckpointError(
                    f"{path} has no averaged weights",
                    expected="a run that was started with ema=",
                    next="leave ema= out",
                )
            self.ema.load(tensors, state.ema_updates)
        self.state.__dict__.update(state.__dict__)
        self.last, self.dirty = state.step, False
        self._saved_at = state.seconds

    @contextmanager
    def at_best(self) -> Iterator[None]:
        """Within the block the weights (averaged ones, where `ema` is on) are those of the best checkpoint,
        where `checkpoint.use` asks for it and it is another than the last. All workers must call."""
        step = int((self.state.best or {}).get("step", 0))
        path = self.folder / checkpoint.name_of(step)
        wanted = self.config.use == "best" and step not in (0, self.state.step)
        if not wanted or not self.world.first(path.is_dir):
            yield
            return
        last = {name: tensor.clone() for name, tensor in weights(self.model).items()}
        average = {n: t.clone() for n, t in self.ema.average.items()} if self.ema is not None else {}
        put_weights(self.model, checkpoint.read(path, "model"), str(path))
        if self.ema is not None:
            self.ema.load(checkpoint.read(path, "ema"), self.ema.updates)
        try:
            yield
        finally:
            put_weights(self.model, last, "this run")
            if self.ema is not None:
                self.ema.average = average

    def rewind(self, *, before: int, wish: int) -> int:
        """Go back to the newest good checkpoint at or before step `wish`, else before step `before`;
        returns its step.

        Metrics after it are dropped: those steps are taken anew.
        """

        def find() -> str | None:
            for limit in (wish, before - 1):
                good = checkpoint.newest(
                    self.folder, accept=lambda s, limit=limit: s["step"] <= limit and not s["guard"]["streak"]
                )
                if good is not None:
                    return str(good)
            return None

        found = self.world.first(find)
        if found is None:
            raise TrainError(
                f"bad steps from step {before} on, and no good checkpoint before them",
                expected=f"a checkpoint in {self.folder}",
                next="lower optim.lr, or set checkpoint.every=",
            )
        choices, config = self.state.choices, self.state.config
        self.load(Path(found))
        self.state.choices, self.state.config = choices, config
        if self.metrics is not None and self.world.main:
            self.metrics.restart(self.state.step)
        return self.state.step

    def record(self, event: Mapping[str, Any], file: str = "guard.json") -> None:
        """Append to ``guard.json`` (what was skipped and why, with the documents) or ``alarms.json``."""
        if not self.world.main:
            return
        path = self.run / file
        events = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        write_json(path, [*events, _finite(event)])


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def say_best(state: State, folder: Path, *, used: bool) -> None:
    """A word where the last weights are clearly worse than the best ones on the way; `used`: those are what
    the run ends with."""
    if state.best is None or state.last_val is None:
        return
    if "val_loss" not in state.last_val or "val_loss" not in state.best:
        return
    last, best, step = state.last_val["val_loss"], state.best["val_loss"], int(state.best["step"])
    at = folder / checkpoint.name_of(step)
    if used:
        if 0 < step < state.step and at.is_dir():
            log.say(f"weights of step {step} of {state.step}, where validation loss was lowest ({best:.4f})")
    elif last > 1.01 * best and step != state.step:
        log.warn(f"validation loss was lower before ({best:.4f} at step {step}, kept in {at})")
