"""``code``: unit tests of the reply's code, in a sandbox with limits (`sandbox` says what it is and is not).

``code`` pays 1 where all tests pass, ``code:partial`` the share that passes. The tests stand in the example
or its record, in one of these shapes:

    tests, test_list    asserts, a list of them or one text (MBPP); test_setup_code goes before them
    test, entry_point   a function ``check(candidate)`` (HumanEval)
    tests, input_output programs: [{"input", "output"}], or {"inputs": [...], "outputs": [...]} (APPS)

The code is the reply's fenced block (the last one that defines something, where there are several), else the
whole reply. Where it does not define the entry point, the record's ``prompt`` goes before it.

``assert f(2) == 4`` is not run beside the code: ``f(2)`` is, and its value, as plain text, is compared with 4
out here, where the code cannot reach. So ending the process with success, an ``__eq__`` that is always true,
or a patched ``assert`` gain nothing. Tests that are more than asserts (loops, helpers) do run beside it, and
code that means to could fake those: prefer asserts of plain values.

Reference: HumanEval, Chen et al. 2021 (arXiv:2107.03374); MBPP, Austin et al. 2021 (arXiv:2108.07732).
"""

from __future__ import annotations

import ast
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from exnihilo import log
from exnihilo.errors import UsageError
from exnihilo.eval.graders import fields
from exnihilo.eval.graders.base import NO_GOLD, SECONDS, Checker, Graded, raised
from exnihilo.eval.graders.sandbox import Limits, Outcome, available, literal, run

_FENCE = re.compile(r"```[A-Za-z0-9+_-]*[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
_SETUP = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)


@dataclass
class Tests:
    """What a solution is asked.

    Attributes:
        setup: statements that run behind the solution, before the checks.
        checks: (expression, the plain value it must have).
        asserts: tests that cannot be taken apart, as they stand.
        programs: (input, output) of a program.
        entry: the function that is asked for, where it is known.
    """

    setup: str = ""
    checks: list[tuple[str, Any]] = field(default_factory=list)
    asserts: str = ""
    programs: list[tuple[str, str]] = field(default_factory=list)
    entry: str | None = None

    @property
    def count(self) -> int:
        return len(self.checks) + bool(self.asserts) + len(self.programs)


class Code(Checker):
    """1 where the code passes all tests (or the share of them), else 0; None without tests."""

    name = "code"

    def __init__(self, partial: bool = False) -> None:
        self.partial = partial
        self._warned = False

    def grade(self, example: Mapping[str, Any], completion: str) -> float | None:
        return self.many([example], [completion], seconds=SECONDS)[0].score

    def many(
        self, examples: Sequence[Mapping[str, Any]], completions: Sequence[str], *, seconds: float
    ) -> list[Graded]:
        pairs = list(zip(examples, completions, strict=True))
        with ThreadPoolExecutor(max(1, os.cpu_count() or 1), thread_name_prefix="code") as pool:
            return list(pool.map(lambda pair: self._one(pair[0], pair[1], seconds), pairs))

    def _one(self, example: Mapping[str, Any], completion: str, seconds: float) -> Graded:
        try:
            tests = read(example)
            if tests is None or not tests.count:
                return Graded(None, NO_GOLD)
            source = extract(completion, tests.entry, fields.value(example, "prompt"))
            passed = self._passed(source, tests, seconds)
        except Exception as error:  # no process could be started, say
            told = raised(error)
            return told
        if passed is None:
            return Graded(None, "the sandbox did not start", failed=True)
        return Graded(passed / tests.count if self.partial else float(passed == tests.count))

    def _passed(self, source: str, tests: Tests, seconds: float) -> int | None:
        """How many tests pass; None where the sandbox failed."""
        passed, end = 0, time.monotonic() + seconds
        if tests.checks or tests.asserts:
            checks = [expression for expression, _ in tests.checks]
            code = f"{source}\n\n{tests.setup}\n" if tests.setup else source
            outcome = run(code, checks=checks, asserts=tests.asserts, limits=Limits(seconds))
            if not self._held(outcome):
                return None
            wanted = [value for _, value in tests.checks]
            passed += sum(equal(got, want) for got, want in zip(outcome.values, wanted, strict=True))
            passed += bool(tests.asserts) and outcome.asserts
        for number, (given, wanted) in enumerate(tests.programs):
            left = end - time.monotonic()
            if left <= 0 or (not self.partial and passed < number):
                break
            outcome = run(source, stdin=given, limits=Limits(left))
            if not self._held(outcome):
                return None
            passed += outcome.stdout is not None and lines(outcome.stdout) == lines(wanted)
        return passed

    def _held(self, outcome: Outcome) -> bool:
        if outcome.layers and not self._warned and "seccomp" not in outcome.layers:
            self._warned = True
            log.warn(
                f"code is contained by {', '.join(outcome.layers)} only: this kernel has no seccomp to hold "
                "it; see docs/graders.md"
            )
        return bool(outcome.layers)


def equal(text: str | None, wanted: object) -> bool:
    """Whether a value that came back as text is the one that is wanted.

    >>> equal("[1, 2]", [1, 2]), equal("nan", 1), equal(None, None), equal("None", None)
    (True, False, False, True)
    """
    if text is None:
        return False
    try:
        return bool(literal(text) == wanted)
    except ValueError:
        return False


def lines(text: str) -> list[str]:
    """Output as it is compared: without spaces at the ends of lines, without blank lines at its end."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


def extract(completion: str, entry: str | None = None, prompt: object = None) -> str:
    """The code of a reply.

    >>> extract("Here:\\n```python\\nx = 1\\n```\\nDone.")
    'x = 1'
    """
    blocks = _FENCE.findall(completion)
    defining = [block for block in blocks if re.search(r"^(def|class|async def) ", block, re.MULTILINE)]
    code = (defining or blocks or [completion])[-1]
    if entry and isinstance(prompt, str) and f"def {entry}" in prompt and f"def {entry}" not in code:
        return prompt + code
    return code


def read(example: Mapping[str, Any]) -> Tests | None:
    """The tests of an example; None where it has none that can be read."""
    setup = fields.value(example, "test_setup_code", "setup")
    entry = fields.value(example, "entry_point")
    out = Tests(
        setup=setup if isinstance(setup, str) else "", entry=entry if isinstance(entry, str) else None
    )
    found = fields.value(example, "tests", "test_list", "test", "input_output")
    if isinstance(found, str) and found.lstrip()[:1] in ("[", "{"):
        try:
            found = json.loads(found)
        except ValueError:
            return None
    if isinstance(found, Mapping):
        inputs, outputs = found.get("inputs"), found.get("outputs")
        if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
            return None
        found = [{"input": i, "output": o} for i, o in zip(inputs, outputs, strict=True)]
    if isinstance(found, (list, tuple)) and found and all(isinstance(one, Mapping) for one in found):
        pairs = [(one.get("input"), one.get("output")) for one in found]
        if any(not isinstance(text, str) for pair in pairs for text in pair):
            return None
        out.programs = [(str(given), str(wanted)) for given, wanted in pairs]
        return out
    if isinstance(found, (list, tuple)) and found and all(isinstance(one, str) for one in found):
        found = "\n".join(str(one) for one in found)
    if not isinstance(found, str) or not found.strip():
        return None
    return out if _take_apart(found, out) else None


def _take_apart(text: str, out: Tests) -> bool:
    """Tests as checks where they are asserts, else as they stand; False where they test nothing."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    if not any(isinstance(node, ast.Assert) for one in body for node in ast.walk(one)):
        return False
    check = next((one for one in body if isinstance(one, ast.FunctionDef) and one.name == "check"), None)
    if check is not None and out.entry and len(check.args.args) == 1:
        others = [one for one in body if one is not check and not _says_nothing(one)]
        name = check.args.args[0].arg
        renamed = [_Rename(name, out.entry).visit(one) for one in check.body]
        if _simple([*others, *renamed]):
            _checks([*others, *renamed], out)
        else:
            out.asserts = f"{text}\n\ncheck({out.entry})\n"
        return True
    if _simple(body):
        _checks(body, out)
    else:
        out.asserts = text
    return True


def _simple(body: Sequence[ast.stmt]) -> bool:
    """Asserts behind nothing but imports and assignments: their order does not matter."""
    first = next((n for n, one in enumerate(body) if isinstance(one, ast.Assert)), len(body))
    if any(not isinstance(one, _SETUP) and not _says_nothing(one) for one in body[:first]):
        return False
    return all(isinstance(one, ast.Assert) or _says_nothing(one) for one in body[first:])


def _says_nothing(node: ast.stmt) -> bool:
    constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return constant or isinstance(node, ast.Pass)


def _checks(body: Sequence[ast.stmt], out: Tests) -> None:
    for one in body:
        if isinstance(one, _SETUP):
            out.setup += f"\n{ast.unparse(one)}"
        elif isinstance(one, ast.Assert):
            out.checks.append(_check(one.test))


def _check(test: ast.expr) -> tuple[str, Any]:
    """(expression, value) of an assert: the side that is plain stays out here."""
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], (ast.Eq, ast.Is)):
        for side, other in ((test.comparators[0], test.left), (test.left, test.comparators[0])):
            try:
                return ast.unparse(other), ast.literal_eval(side)
            except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                continue
    return f"bool({ast.unparse(test)})", True


class _Rename(ast.NodeTransformer):
    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = old, new

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.copy_location(ast.Name(self.new, node.ctx), node) if node.id == self.old else node


def make(name: str, argument: str) -> Checker:
    """``code`` or ``code:partial``."""
    if argument not in ("", "partial"):
        raise UsageError(f"grader {name}:{argument}", expected="code or code:partial")
    if not available():
        raise UsageError(f"grader {name}: code cannot be contained here", expected="Linux or macOS")
    return Code(argument == "partial")
