"""Atomic checkpoints: whole or not there, and known to be what was written.

::

    save(run / "checkpoints", 100, {"model": {...}, "optim": {...}}, state_json)
    found = newest(run / "checkpoints")     # the latest that verifies; broken ones are named and skipped
    tensors = read(found, "model")

Written aside in the same folder, each file and then the folder fsynced, then renamed: a rename is the one
step that a file system does as a whole. ``manifest.json`` holds every file's size and SHA-256. Tensors are
full (not sharded), so that another number of workers can go on. safetensors and JSON only: reading a
checkpoint runs no code.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from exnihilo import log
from exnihilo.errors import CheckpointError

MANIFEST = "manifest.json"
PREFIX = "step-"
ASIDE = ".writing-"


def name_of(step: int) -> str:
    """The folder of a step's checkpoint.

    >>> name_of(100)
    'step-00000100'
    """
    return f"{PREFIX}{step:08d}"


def sha256(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Make a file's or folder's content durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a small file atomically: aside, fsync, rename."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def save(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write a checkpoint; returns its folder.

    Args:
        folder: ``RUN/checkpoints``.
        tensors: file stem -> name -> full tensor on the CPU.
        state: JSON.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; what was half written is removed,
            and earlier checkpoints are as they were.
    """
    target = folder / name_of(step)
    aside = folder / f"{ASIDE}{name_of(step)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        for stem, values in tensors.items():
            if values:
                _put(
                    aside / f"{stem}.safetensors", lambda p, v=values: save_file(dict(v), p, {"format": "pt"})
                )
        text = json.dumps(state, indent=1)
        _put(aside / "state.json", lambda p: p.write_text(text, encoding="utf-8"))
        files = {p.name: {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in sorted(aside.iterdir())}
        manifest = json.dumps({"step": step, "files": files}, indent=1)
        _put(aside / MANIFEST, lambda p: p.write_text(manifest, encoding="utf-8"))
        fsync(aside)
        if target.exists():  # a broken one, or one from before a rewind
            shutil.rmtree(target)
        os.rename(aside, target)
        fsync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise save_error(folder, step, error) from error
    return target


def _put(path: Path, write: Callable[[Path], Any]) -> None:
    write(path)
    fsync(path)


def save_error(folder: Path, step: int, error: Exception) -> CheckpointError:
    """The one message for a disk that is full, a quota, a folder that cannot be written."""
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "No space" in str(
        error
    )
    earlier = steps(folder)
    kept = f"checkpoint {earlier[-1]} is kept" if earlier else "there is no earlier checkpoint"
    return CheckpointError(
        f"the checkpoint of step {step} cannot be saved in {folder}: "
        + ("the disk is full" if full else str(error)),
        expected="a folder with room that can be written",
        next=f"free some space, then resume ({kept})",
    )


def steps(folder: Path) -> list[int]:
    """Steps of the checkpoints there are, whole or not, in order."""
    if not folder.is_dir():
        return []
    found = (
        p.name.removeprefix(PREFIX) for p in folder.iterdir() if p.name.startswith(PREFIX) and p.is_dir()
    )
    return sorted(int(name) for name in found if name.isdigit())


def problem(path: Path) -> str | None:
    """What is wrong with a checkpoint; None if it is what was written."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, dict[str, Any]] = manifest["files"]
        if "state.json" not in files or "model.safetensors" not in files:
            return "the manifest lacks files"
        for name, entry in files.items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            size = file.stat().st_size
            if size != entry["bytes"]:
                return f"{name} has {size} bytes of {entry['bytes']}"
            if sha256(file) != entry["sha256"]:
                return f"{name} was altered (its SHA-256 differs from the manifest's)"
    except FileNotFoundError:
        return "manifest.json is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it cannot be read: {error}"
    return None


def newest(folder: Path, *, accept: Callable[[dict[str, Any]], bool] = lambda state: True) -> Path | None:
    """The latest checkpoint that verifies (and whose state is accepted); broken ones are named and skipped.

    Raises:
        CheckpointError: there are checkpoints, and every one of them is broken.
    """
    broken: list[str] = []
    found = steps(folder)
    for step in reversed(found):
        path = folder / name_of(step)
        wrong = problem(path)
        if wrong is not None:
            broken.append(f"{path.name}: {wrong}")
            log.warn(f"checkpoint {path} is broken ({wrong}); the one before it is taken")
        elif accept(read_state(path)):
            return path
    if broken and len(broken) == len(found):
        raise CheckpointError(
            f"no checkpoint in {folder} is whole: " + "; ".join(broken),
            expected="at least one whose files match its manifest",
            next="restore one from a backup, or start the run anew in another folder",
        )
    return None


def read_state(path: Path) -> dict[str, Any]:
    """``state.json`` of a checkpoint."""
    return json.loads((path / "state.json").read_text(encoding="utf-8"))


def read(path: Path, stem: str) -> dict[str, Tensor]:
    """Tensors of one file of a verified checkpoint; empty where it has none of that name."""
    file = path / f"{stem}.safetensors"
    if not file.exists():
        return {}
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{file} cannot be read: {error}",
            expected="a safetensors file",
            next="take an earlier checkpoint",
        ) from error


def rotate(folder: Path, keep: int, protect: set[int]) -> None:
    """Remove all but the newest `keep` checkpoints and the protected ones, and what killed writers left."""
    found = steps(folder)
    for step in found[: max(0, len(found) - keep)]:
        if step not in protect:
            _discard(folder / name_of(step))
    sweep(folder)


def _discard(path: Path) -> None:
    """Rename first, so that a kill in between leaves no half-deleted checkpoint under a valid name."""
    gone = path.with_name(f"{ASIDE}gone-{path.name}")
    shutil.rmtree(gone, ignore_errors=True)
    os.rename(path, gone)
    shutil.rmtree(gone, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what a killed writer left aside."""
    for path in folder.glob(f"{ASIDE}*"):
        shutil.rmtree(path, ignore_errors=True)
