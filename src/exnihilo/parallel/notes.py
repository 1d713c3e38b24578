"""What was measured on this machine before, kept in the cache folder by device and torch version."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def cache_folder() -> Path:
    """Where measurements are kept: $EXNIHILO_CACHE, else ~/.cache/exnihilo."""
    return Path(os.environ.get("EXNIHILO_CACHE") or Path.home() / ".cache" / "exnihilo")


def note(device: torch.device, kind: str) -> Path:
    """The file of one kind of measurement, with as many threads as are used now."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    safe = "".join(c if c.isalnum() else "-" for c in f"{device.type}-{name}-torch{torch.__version__}")
    return cache_folder() / kind / f"{safe}-{torch.get_num_threads()}.json"


def read(path: Path, *names: str) -> tuple[float, ...] | None:
    """The numbers of a note; None where nothing was measured, or the note cannot be read: measure anew."""
    try:
        data = json.loads(path.read_text())
        return tuple(float(data[name]) for name in names)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(path: Path, values: Mapping[str, Any]) -> None:
    """Write a note, whole or not at all; a cache that cannot be written is no loss."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}")
        aside.write_text(json.dumps(dict(values)))
        os.replace(aside, path)
    except OSError:
        return
