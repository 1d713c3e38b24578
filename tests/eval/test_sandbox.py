"""Code that a model wrote: right code passes, and each escape is contained."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo.eval.graders import _inside, create, grade_many
from exnihilo.eval.graders.code import extract, read
from exnihilo.eval.graders.sandbox import Limits, Outcome, available, literal, run

pytestmark = pytest.mark.skipif(not available(), reason="needs POSIX")
SHORT = Limits(seconds=1.0, memory=256 << 20)


def outcome(source: str, *checks: str, **more: Any) -> Outcome:
    return run(textwrap.dedent(source), checks=checks or ("f()",), **{"limits": SHORT, **more})


def test_values_come_back_as_text() -> None:
    found = outcome(
        "def f(x): return 2 * x", "f(4)", "f('a')", "f([1, (2,)])", "f(None)", "{1: {2}, 'a': set()}"
    )
    assert found.values == ["8", "'aa'", "[1, (2,), 1, (2,)]", None, "{1: {2}, 'a': set()}"]
    assert "check 4 raised TypeError" in str(found.problem)


def test_programs_read_and_print() -> None:
    found = run("import sys\nprint(int(input()) * 2)\nprint(sys.stdin.read(), end='')", stdin="4\nrest")
    assert found.stdout == "8\nrest" and found.problem is None


STDLIB = (
    *(
        "collections",
        "math",
        "itertools",
        "functools",
        "heapq",
        "bisect",
        "re",
        "string",
        "random",
        "decimal",
    ),
    *("fractions", "statistics", "datetime", "json", "copy", "typing", "dataclasses", "enum", "operator"),
    *("array", "hashlib", "queue", "textwrap", "time", "struct", "io", "contextlib", "cmath", "numbers"),
)


def test_what_solutions_import_is_there() -> None:
    source = (
        f"import {', '.join(STDLIB)}\n@dataclasses.dataclass\nclass A:\n    x: int = 1\ndef f(): return A().x"
    )
    found = outcome(source)
    assert found.values == ["1"], found.problem


ESCAPES = {
    "network": "import socket\ndef f(): return socket.socket()",
    "network, the C module": "def f():\n    import _socket\n    return 1",
    "a file read": "def f(): return open('/etc/hostname').read()",
    "a file read by number": "import os\ndef f(): return os.open('/etc/hostname', os.O_RDONLY)",
    "a file written": "def f(): return open('x', 'w').write('a')",
    "a file written there": "import pathlib\n"
    "def f(): return pathlib.Path('/tmp/exnihilo-escaped').write_text('a')",
    "a folder listed": "import os\ndef f(): return len(os.listdir('/'))",
    "the environment of the process": "def f(): return open('/proc/self/environ').read()",
    "a fork bomb": "import os\ndef f():\n    while True: os.fork()",
    "a process": "def f():\n    import subprocess\n    return subprocess.run(['ls']).returncode",
    "a shell": "import os\ndef f(): return os.system('true')",
    "another program": "import os\ndef f(): os.execv('/bin/true', ['true'])",
    "a thread": "import threading\ndef f():\n    threading.Thread(target=print).start()\n    return 1",
    "a signal to others": "import os\ndef f(): return os.kill(os.getppid(), 9) or 1",
    "memory": "def f(): return len([0] * 10**10)",
    "memory, little by little": "def f():\n    a = []\n    while True: a.append(bytearray(10**6))",
    "an endless loop": "def f():\n    while True: pass",
    "an endless import": "while True: pass",
    "sleep": "import time\ndef f(): return time.sleep(100)",
    "deep recursion": "def f(): return f()",
    "C code": "import ctypes\ndef f(): return 1",
    "the end with success": "import os\nos._exit(0)",
    "the end with success, politely": "raise SystemExit(0)",
    "a foreign value": "class V:\n    def __repr__(self): return '1'\ndef f(): return V()",
    "an int that lies": "class V(int):\n    def __repr__(self): return '1'\ndef f(): return V(5)",
}


@pytest.mark.parametrize("name", ESCAPES)
def test_an_escape_is_contained(name: str) -> None:
    begun = time.monotonic()
    found = outcome(ESCAPES[name])
    assert found.values == [None] and found.problem, name
    assert time.monotonic() - begun < 60 and "hook" in found.layers  # not the 100 s that one sleeps
    assert not Path("/tmp/exnihilo-escaped").exists()


def test_floods_are_cut() -> None:
    found = outcome(
        "import os\nfor fd in range(20):\n    try:\n        while True: os.write(fd, b'x' * 9999)\n"
        "    except OSError: pass"
    )
    assert found.values == [None] and found.problem
    found = run("while True: print('x' * 1000)", stdin="", limits=SHORT)
    assert found.stdout is None and "too much output" in str(found.problem)
    assert outcome("while True: print('x' * 1000)").values == [None]


def test_nothing_is_left_running() -> None:
    before = _children()
    outcome("import os\ndef f():\n    os.setsid()\n    while True: pass")
    assert _children() <= before


def _children() -> int:
    if not Path("/proc").is_dir():
        return 0
    found = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found += b"_inside.py" in (entry / "cmdline").read_bytes()
            except OSError:  # it has ended meanwhile
                continue
    return found


def test_forged_answers_gain_no_check() -> None:
    """What the code writes into the pipe is at most a value: that must still be the right one."""
    said = '{"asserts": true}\\n{"done": true}\\n'
    forge = f"import os\nfor fd in range(3, 12):\n    try: os.write(fd, b'{said}')\n"
    forge += "    except OSError: pass\nos._exit(0)"
    assert outcome(forge).values == [None]
    example = {"record": {"test_list": ["assert f() == 8"]}}
    assert create("code")(example, forge) == 0.0


BARE = """
    import importlib.util, os, sys
    spec = importlib.util.spec_from_file_location("inside", sys.argv[1])
    inside = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(inside)
    import ctypes, socket, subprocess
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)
    stdlib = os.path.dirname(os.__file__)
    if sys.argv[2] == "landlock":
        done = inside._landlock(libc, [stdlib])
    else:
        done = inside._seccomp(libc)
    tried = {
        "socket": lambda: socket.socket(),
        "write": lambda: os.open("written", os.O_WRONLY | os.O_CREAT),
        "read": lambda: os.open("/etc/hostname", os.O_RDONLY),
        "stdlib": lambda: os.close(os.open(os.path.join(stdlib, "os.py"), os.O_RDONLY)),
        "fork": lambda: os.fork() or os._exit(0),
        "kill": lambda: os.kill(os.getppid(), 0),
        "exec": lambda: subprocess.run(["true"]),
        "remove": lambda: os.unlink("kept"),
    }
    out = []
    for name, act in tried.items():
        try:
            act()
        except (OSError, subprocess.SubprocessError):
            continue
        out.append(name)
    os.write(1, (str(done) + " " + " ".join(out)).encode())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's own layers")
@pytest.mark.parametrize(
    ("layer", "left"),
    [("seccomp", {"read", "stdlib"}), ("landlock", {"stdlib", "socket", "fork", "exec", "kill"})],
)
def test_the_kernels_layers_hold_alone(tmp_path: Path, layer: str, left: set[str]) -> None:
    """Without the audit hook, which Python code could tamper with."""
    (tmp_path / "kept").write_text("")
    command = [sys.executable, "-I", "-S", "-c", textwrap.dedent(BARE), str(_inside.__file__), layer]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, timeout=60, text=True)
    held, *able = done.stdout.split()
    if held != "True":
        pytest.skip(f"this kernel has no {layer}")
    assert set(able) <= left and "stdlib" in able, done.stderr
    assert (tmp_path / "kept").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's own layers")
def test_all_layers_that_the_kernel_has_are_on() -> None:
    layers = outcome("def f(): return 1").layers
    assert layers[0] == "limits" and layers[-1] == "hook"
    release = tuple(int(x) for x in os.uname().release.split("-")[0].split(".")[:2])
    if release >= (5, 13) and "landlock" in Path("/proc/filesystems").read_text():
        assert "landlock" in layers


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text()
        | st.binary(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.tuples(inner, inner)
            | st.dictionaries(st.text(), inner, max_size=3)
        ),
        max_leaves=6,
    )
)
@settings(max_examples=150, deadline=None)
def test_a_plain_value_survives_as_text(value: Any) -> None:
    assert literal(_inside._literal(value)) == value


@given(st.text(max_size=40))
@settings(max_examples=150, deadline=None)
def test_text_that_is_no_value_is_refused_and_nothing_else(text: str) -> None:
    try:
        literal(text)
    except ValueError as error:
        assert error is not None


# the grader ---------------------------------------------------------------------------------------------

MBPP = {
    "record": {
        "test_list": ["assert add(1, 2) == 3", "assert add('a', 'b') == 'ab'", "assert add(0, 0) is not None"]
    }
}
HUMAN = {
    "record": {
        "prompt": 'def inc(x):\n    """one more"""\n',
        "entry_point": "inc",
        "test": "METADATA = {}\n\n\ndef check(candidate):\n    assert candidate(1) == 2\n"
        "    assert candidate(-1) == 0\n",
    }
}
LOOPS = {
    "record": {
        **HUMAN["record"],
        "test": "def check(candidate):\n    for i in range(3):\n        assert candidate(i) == i + 1\n",
    }
}
APPS = {"record": {"input_output": '{"inputs": ["1 2\\n", "5 5"], "outputs": ["3\\n", "10"]}'}}
SUM = "a, b = map(int, input().split())\nprint(a + b)"


def test_tests_in_the_shapes_of_others() -> None:
    cases = [
        (MBPP, "def add(a, b): return a + b", 1.0),
        (MBPP, "Sure:\n```python\ndef add(a, b):\n    return a + b\n```", 1.0),
        (MBPP, "def add(a, b): return a - b", 0.0),
        (MBPP, "", 0.0),
        (MBPP, "def add(", 0.0),
        (HUMAN, "    return x + 1", 1.0),
        (HUMAN, "    return x", 0.0),
        (HUMAN, "def inc(x):\n    return x + 1", 1.0),
        (LOOPS, "    return x + 1", 1.0),
        (LOOPS, "    return x", 0.0),
        (LOOPS, "    raise SystemExit(0)", 0.0),
        (APPS, SUM, 1.0),
        (APPS, "print(3)", 0.0),
        (APPS, "while True: pass", 0.0),
    ]
    found = grade_many(create("code"), [c[0] for c in cases], [c[1] for c in cases], seconds=2)
    assert [g.score for g in found] == [c[2] for c in cases]
    assert create("code:partial")(APPS, "print(3)") == 0.5


CHEATS = (
    "import os\nos._exit(0)",
    "raise SystemExit(0)",
    "class E:\n    def __eq__(self, o): return True\n    def __ne__(self, o): return False\n"
    "def add(a, b): return E()",
    "import builtins\nbuiltins.bool = lambda x: True\ndef add(a, b): return None",
    "class M(type):\n    def __instancecheck__(c, o): return True\ndef add(a, b): return 3",
    "def add(a, b):\n    import sys\n    sys.stdout.write('{\"asserts\": true}')\n    return 0",
    "pass",
)


@pytest.mark.parametrize("code", CHEATS)
def test_known_cheats_are_not_paid(code: str) -> None:
    assert create("code")(MBPP, code) == 0.0


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"tests": ""},
        {"tests": "x = 1"},
        {"tests": "assert ("},
        {"tests": []},
        {"tests": [1]},
        {"tests": "{"},
        {"tests": [{"input": "1"}]},
        {"input_output": '{"inputs": ["1"], "outputs": []}'},
        {"test": "def check(c): pass", "entry_point": "f"},
    ],
)
def test_tests_that_test_nothing_are_never_a_reward(record: dict[str, Any]) -> None:
    [graded] = grade_many(create("code"), [{"record": record}], ["x = 1"])
    assert graded.score is None


@given(st.text(max_size=80))
@settings(max_examples=100, deadline=None)
def test_whatever_the_data_and_the_reply_hold_is_read(text: str) -> None:
    assert isinstance(extract(text), str)
    found = read({"record": {"tests": text}})
    assert found is None or found.count


def test_the_side_that_is_plain_stays_outside() -> None:
    found = read(
        {"record": {"tests": "import math\nassert 3 == f(1)\nassert f(2) == [1, {2}]\nassert f(3) > 1"}}
    )
    assert found is not None and found.checks == [("f(1)", 3), ("f(2)", [1, {2}]), ("bool(f(3) > 1)", True)]
    assert "import math" in found.setup and not found.asserts
