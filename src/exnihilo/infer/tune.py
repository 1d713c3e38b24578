"""Threads and path of the decode step, by measurement, once for a model's shape on a machine.

Used by `native.NativeStep`, `step.choose` and `encoder.swift`::

    tune.threads(step, slots=32, about=b"...")     # [(1, 1), (2147483647, 2)]: one row: 1 thread; more: 2
    tune.slower(step, model)                       # whether the model itself would be faster
    tune.better(ways, about=b"...")                # whether "native" is faster than "torch"

More threads are not always faster: a small model's step is over before a second one has woken up, and beside
busy cores the slowest thread decides. What was found is kept in the cache folder under a hash of the model's
shape, the library (source, compiler, processor) and the number of threads that may be used, and is said once.

Key: R rows of a forward
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from exnihilo import log
from exnihilo.parallel.notes import cache_folder

if TYPE_CHECKING:
    from exnihilo.infer.native import NativeStep
    from exnihilo.model.model import Model

_ROUNDS = 5
_BUDGET = 0.15  # seconds for a number of rows and threads
_GAIN = 0.95  # more threads must take at most this share of the time


def _counts(most: int) -> list[int]:
    """1, 2, 4 ... and the most there may be."""
    return sorted({*(1 << i for i in range(most.bit_length()) if 1 << i <= most), most})


def _least(ways: dict[Any, Callable[[], object]]) -> dict[Any, float]:
    """Seconds of each way, the best of a few rounds in turns."""
    best = dict.fromkeys(ways, float("inf"))
    for key, way in ways.items():
        way()
        begun = time.perf_counter()
        way()
        best[key] = time.perf_counter() - begun
    for _ in range(_ROUNDS):
        for key, way in ways.items():
            again = max(1, min(20, int(_BUDGET / _ROUNDS / max(best[key], 1e-6))))
            for _ in range(again):
                begun = time.perf_counter()
                way()
                best[key] = min(best[key], time.perf_counter() - begun)
    return best


def _file(about: bytes, most: int) -> Path:
    name = hashlib.sha256(about + f"\0{most}\0{torch.__version__}".encode()).hexdigest()[:24]
    return cache_folder() / "native" / f"threads-{name}.json"


def _read(path: Path, field: str) -> Any:
    try:
        return json.loads(path.read_text()).get(field)
    except (OSError, ValueError, AttributeError):  # never measured, or an unreadable note: measure anew
        return None


def _write(path: Path, field: str, value: Any) -> None:
    """Add to a note; a cache that cannot be written is no loss."""
    try:
        note = json.loads(path.read_text())
    except (OSError, ValueError):
        note = {}
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        aside.write_text(json.dumps({**note, field: value}))
        os.replace(aside, path)
    except OSError:
        return


def threads(step: NativeStep, slots: int, about: bytes) -> list[tuple[int, int]]:
    """Threads for forwards of up to so many rows, rising; measured where that was not done before.

    Args:
        step: with as many threads as may be used; its cache holds nothing yet.
        slots: rows that a forward of single tokens has at most.
        about: what names the model's shape and the machine.
    """
    most = step.threads
    if most == 1:
        return [(1 << 30, 1)]
    path = _file(about, most)
    step.note = path
    sizes = [1, *([min(slots, 16)] if slots > 1 else [])]
    found: dict[int, int] = {}
    for rows in sizes:
        kept = _read(path, str(rows))
        if isinstance(kept, dict) and kept.get("threads") in _counts(most):
            found[rows] = kept["threads"]
            continue

        def way(count: int, rows: int = rows) -> Callable[[], object]:
            def forward() -> None:
                step.use(count)
                step.forward([0] * rows, range(rows), [0] * rows, range(rows))

            return forward

        seconds = _least({count: way(count) for count in _counts(most)})
        best = 1
        for count in _counts(most):
            if seconds[count] < _GAIN * seconds[best]:
                best = count
        found[rows] = best
        took = {str(count): round(1000 * s, 4) for count, s in seconds.items()}
        _write(path, str(rows), {"threads": best, "ms": took})
        said = ", ".join(f"{ms} ms with {count}" for count, ms in took.items())
        log.say(f"decode step of {rows} row{'s' * (rows > 1)}: {said}; threads: {best}")
    rising = sorted(found)
    return [*((r, found[r]) for r in rising[:-1]), (1 << 30, found[rising[-1]])]


def slower(step: NativeStep, model: Model) -> bool:
    """Whether the model itself takes less time for a token than the native step, by measurement."""
    from exnihilo.infer.step import ModelStep

    if step.note is None:  # one thread: nothing was measured, nothing is written
        return False
    kept = _read(step.note, "torch")
    if not isinstance(kept, bool):
        other = ModelStep(model, 1)
        seconds = _least(
            {
                "native": lambda: step.forward([0], [0], [0], [0]),
                "torch": lambda: other.forward([0], [0], [0], [0]),
            }
        )
        kept = seconds["torch"] < seconds["native"]
        _write(step.note, "torch", kept)
        path, ratio = ("torch", seconds["native"] / seconds["torch"])
        if not kept:
            path, ratio = "native", 1 / ratio
        log.say(f"decode path: {path}, {ratio:.1f} times as fast as the other")
    return kept


def better(ways: Callable[[], dict[str, Callable[[], object]]], about: bytes) -> bool:
    """Whether the way "native" takes less time than "torch"; measured where that was not done before.

    Args:
        ways: makes both, where they must be measured.
        about: what names the shape and the machine.
    """
    path = _file(about, torch.get_num_threads())
    kept = _read(path, "native")
    if not isinstance(kept, bool):
        seconds = _least(ways())
        kept = seconds["native"] < seconds["torch"]
        _write(path, "native", kept)
        fast, slow = ("native", "torch") if kept else ("torch", "native")
        log.say(f"encoder path: {fast}, {seconds[slow] / seconds[fast]:.1f} times as fast as {slow}")
    return kept
