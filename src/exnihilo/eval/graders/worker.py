"""Graders that may hang run in processes of their own, which can be killed and are started anew.

::

    served = Served("my.py", "grade")
    served.many(examples, completions, seconds=5)       # list of Graded
    served.close()

A process serves one completion after another; a few run at once. One that does not answer in time, or dies,
costs its own completion and nothing else. This is no sandbox: it holds against accidents of a grader that the
user trusts. Code that a model wrote runs in `sandbox`.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from exnihilo.errors import UsageError
from exnihilo.eval.graders.base import Graded, graded, took

START_SECONDS = 120.0  # to import what the grader needs
WORKERS = 4  # at most, and not more than there are cores
_SCRIPT = str(Path(__file__).with_name("_served.py"))
_ENDED = {"raised": "its process ended"}


class Served:
    """A function of a file, served by processes.

    Args:
        file: a Python file.
        function: its name in it.
        argument: where given, ``function(argument)`` makes the grader; plain values.
        workers: processes at once; default: cores, at most 4.
    """

    def __init__(
        self, file: str | Path, function: str, argument: Any = None, *, workers: int | None = None
    ) -> None:
        self.file, self.function, self.argument = str(file), function, argument
        self.workers = workers or max(1, min(WORKERS, os.cpu_count() or 1))
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()

    def check(self) -> None:
        """Start a process, so that a file that cannot be loaded is known at once.

        Raises:
            UsageError: with what the import raised.
        """
        self._idle.put(self._start())

    def many(
        self, examples: Sequence[Mapping[str, Any]], completions: Sequence[str], *, seconds: float
    ) -> list[Graded]:
        """One `Graded` a completion, in order."""

        def one(pair: tuple[Mapping[str, Any], str]) -> Graded:
            return self._one(*pair, seconds)

        pairs = list(zip(examples, completions, strict=True))
        at_once = min(self.workers, len(pairs))
        if at_once <= 1:
            return [one(pair) for pair in pairs]
        with ThreadPoolExecutor(at_once, thread_name_prefix="grader") as pool:
            return list(pool.map(one, pairs))

    def _one(self, example: Mapping[str, Any], completion: str, seconds: float) -> Graded:
        request = json.dumps({"example": example, "completion": completion}, default=str) + "\n"
        try:
            process = self._idle.get_nowait()
        except queue.Empty:
            try:
                process = self._start()
            except UsageError as error:  # it could be started once; a run goes on without it
                return Graded(None, error.given, failed=True)
        answer = process.ask(request, seconds)
        if answer is None or answer == _ENDED:
            process.close()
            return took(seconds) if answer is None else Graded(None, "its process ended", failed=True)
        self._idle.put(process)
        if "raised" in answer:
            return Graded(None, f"raised {answer['raised']}", failed=True)
        if "wrong" in answer:
            return Graded(None, f"returned {answer['wrong']}, which is no number", failed=True)
        return graded(answer.get("value"))

    def _start(self) -> _Process:
        argument = [] if self.argument is None else [json.dumps(self.argument)]
        process = _Process([self.file, self.function, *argument])
        said = process.ask(None, START_SECONDS)
        if said is None or not said.get("ready"):
            process.close()
            why = "it did not start in time" if said is None else said.get("raised", "its process ended")
            raise UsageError(
                f"the grader {self.function!r} of {self.file} cannot be used: {why}",
                expected=f"def {self.function}(example, completion): ... -> a number or None",
                next="see docs/graders.md",
            )
        return process

    def close(self) -> None:
        """End its processes."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()


class _Process:
    """One process and the thread that speaks with it: a pipe that blocks never blocks the caller."""

    def __init__(self, arguments: list[str]) -> None:
        # -P: the folder of our script, whose files have names of the standard library, is not searched
        self._process = subprocess.Popen(
            [sys.executable, "-P", _SCRIPT, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=True,
        )
        self._asked: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._told: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        thread = threading.Thread(
            target=_speak, args=(self._process, self._asked, self._told), daemon=True, name="grader-pipe"
        )
        thread.start()
        self._end = weakref.finalize(self, _close, self._process, self._asked, thread)

    def ask(self, request: str | None, seconds: float) -> dict[str, Any] | None:
        """The answer to a request line (None: what it says at its start); None where it takes longer."""
        if request is not None:
            self._asked.put(request)
        try:
            return self._told.get(timeout=seconds)
        except queue.Empty:
            return None

    def close(self) -> None:
        self._end()


def _speak(
    process: subprocess.Popen[str],
    asked: queue.SimpleQueue[str | None],
    told: queue.SimpleQueue[dict[str, Any]],
) -> None:
    assert process.stdin is not None and process.stdout is not None
    try:
        while True:
            line = process.stdout.readline()
            told.put(json.loads(line) if line else _ENDED)
            if not line:
                return
            request = asked.get()
            if request is None:
                return
            process.stdin.write(request)
            process.stdin.flush()
    except (OSError, ValueError):  # it was killed, or wrote what is no answer
        told.put(_ENDED)


def _close(
    process: subprocess.Popen[str], asked: queue.SimpleQueue[str | None], thread: threading.Thread
) -> None:
    asked.put(None)
    process.kill()
    process.wait()
    if thread is not threading.current_thread():
        thread.join(5)
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):  # what was not yet written cannot be any more
            if pipe is not None:
                pipe.close()
