"""Files that are either there whole or not there at all: written aside, forced to disk, then renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exnihilo.errors import ModelError


def write(folder: Path, makers: dict[str, Callable[[Path], None]]) -> None:
    """Write several files: all aside first, so that a full disk leaves what was there before untouched.

    Args:
        folder: made if absent.
        makers: file name -> a function that writes the file to the path it is given.
    """
    aside: dict[str, Path] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, make in makers.items():
            aside[name] = path = folder / f".{name}.{os.getpid()}.part"
            path.touch()
            mode = path.stat().st_mode  # as the umask says; some writers leave 0600
            make(path)
            path.chmod(mode)
            _sync(path)
        for name, path in aside.items():
            os.replace(path, folder / name)
        _sync(folder)
    except OSError as error:
        raise ModelError(
            f"cannot write {folder}: {error.strerror or error}",
            expected="a writable folder on a disk with room",
            next="free some space or choose another folder; what was there before is unchanged",
        ) from error
    finally:
        for path in aside.values():
            path.unlink(missing_ok=True)


def write_json(value: Any) -> Callable[[Path], None]:
    """A maker for `write` that writes JSON, keys in the given order."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    return lambda path: _text(path, text)


def _text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or an error that names the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{path} does not exist",
            expected="a Hugging Face or run folder, which holds it",
            next="check the path",
        ) from error
    except OSError as error:
        raise ModelError(
            f"cannot read {path}: {error.strerror}",
            expected="a file that may be read",
            next="check its permissions",
        ) from error
    except ValueError as error:  # not JSON, or not UTF-8
        raise ModelError(f"{path} is not JSON: {error}", next="fetch or export the folder again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds a {type(value).__name__}", expected="a JSON object")
    return value
