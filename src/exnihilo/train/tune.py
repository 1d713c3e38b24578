"""Measured choices: CPU threads, micro-batch size, compile. They change speed, never the data's order.

The micro-batch is measured with real forwards and backwards on real rows, within a few seconds; gradients
are thrown away and random states come back. On a CPU the best size is the one whose activations fit the
cache; on a GPU the largest that fits. What was chosen is kept in the checkpoint, so that a resumed run adds
in the same order.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from exnihilo import log
from exnihilo.errors import ConfigError, TrainError
from exnihilo.parallel import compile as compiling
from exnihilo.parallel.mesh import World
from exnihilo.parallel.peak import matmul_flops

SECONDS = 3.0  # for the whole search of a micro-batch size
Forward = Callable[[int], Tensor]  # rows -> a loss to call backward on


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock reads the work and not its queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def threads(given: int | None) -> int:
    """CPU threads to use: as given, as OMP_NUM_THREADS says, else the fastest of a few by measurement."""
    if given is not None:
        return given
    if os.environ.get("OMP_NUM_THREADS"):
        return torch.get_num_threads()
    before = torch.get_num_threads()
    best, speed = before, 0.0
    for count in sorted({before, max(1, before // 2), 1}, reverse=True):
        torch.set_num_threads(count)
        found = matmul_flops(torch.device("cpu"), seconds=0.05, size=512)
        if found > 1.1 * speed:  # fewer threads must be clearly better: other work may have disturbed
            best, speed = count, found
    torch.set_num_threads(before)
    return best


def candidates(rows: int) -> list[int]:
    """Micro-batch sizes to try: halves of the worker's rows, from small to large.

    >>> candidates(12)
    [1, 2, 3, 6, 12]
    """
    found, size = [], rows
    while size >= 1:
        found.append(size)
        if size == 1:
            break
        size = -(-size // 2)
    return sorted(set(found))


def micro_rows(
    forward: Forward, model: nn.Module, world: World, *, rows: int, context: int, seconds: float = SECONDS
) -> tuple[int, float]:
    """The best micro-batch size for `rows` rows a worker and step, and the seconds a row took with it."""
    best, best_pace = 1, float("inf")
    begun = time.perf_counter()
    sizes = candidates(rows)
    if world.device.type == "cpu":  # overheads rule in tiny ones, and far beyond any cache nothing is gained
        useful = [s for s in sizes if 1 << 9 <= s * context <= 1 << 15]
        sizes = useful or [sizes[-1] if sizes[-1] * context < 1 << 9 else sizes[0]]
        timed(forward, model, world, sizes[0])  # not counted: the first forward of all fills caches
    for number, size in enumerate(sizes):
        try:
            first = timed(forward, model, world, size)
            spent = time.perf_counter() - begun
            # the first run of all warms caches up; repeat where there is time
            runs = [first] if number and spent + first > seconds else [timed(forward, model, world, size)]
            if number == 0 and spent + 2 * first < seconds:
                runs.append(timed(forward, model, world, size))
            pace, failed = min(runs) / size, 0.0
        except torch.cuda.OutOfMemoryError:
            pace, failed = float("inf"), 1.0
            torch.cuda.empty_cache()
        # all workers judge by the same numbers: the slowest worker's, and the longest clock
        told = world.gather([pace if not failed else 0.0, failed, time.perf_counter() - begun])
        pace = float("inf") if any(t[1] for t in told) else max(t[0] for t in told)
        if pace < 0.98 * best_pace:
            best, best_pace = size, pace
        elif pace > 1.15 * best_pace:
            break
        if max(t[2] for t in told) > seconds:
            break
    if best_pace == float("inf"):
        raise TrainError(
            f"one row of {context} tokens does not fit into the device's memory",
            expected="a smaller model or context",
            next="model.context=..., model.depth=..., or checkpointing=true",
        )
    return best, best_pace


def timed(forward: Forward, model: nn.Module, world: World, rows: int) -> float:
    """Seconds of one forward and backward; no gradient and no random state is left behind."""
    devices = [world.device] if world.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices, device_type="cuda"):
        synchronize(world.device)
        start = time.perf_counter()
        try:
            forward(rows).backward()
            synchronize(world.device)
            return time.perf_counter() - start
        finally:
            for p in model.parameters():
                p.grad = None


def compile_or_not(
    setting: str,
    forward: Forward,
    model: nn.Module,
    world: World,
    *,
    rows: int,
    row_seconds: float,
    run_seconds: float,
) -> tuple[bool, float]:
    """Compile the blocks if that pays back within the run; says why, in numbers.

    Returns (compiled, seconds a row). A compiler that fails, or code that turns out slower, means eager; with
    ``compile=on`` a failure is an error.
    """
    decision = compiling.decide(setting, world.device, run_seconds)  # type: ignore[arg-type]
    decision = compiling.Decision(**world.first(lambda: vars(decision)))
    if not decision.on:
        if setting == "on":
            raise ConfigError("compile=on cannot be obeyed", expected=decision.why, next="compile=off")
        log.say(f"compile: {decision.why}")
        return False, row_seconds
    compiling.compile_blocks(model)
    begun = time.perf_counter()
    try:
        timed(forward, model, world, rows)
    except Exception as error:  # compilers fail in many ways; eager always works
        compiling.undo(model)
        if setting == "on":
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(
                f"compile=on: the compiler failed: {reason}",
                expected="a working compiler",
                next="compile=auto",
            ) from error
        log.warn(f"compiling failed ({type(error).__name__}); going on without")
        return False, row_seconds
    cost = time.perf_counter() - begun
    now = min(timed(forward, model, world, rows) for _ in range(2)) / rows
    now, cost = (max(t[i] for t in world.gather([now, cost])) for i in (0, 1))
    saves = 1 - now / row_seconds
    if world.main:
        compiling.remember(world.device, cost, saves)
    if saves <= 0 and setting != "on":
        compiling.undo(model)
        log.say(f"compile: off: took {cost:.0f} s and is not faster ({saves:+.0%})")
        return False, row_seconds
    log.say(f"compile: {decision.why}; took {cost:.0f} s, saves {saves:.0%} of a step")
    return True, now
