"""Graders that may hang run in processes of their own, which can be killed and are started anew.

::

    served = Served("my.py", "grade")
    served.many(examples, completions, seconds=5)       # list of Graded
    served.close()

A process serves one completion after another; a few run at once. Several completions are written to a process
at once, so that cheap graders do not wait for pipes and threads (64 completions of a one-line grader: 2 ms
instead of 18). One that does not answer in time, or dies, costs its own completion and nothing else: what
was written behind it is asked anew. This is no sandbox: it holds against accidents of a grader that the
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
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from exnihilo.errors import UsageError
from exnihilo.eval.graders.base import Graded, graded, took

START_SECONDS = 120.0  # to import what the grader needs
WORKERS = 4  # at most, and not more than there are cores
AT_ONCE, ROOM = 16, 1 << 14  # requests, and their bytes, that are written ahead: a pipe holds four times that
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

        requests = [
            json.dumps({"example": e, "completion": c}, default=str) + "\n"
            for e, c in zip(examples, completions, strict=True)
        ]
        found: dict[int, Graded] = {}
        waiting = deque(range(len(requests)))
        lock = threading.Lock()
        at_once = max(1, min(self.workers, len(requests)))
        most = max(1, min(AT_ONCE, -(-len(requests) // (4 * at_once))))  # all end at about the same time

        def work() -> None:
            while True:
                part: list[int] = []
                with lock:
                    room = ROOM
                    while waiting and len(part) < most and (not part or len(requests[waiting[0]]) <= room):
                        room -= len(requests[waiting[0]])
                        part.append(waiting.popleft())
                if not part:
                    return
                while part:
                    part = self._some(part, requests, found, seconds)

        if at_once == 1:
            work()
        else:
            with ThreadPoolExecutor(at_once, thread_name_prefix="grader") as pool:
                for done in [pool.submit(work) for _ in range(at_once)]:
                    done.result()
        return [found[i] for i in range(len(requests))]

    def _some(
        self, part: Sequence[int], requests: Sequence[str], found: dict[int, Graded], seconds: float
    ) -> list[int]:
        """Ask one process for some of the requests; those that it did not come to are returned."""
        try:
            process = self._idle.get_nowait()
        except queue.Empty:
            try:
                process = self._start()
            except UsageError as error:  # it could be started once; a run goes on without it
                found[part[0]] = Graded(None, error.given, failed=True)
                return list(part[1:])
        process.send([requests[i] for i in part])
        for place, number in enumerate(part):
            answer = process.answer(seconds)
            if answer is None or answer == _ENDED:
                process.close()
                ended = Graded(None, "its process ended", failed=True)
                found[number] = took(seconds) if answer is None else ended
                return list(part[place + 1 :])
            found[number] = _read(answer)
        self._idle.put(process)
        return []

    def _start(self) -> _Process:
        argument = [] if self.argument is None else [json.dumps(self.argument)]
        process = _Process([self.file, self.function, *argument])
        said = process.answer(START_SECONDS)
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


def _read(answer: Mapping[str, Any]) -> Graded:
    """An answer line as a `Graded`."""
    if "raised" in answer:
        return Graded(None, f"raised {answer['raised']}", failed=True)
    if "wrong" in answer:
        return Graded(None, f"returned {answer['wrong']}, which is no number", failed=True)
    return graded(answer.get("value"))


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
        self._asked: queue.SimpleQueue[list[str] | None] = queue.SimpleQueue()
        self._told: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        thread = threading.Thread(
            target=_speak, args=(self._process, self._asked, self._told), daemon=True, name="grader-pipe"
        )
        thread.start()
        self._end = weakref.finalize(self, _close, self._process, self._asked, thread)

    def send(self, requests: list[str]) -> None:
        """Ask; there are as many answers, in order."""
        self._asked.put(requests)

    def answer(self, seconds: float) -> dict[str, Any] | None:
        """The next answer (the first: what it says at its start); None where it takes longer."""
        try:
            return self._told.get(timeout=seconds)
        except queue.Empty:
            return None

    def close(self) -> None:
        self._end()


def _speak(
    process: subprocess.Popen[str],
    asked: queue.SimpleQueue[list[str] | None],
    told: queue.SimpleQueue[dict[str, Any]],
) -> None:
    assert process.stdin is not None and process.stdout is not None
    try:
        expected = 1  # what it says at its start
        while True:
            for _ in range(expected):
                line = process.stdout.readline()
                told.put(json.loads(line) if line else _ENDED)
                if not line:
                    return
            requests = asked.get()
            if requests is None:
                return
            process.stdin.write("".join(requests))
            process.stdin.flush()
            expected = len(requests)
    except (OSError, ValueError):  # it was killed, or wrote what is no answer
        told.put(_ENDED)


def _close(
    process: subprocess.Popen[str], asked: queue.SimpleQueue[list[str] | None], thread: threading.Thread
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
