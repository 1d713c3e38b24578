"""``FILE.py:FUNCTION``: the user's own grader.

::

    # my.py
    def grade(example, completion):
        return float(example["answer"] in completion)

    create("my.py:grade")

The function is given the example (a dict: its roles, and ``record``, the raw record) and the reply's text,
and returns a number, True or False, or None where it cannot judge. It runs in processes of its own, with the
file's folder on the path and all installed packages: it may hang, raise, exit or return nonsense, and costs
one reply. It is trusted: this is no sandbox. See docs/graders.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exnihilo.errors import UsageError
from exnihilo.eval.graders.base import SECONDS, Checker, Graded
from exnihilo.eval.graders.worker import Served


class Own(Checker):
    """A function of the user's file.

    Raises:
        UsageError: no such file; it cannot be imported; it has no such function.
    """

    def __init__(self, path: str, function: str) -> None:
        if not Path(path).is_file():
            raise UsageError(
                f"grader {path}:{function}: there is no file {path}", expected="FILE.py:FUNCTION",
                next="give the file's path, from the folder where you are",
            )  # fmt: skip
        self.name = function
        self._served = Served(Path(path).resolve(), function)
        self._served.check()

    def grade(self, example: Mapping[str, Any], completion: str) -> float | None:
        return self.many([example], [completion], seconds=SECONDS)[0].score

    def many(
        self, examples: Sequence[Mapping[str, Any]], completions: Sequence[str], *, seconds: float
    ) -> list[Graded]:
        return self._served.many(examples, completions, seconds=seconds)

    def close(self) -> None:
        self._served.close()
