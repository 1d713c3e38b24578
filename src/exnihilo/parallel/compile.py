"""`torch.compile` where it pays back within the run.

A shallow trunk on one worker is compiled whole: norms and residuals fuse across blocks (2.6% less time at 6
layers × 256 on two cores). A deep or sharded one is compiled block by block: equal blocks share one
compilation, so the cost does not grow with depth, and what sharding hooks around a block stays outside.
Whether it pays is an estimate from numbers: what compiling cost on this machine the last time (kept in the
cache folder, by device and torch version; before the first time a cautious constant), what it gained, and
how long the run will take.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from exnihilo.parallel import notes
from exnihilo.parallel.ckpt import recomputed
from exnihilo.parallel.fsdp import blocks

_EAGER = "_eager_forward"  # where a compiled module keeps its own forward
WHOLE = 12  # blocks of a trunk that is compiled as one at most


@dataclass(frozen=True)
class Cost:
    """Seconds that compiling takes, and the share of a step's time that it saves."""

    seconds: float
    saves: float
    measured: bool = False


# before anything was measured here: cautious, so that a short run never waits for a compiler
FIRST = {"cpu": Cost(60.0, 0.05), "cuda": Cost(60.0, 0.15)}
LEAST = 30.0  # seconds to reckon with, however quick it was: torch's own cache knew that code already


@dataclass(frozen=True)
class Decision:
    """Whether to compile, and why, in numbers."""

    on: bool
    why: str


def unavailable(device: torch.device) -> str | None:
    """Why compiling cannot work here; None if it can."""
    if device.type == "cpu":
        compiler = os.environ.get("CXX") or next(
            (c for c in ("g++", "clang++", "cl") if shutil.which(c)), None
        )
        if compiler is None or shutil.which(compiler) is None:
            return "there is no C++ compiler (g++, clang++ or $CXX)"
        return None
    if device.type == "cuda":
        return None if importlib.util.find_spec("triton") else "the package triton is not installed"
    return f"it is not supported on {device.type}"


def known(device: torch.device) -> Cost:
    """The cost measured on this machine, else the cautious constant."""
    found = notes.read(notes.note(device, "compile"), "seconds", "saves")
    return FIRST.get(device.type, FIRST["cpu"]) if found is None else Cost(*found, measured=True)


def remember(device: torch.device, seconds: float, saves: float) -> None:
    """Keep a measurement for later runs; a cache that cannot be written is no loss.

    The longest time stands, and at least `LEAST`: torch's own cache makes a second compilation of the same
    code quick, but not the first of another.
    """
    before = known(device)
    seconds = max(seconds, LEAST, before.seconds if before.measured else 0.0)
    notes.keep(notes.note(device, "compile"), asdict(Cost(seconds, saves, True)))


def decide(setting: Literal["auto", "on", "off"], device: torch.device, run_seconds: float) -> Decision:
    """Compile or not, for a run that would take about `run_seconds` without.

    Raises nothing for ``auto``; ``on`` where it cannot work is for the caller to refuse (see `unavailable`).
    """
    if setting == "off":
        return Decision(False, "off (asked for)")
    missing = unavailable(device)
    if setting == "on":
        return Decision(missing is None, "on (asked for)" if missing is None else f"off: {missing}")
    if missing is not None:
        return Decision(False, f"off: {missing}")
    cost = known(device)
    saved = run_seconds * cost.saves
    basis = "measured here before" if cost.measured else "not measured here yet"
    numbers = f"costs about {cost.seconds:.0f} s, saves about {saved:.0f} s of {run_seconds:.0f} s ({basis})"
    return Decision(saved > 1.5 * cost.seconds, ("on: " if saved > 1.5 * cost.seconds else "off: ") + numbers)


def compile_blocks(model: nn.Module) -> int:
    """Compile the trunk's forward in place, whole or by block; parameter names do not change.

    The forward alone, not the module's call: what sharding hooks around it stays outside of the graph.

    Returns:
        How many modules were compiled.
    """
    found = blocks(model)
    trunk = getattr(model, "trunk", None)
    plain = not any(block._forward_pre_hooks or "forward" in block.__dict__ for block in found)
    if isinstance(trunk, nn.Module) and plain and len(found) <= WHOLE:
        found = [trunk]
    for module in found:
        forward: Any = module.forward
        module.__dict__[_EAGER] = forward
        if isinstance(forward, partial) and forward.func is recomputed:  # recomputing stays outside too
            module.forward = partial(recomputed, torch.compile(forward.args[0], dynamic=False))
        else:
            module.forward = torch.compile(forward, dynamic=False)
    return len(found)


def _parts(model: nn.Module) -> list[nn.Module]:
    trunk = getattr(model, "trunk", None)
    return [*([trunk] if isinstance(trunk, nn.Module) else []), *blocks(model)]


def compiled(model: nn.Module) -> bool:
    """Whether any part of a model is compiled."""
    return any(_EAGER in module.__dict__ for module in _parts(model))


def undo(model: nn.Module) -> None:
    """Back to eager."""
    for module in _parts(model):
        if _EAGER in module.__dict__:
            eager = module.__dict__.pop(_EAGER)
            if isinstance(eager, partial):
                module.forward = eager
            else:  # the class's own method again
                module.__dict__.pop("forward", None)
    torch.compiler.reset()
