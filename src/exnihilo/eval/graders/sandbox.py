"""Runs code that a model wrote, in a process that may do next to nothing, and for a short while.

::

    outcome = run("def double(x): return 2 * x", checks=["double(4)", "double('a')"])
    outcome.values          # ["8", "'aa'"]: reprs of plain values, None where there is none
    outcome.problem         # None, or why it did not come to its end
    outcome.layers          # what contained it: limits, landlock, seccomp, hook

What a process is given: ``python -I -S`` (no environment, no site-packages), an empty folder, a session of
its own, no descriptors but its pipe; limits on processor time, address space, open files, and a file
size of 0.
On Linux the kernel then takes away files (all but reading the standard library), network, processes,
threads and signals (Landlock, seccomp); an audit hook refuses the same in Python. After the time, and after
the output's bound, the whole group is killed.

What it is not: a virtual machine. Where the kernel has neither Landlock nor seccomp (macOS, old kernels,
other processors than x86-64 and aarch64), the audit hook alone stands between the code and the files and
network of this user: it stops accidents and the usual tricks, not an expert. A flaw of the kernel itself is
not contained anywhere. `outcome.layers` says which holds. Never grade code of people you do not trust on a
machine that holds secrets; take a container or a virtual machine for that.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exnihilo.errors import UsageError

_SCRIPT = str(Path(__file__).with_name("_inside.py"))
_START_SECONDS = 10.0  # more than the code's own, for a machine that is busy while the process starts


@dataclass(frozen=True)
class Limits:
    """What the code may take. `seconds` is both processor and wall time; `memory` address space in bytes."""

    seconds: float = 5.0
    memory: int = 512 << 20
    output: int = 1 << 16


@dataclass
class Outcome:
    """What came out. All of it is the word of code that nobody trusts.

    Attributes:
        values: of each check, the repr of its value; None where it raised or was not reached.
        asserts: the asserts ran to their end.
        stdout: what a program printed, where it was run as one.
        problem: why it did not come to its end: an exception, the time, the memory, too much output.
        layers: what contained it.
    """

    values: list[str | None]
    asserts: bool = False
    stdout: str | None = None
    problem: str | None = None
    layers: list[str] = field(default_factory=list)


def available() -> bool:
    """Whether this system can contain code at all (POSIX)."""
    return os.name == "posix"


def run(
    source: str,
    *,
    checks: Sequence[str] = (),
    asserts: str = "",
    stdin: str | None = None,
    limits: Limits | None = None,
) -> Outcome:
    """Run code, and what is asked of it.

    Args:
        source: the code: a module for `checks` and `asserts`, a program with `stdin`.
        checks: expressions over the module's names.
        asserts: statements that run after it, in its names, in the same process: code that means to can fake
            their success; it cannot fake the values that checks are compared with outside.
        stdin: run it as a program with this input.
        limits: what it may take.

    Raises:
        UsageError: this system cannot contain code.
    """
    if not available():
        raise UsageError(
            f"code cannot be contained on {sys.platform}", expected="Linux or macOS",
            next="grade in a container, or use another grader",
        )  # fmt: skip
    limits = limits or Limits()
    job = {
        "source": source, "checks": list(checks), "asserts": asserts, "stdin": stdin,
        "limits": {"memory": limits.memory, "seconds": limits.seconds, "output": limits.output},
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="exnihilo-", ignore_cleanup_errors=True) as empty:
        raw, problem = _talk(json.dumps(job).encode(), empty, limits)
    return _read(raw, problem, len(checks))


def _talk(job: bytes, folder: str, limits: Limits) -> tuple[bytes, str | None]:
    """(what the process wrote, why it was ended); never waits longer than the limits say."""
    kept = {k: v for k, v in os.environ.items() if k in ("LD_LIBRARY_PATH", "SYSTEMROOT")}
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", _SCRIPT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=kept,
        start_new_session=True,
        close_fds=True,
    )
    assert process.stdin is not None and process.stdout is not None
    most = limits.output + 65_536  # the answers stand around the output
    read, problem, sent = bytearray(), None, 0
    begun = time.monotonic()
    end, started = begun + _START_SECONDS + limits.seconds, False
    try:
        with selectors.DefaultSelector() as pipes:
            os.set_blocking(process.stdin.fileno(), False)
            os.set_blocking(process.stdout.fileno(), False)
            pipes.register(process.stdin, selectors.EVENT_WRITE)
            pipes.register(process.stdout, selectors.EVENT_READ)
            while problem is None:
                left = end - time.monotonic()
                if left <= 0:
                    problem = f"took longer than {limits.seconds:g} s"
                    break
                for key, _ in pipes.select(left):
                    if key.fileobj is process.stdin:
                        try:
                            sent += os.write(process.stdin.fileno(), job[sent : sent + 65_536])
                        except BlockingIOError:
                            continue
                        except OSError:
                            sent = len(job)
                        if sent >= len(job):
                            pipes.unregister(process.stdin)
                            process.stdin.close()
                        continue
                    piece = os.read(process.stdout.fileno(), 65_536)
                    read += piece
                    if not piece:
                        return bytes(read), None
                    if len(read) > most:
                        problem = "wrote too much output"
                    if not started:  # its time begins when it has started
                        started, end = True, time.monotonic() + limits.seconds
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
    return bytes(read), problem


def _read(raw: bytes, problem: str | None, checks: int) -> Outcome:
    out = Outcome([None] * checks, problem=problem)
    first: str | None = None
    finished = False
    for line in raw.decode("utf-8", "replace").splitlines():
        said = _line(line)
        number, value = said.get("check"), said.get("value")
        if isinstance(number, int) and 0 <= number < checks:
            if isinstance(value, str):
                out.values[number] = value
            else:
                first = first or f"check {number + 1} raised {said.get('raised')}"
        elif "layers" in said and not out.layers:
            out.layers = [str(layer) for layer in said["layers"]] if isinstance(said["layers"], list) else []
        elif isinstance(said.get("stdout"), str):
            out.stdout = said["stdout"]
        elif said.get("asserts") is True:
            out.asserts = True
        elif "raised" in said:
            first = first or f"raised {said['raised']}"
        elif said.get("done") is True:
            finished = True
    if out.problem is None:
        out.problem = first or (
            None if finished else "it ended itself before its end, or was ended by a limit"
        )
    return out


def _line(line: str) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def literal(text: str) -> Any:
    """A plain value from its repr.

    Raises:
        ValueError: it is none.

    >>> literal("[1, (2, 'a')]")
    [1, (2, 'a')]
    """
    try:
        return ast.literal_eval("set()" if text == "frozenset()" else text)
    except (SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text:.60!r} is no plain value") from error
