"""The process that a model's code is run in; started by `sandbox`, by path, with ``-I -S -B``.

It reads one job (JSON, from standard input to its end), gives up what it may do, and only then lets the code
in::

    {"source": "def f(x): ...", "checks": ["f(2)", ...], "asserts": "assert ...", "stdin": null,
     "limits": {"memory": bytes, "seconds": s, "output": bytes}}

and answers in JSON lines: ``{"layers": [...]}``, then ``{"check": n, "value": "repr"}`` or ``{"check": n,
"raised": "..."}`` for each expression, ``{"asserts": true}``, or ``{"stdout": "..."}``. All that comes from
here is the word of code that nobody trusts: values are compared outside.

Layers, from the kernel's to Python's: resource limits; Landlock (no file but the standard library's, to be
read; no TCP); a seccomp filter with a list of the system calls that computing needs (no sockets, no new
process or thread, no signals to others, no file opened for writing); an audit hook that says no to the same
in Python, where the kernel's are missing.
"""

from __future__ import annotations

import ctypes
import importlib.util
import io
import json
import os
import platform
import resource
import struct
import sys
from importlib import abc, machinery
from types import ModuleType
from typing import Any

LONGEST = 20_000  # characters of a value's repr

# system calls that a computation needs, by machine
_CALLS = {
    "x86_64": (0xC000003E, 257, (
        0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 20, 21, 24, 25, 28, 35, 39, 60, 63, 79, 89,
        96, 97, 98, 99, 100, 102, 104, 107, 108, 110, 131, 186, 202, 204, 217, 219, 228, 229, 230, 231, 262,
        267, 269, 270, 271, 273, 318, 332, 334, 439)),
    "aarch64": (0xC00000B7, 56, (
        17, 48, 57, 61, 62, 63, 64, 66, 67, 72, 73, 78, 79, 80, 93, 94, 98, 99, 101, 113, 114,
        115, 123, 124, 128, 132, 134, 135, 139, 153, 160, 165, 169, 172, 173, 174, 175, 176, 177, 178, 179,
        214, 215, 216, 222, 226, 233, 278, 291, 293, 439)),
}  # fmt: skip
_DENIED = (
    *("os.", "socket.", "subprocess.", "shutil.", "ctypes.", "tempfile.", "fcntl.", "mmap.", "resource."),
    *("signal.", "syslog.", "pty.", "gc.", "ftplib.", "http.", "urllib.", "smtplib.", "poplib.", "imaplib."),
    *(
        "nntplib.",
        "telnetlib.",
        "webbrowser.",
        "sqlite3.",
        "winreg.",
        "msvcrt.",
        "_winapi.",
        "_posixsubprocess.",
    ),
    *("sys.addaudithook", "sys.settrace", "sys.setprofile", "sys._current_frames"),
    *("pdb.", "ensurepip."),
)
_BARRED = {
    "ctypes",
    "_ctypes",
    "socket",
    "_socket",
    "subprocess",
    "multiprocessing",
    "fcntl",
    "mmap",
    "resource",
}


class _Memory(abc.SourceLoader):
    """Imports a module from text: no file is written, and none is left to be read."""

    def __init__(self, name: str, source: str) -> None:
        self._name, self._source = name, source.encode("utf-8", "replace")

    def get_filename(self, fullname: str) -> str:
        return f"<{self._name}>"

    def get_data(self, path: str | bytes) -> bytes:
        if path != f"<{self._name}>":
            raise OSError(f"no file {path!r}")
        return self._source


def _module(name: str, source: str, names: dict[str, Any] | None = None) -> ModuleType:
    loader = _Memory(name, source)
    module = importlib.util.module_from_spec(machinery.ModuleSpec(name, loader, origin=f"<{name}>"))
    module.__dict__.update(names or {})
    sys.modules[name] = module
    loader.exec_module(module)
    return module


# giving up ----------------------------------------------------------------------------------------------


def _limit(limits: dict[str, Any]) -> None:
    seconds = max(1, int(limits["seconds"]) + 1)
    for what, most in (
        (resource.RLIMIT_AS, int(limits["memory"])),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 32),
        (getattr(resource, "RLIMIT_NPROC", None), 0),
    ):
        if what is not None:
            hard = resource.getrlimit(what)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            try:
                resource.setrlimit(what, (most, most))
            except (ValueError, OSError):
                if what in (resource.RLIMIT_CPU, resource.RLIMIT_FSIZE):
                    raise  # macOS bounds no address space; the others are everywhere


def _landlock(libc: Any, readable: list[str]) -> bool:
    """No files but those below `readable`, to be read; no TCP."""
    abi = libc.syscall(444, None, ctypes.c_size_t(0), 1)
    if abi < 1:
        return False
    files = (1 << 13) - 1
    files |= (1 << 13 if abi >= 2 else 0) | (1 << 14 if abi >= 3 else 0) | (1 << 15 if abi >= 5 else 0)
    rule = struct.pack("QQQ", files, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    rule = rule[: 24 if abi >= 6 else 16 if abi >= 4 else 8]
    held = libc.syscall(444, rule, ctypes.c_size_t(len(rule)), 0)
    if held < 0:
        return False
    for path in readable:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        below = struct.pack("=Qi", (1 << 2) | (1 << 3), place)  # read files, read folders
        if libc.syscall(445, held, 1, below, 0):
            return False
        os.close(place)
    done = libc.syscall(446, held, 0) == 0
    os.close(held)
    return done


def _seccomp(libc: Any) -> bool:
    """Only the system calls of `_CALLS`; every other one fails with EPERM."""
    known = _CALLS.get(platform.machine())
    if known is None:
        return False
    machine, openat, calls = known
    deny, allow = (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    program = [
        (0x20, 0, 0, 4),  # the machine
        (0x15, 1, 0, machine),
        (0x06, 0, 0, 0x80000000),  # another one's numbers: kill
        (0x20, 0, 0, 0),  # the call's number
        (0x15, 0, 4, openat),
        (0x20, 0, 0, 32),  # how the file is opened
        (0x45, 0, 1, writes),
        deny,
        allow,
    ]
    for left, number in zip(range(len(calls), 0, -1), calls, strict=True):
        program.append((0x15, left, 0, number))
    program += [deny, allow]
    raw = b"".join(struct.pack("HBBI", *line) for line in program)
    held = ctypes.create_string_buffer(raw)

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("lines", ctypes.c_void_p)]

    return libc.prctl(22, 2, ctypes.byref(Program(len(program), ctypes.addressof(held))), 0, 0) == 0


def _hook(readable: list[str]) -> None:
    """The same rules in Python: the only ones where the kernel has none. It cannot be taken off again."""
    roots = tuple(os.path.realpath(path) + os.sep for path in readable)
    bare = tuple(root.rstrip(os.sep) for root in roots)
    real, start, denied, barred = os.path.realpath, str.startswith, _DENIED, frozenset(_BARRED)
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def known(path: object) -> bool:
        if not isinstance(path, (str, bytes)):
            return False
        found = real(os.fsdecode(path))
        return start(found, roots) or found in bare

    def audit(event: str, details: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = details
            reads = not flags & writing if isinstance(flags, int) else True
            if reads and (mode is None or set(mode) <= set("rbtU")) and known(path):
                return
        elif event == "import":
            if details[0].partition(".")[0] not in barred:
                return
        elif event in ("os.listdir", "os.scandir"):
            if known(details[0]):
                return
        elif not start(event, denied):
            return
        raise PermissionError(f"not in the sandbox: {event}")

    sys.addaudithook(audit)


def _give_up(limits: dict[str, Any]) -> list[str]:
    """All layers that this system has, in order."""
    stdlib = {os.path.dirname(os.__file__), *(p for p in sys.path if p and os.path.isdir(p))}
    readable = sorted(stdlib)
    layers = ["limits"]
    _limit(limits)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(1, 9, 0, 0, 0)  # dies with its parent
        libc.prctl(4, 0, 0, 0, 0)  # not to be traced
        if libc.prctl(38, 1, 0, 0, 0) == 0:  # no new privileges
            layers += ["landlock"] if _landlock(libc, readable) else []
            layers += ["seccomp"] if _seccomp(libc) else []
    _hook(readable)
    for name in [n for n in sys.modules if n.partition(".")[0] in _BARRED]:
        del sys.modules[name]
    return [*layers, "hook"]


# running ------------------------------------------------------------------------------------------------


class _Capture(io.BytesIO):
    """Standard output of a program, up to so many bytes."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._left = most

    def write(self, data: Any) -> int:
        self._left -= len(data)
        if self._left < 0:
            raise OSError("too much output")
        return super().write(data)


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200].rstrip(": ")


def _run(job: dict[str, Any], say: Any) -> None:
    stdin = job.get("stdin")
    if stdin is not None:
        captured = _Capture(int(job["limits"]["output"]))
        sys.stdin = io.TextIOWrapper(io.BytesIO(stdin.encode("utf-8", "replace")), "utf-8")
        sys.stdout = printed = io.TextIOWrapper(captured, "utf-8", write_through=True)
        try:
            _module("__main__", job["source"])
        except SystemExit as error:
            if error.code not in (None, 0):
                say({"raised": f"SystemExit: {error.code!r:.50}"})
                return
        except BaseException as error:
            say({"raised": _told(error)})
            return
        printed.flush()
        say({"stdout": captured.getvalue().decode("utf-8", "replace")})
        return
    try:
        solution = _module("solution", job["source"])
    except BaseException as error:
        say({"raised": _told(error)})
        return
    names = {k: v for k, v in vars(solution).items() if not k.startswith("__")}
    for number, expression in enumerate(job["checks"]):
        try:
            call = _module(f"check{number}", f"def value(): return (\n{expression}\n)", names).value
            say({"check": number, "value": _literal(call())})
        except BaseException as error:
            say({"check": number, "raised": _told(error)})
    if job.get("asserts"):
        try:
            _module("asserts", job["asserts"], names)
        except BaseException as error:
            say({"raised": _told(error)})
            return
        say({"asserts": True})


def _literal(value: Any, depth: int = 0) -> str:
    """The repr of plain values, by their exact types: a class of the code's own cannot pass for a number."""
    kind = type(value)
    if depth > 20:
        raise ValueError("a value too deep to compare")
    if value is None or kind in (bool, int, float, complex, str, bytes):
        text = repr(value)
    elif kind in (list, tuple, set, frozenset):
        inner = ", ".join(_literal(v, depth + 1) for v in list(value))
        if kind is tuple:
            text = f"({inner},)" if len(value) == 1 else f"({inner})"
        elif kind is list:
            text = f"[{inner}]"
        else:
            text = "{" + inner + "}" if inner else "set()"
    elif kind is dict or (isinstance(value, dict) and kind.__module__ == "collections"):
        text = (
            "{"
            + ", ".join(f"{_literal(k, depth + 1)}: {_literal(v, depth + 1)}" for k, v in value.items())
            + "}"
        )
    else:
        raise TypeError(f"a value of type {kind.__name__}, which cannot be compared")
    if len(text) > LONGEST:
        raise ValueError("a value too long to compare")
    return text


def main() -> int:
    """One job, from standard input."""
    job = json.loads(sys.stdin.buffer.read())
    out = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)
    sys.setrecursionlimit(3000)
    layers = _give_up(job["limits"])

    def say(value: dict[str, Any]) -> None:
        os.write(out, (json.dumps(value) + "\n").encode())

    say({"layers": layers})
    _run(job, say)
    say({"done": True})
    os._exit(0)


if __name__ == "__main__":
    main()
