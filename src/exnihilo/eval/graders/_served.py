"""The process that a grader is run in; started by `worker`, by path. Imports nothing of this package.

    python _served.py FILE FUNCTION [ARGUMENT]      # ARGUMENT, JSON: FUNCTION(ARGUMENT) makes the grader

Reads one JSON line a completion, ``{"example": ..., "completion": ...}``, and answers with one:
``{"value": ...}`` or ``{"raised": "..."}``. The first line says ``{"ready": true}``, or why it is not. What
the grader prints goes to standard error.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO


def main(argv: list[str]) -> int:
    """Serve until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)  # a grader's own prints must not be taken for its answers
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    try:
        grade = _load(argv[0], argv[1], argv[2:])
    except BaseException as error:  # whatever a user's file does while it is imported
        _say(answers, {"ready": False, "raised": _told(error)})
        return 1
    _say(answers, {"ready": True})
    for line in requests:
        request = json.loads(line)
        try:
            found = _plain(grade(request["example"], request["completion"]))
        except BaseException as error:  # SystemExit too: the next completion is not to blame
            found = {"raised": _told(error)}
        _say(answers, found)
    return 0


def _load(file: str, function: str, argument: list[str]) -> Callable[[dict[str, Any], str], Any]:
    sys.path.insert(0, os.path.dirname(os.path.abspath(file)))
    spec = importlib.util.spec_from_file_location("exnihilo_own_grader", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    if argument:
        sys.path.pop(0)  # our own file: its neighbours have the names of modules of others
    spec.loader.exec_module(module)
    found = getattr(module, function, None)
    if not callable(found):
        known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise AttributeError(f"no function {function!r}; there is: {', '.join(known) or 'none'}")
    return found(json.loads(argument[0])) if argument else found  # type: ignore[return-value]


def _plain(value: Any) -> dict[str, Any]:
    """A grader's result as JSON; one that is no number is named by its type."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if value is None or isinstance(value, (bool, int, float)):
        return {"value": value if value is None else float(value)}
    try:
        return {"value": float(value)} if hasattr(value, "__float__") else {"wrong": _named(value)}
    except (TypeError, ValueError):
        return {"wrong": _named(value)}


def _named(value: Any) -> str:
    return f"{value!r:.60} ({type(value).__name__})"


def _told(error: BaseException) -> str:
    where, frame = "", error.__traceback__
    while frame is not None:
        name = os.path.basename(frame.tb_frame.f_code.co_filename)
        if name != os.path.basename(__file__) and not name.startswith("<"):
            where = f" (line {frame.tb_lineno} of {name})"
        frame = frame.tb_next
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300].rstrip(": ") + where


def _say(stream: TextIO, value: dict[str, Any]) -> None:
    stream.write(json.dumps(value) + "\n")
    stream.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
