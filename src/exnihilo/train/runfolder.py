"""A run is a folder: made, locked, described, and never silently overwritten.

::

    RUN/config.toml     resolved, each value with its origin
    RUN/metrics.jsonl   one row a step, an evaluation, an event
    RUN/env.json        versions, commit, machine
    RUN/data.json       what the data turned out to be
    RUN/checkpoints/    step-00000100/ ...
    RUN/samples/        texts written on the way

and at the end a Hugging Face folder at its root: model.safetensors, config.json, tokenizer.json and
companions.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from exnihilo import config_layers
from exnihilo.config import RunConfig
from exnihilo.errors import TrainError, UsageError
from exnihilo.train.checkpoint import write_text

LOCK = ".lock"
OURS = (
    "chain.json",
    "config.toml",
    "metrics.jsonl",
    "checkpoints",
    "model.safetensors",
    "config.json",
    "tokenizer.json",
)  # any of these: the folder holds something that must not be overwritten


def default_name(recipe: str) -> str:
    """``runs/RECIPE-TIME``."""
    return f"runs/{recipe.rsplit('.', 1)[-1]}-{time.strftime('%Y%m%d-%H%M%S')}"


def occupied(run: Path) -> list[str]:
    """What of a run (or a model) is in a folder already."""
    return [name for name in OURS if (run / name).exists()]


class Lock:
    """One process at a time in a run folder. The operating system lifts it when the process ends, however
    it ends."""

    def __init__(self, run: Path) -> None:
        self.path = run / LOCK
        self._file: Any = None

    def take(self) -> None:
        """Raises TrainError where another process holds it."""
        self._file = self.path.open("a+", encoding="utf-8")
        try:
            _flock(self._file)
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            self._file = None
            raise TrainError(
                f"{self.path.parent} is in use by {holder}",
                expected="one process at a time in a run folder",
                next="wait for it or stop it, or choose another run=DIR",
            ) from error
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {platform.node()}")
        self._file.flush()

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _flock(file: Any) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        return
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def open_folder(run: Path, *, resume: bool, force: bool) -> Lock:
    """Make or reopen a run folder and lock it.

    Raises:
        UsageError: it holds a run already, and neither `resume` nor `force` is given; or it is no folder.
        TrainError: it cannot be written, or another process works in it.
    """
    if run.exists() and not run.is_dir():
        raise UsageError(f"run={run} is a file", expected="a folder", next="choose another run=DIR")
    if resume and not run.is_dir():
        raise UsageError(
            f"{run} does not exist", expected="the folder of a run that was cut", next="check run=DIR"
        )
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = Lock(run)
        lock.take()
    except OSError as error:
        raise TrainError(
            f"the run folder {run} cannot be written: {error.strerror or error}",
            expected="a folder with write permission",
            next="choose another run=DIR, or change its permissions",
        ) from error
    found = [] if resume else occupied(run)
    if found and not force:
        lock.release()
        known = {"chain.json", "config.toml"} & set(found)
        raise UsageError(
            f"{run} holds a {'run' if known else 'model or a tokenizer'} already ({', '.join(found)})",
            expected="a new or empty folder",
            next=(f"go on with it: --resume run={run}; or " if known else "")
            + "choose another run=DIR; or --force, which moves what is there aside",
        )
    if found:
        _set_aside(run, found)
    return lock


def names(run: Path) -> list[str]:
    """What is in a folder."""
    return sorted(path.name for path in run.iterdir())


def abandon(run: Path, before: Collection[str]) -> None:
    """A start that failed before its configuration was written leaves no file behind that would stand in the
    way of the next one.

    Args:
        before: names that were there already.
    """
    if (run / "config.toml").exists():
        return
    for path in run.iterdir():
        if path.name not in before and path.is_file():
            path.unlink(missing_ok=True)


def _set_aside(run: Path, found: list[str]) -> None:
    """`force` starts anew and destroys nothing: the old run moves into ``RUN/old-N``."""
    number = next(n for n in range(1, 10**6) if not (run / f"old-{n}").exists())
    old = run / f"old-{number}"
    old.mkdir()
    for path in list(run.iterdir()):
        if path.name != LOCK and not path.name.startswith("old-"):
            os.rename(path, old / path.name)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; TrainError where the disk is full or the folder cannot be written."""
    try:
        write_text(path, json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")
    except OSError as error:
        raise TrainError(
            f"{path} cannot be written: {error.strerror or error}",
            expected="a folder with room",
            next="free some space",
        ) from error


def write_config(run: Path, config: RunConfig, origins: Mapping[str, str]) -> None:
    """``config.toml``: loads back to the same configuration."""
    try:
        write_text(run / "config.toml", config_layers.dump(config, origins))
    except OSError as error:
        raise TrainError(
            f"{run}/config.toml cannot be written: {error.strerror or error}", expected="a folder with room"
        ) from error


def environment(device: str) -> dict[str, Any]:
    """Versions and machine, for ``env.json``."""
    import torch

    packages = {}
    for name in ("exnihilo", "torch", "numpy", "tokenizers", "safetensors", "pyarrow"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "unknown"
    out: dict[str, Any] = {
        "python": platform.python_version(),
        "packages": packages,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device,
        "workers": int(os.environ.get("WORLD_SIZE", "1")),
        "commit": commit(),
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    if device.startswith("cuda"):
        out["gpu"] = torch.cuda.get_device_name(device)
    return out


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        return platform.processor()
    return platform.processor()


def commit() -> str | None:
    """The commit of this source tree, with ``+`` if it was changed; None outside a checkout."""
    here = Path(__file__).resolve().parents[3]
    if not (here / ".git").exists():
        return None
    try:
        run = ["git", "-C", str(here)]
        head = subprocess.run([*run, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        dirty = subprocess.run([*run, "status", "--porcelain"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "") if head.returncode == 0 else None
