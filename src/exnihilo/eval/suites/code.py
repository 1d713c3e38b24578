"""``code``: programs that must pass their tests, run in the sandbox of docs/graders.md.

::

    exnihilo eval RUN --suite code=HumanEval.jsonl samples=20 temperature=0.8     # pass@1 ... pass@20

A problem of HumanEval's shape ({prompt, test, entry_point}) goes on where its prompt ends; one of MBPP's
({text, test_list}) is asked in a comment above the program. A reply ends where a new top-level statement
begins that is no part of a function. A model that was taught to answer is asked in its own turns, unless
chat=off.

References: Chen et al. 2021, arXiv:2107.03374; Austin et al. 2021, arXiv:2108.07732.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from exnihilo.codec.chat import Message
from exnihilo.eval.suites import _shapes
from exnihilo.eval.suites._records import first, records
from exnihilo.eval.suites._replies import answer
from exnihilo.eval.suites._shots import shown, split
from exnihilo.eval.suites.base import Asked, Result, Suite, counted, nothing

STOPS = ("\nclass ", "\n#", "\nif ", "\nprint", "\n@", '\n"""', "\nassert ", "\n```")
"""What a base model writes when it has written the function; the usual ones of HumanEval."""


class Code(Suite):
    summary = "programs that must pass their tests, in a sandbox: pass@1, pass@k"
    options = frozenset(
        {
            *("chat", "shots", "shots_from", "samples", "temperature", "max_new_tokens"),
            *("seed", "grader", "seconds"),
        }
    )
    needs_data = True

    def run(self, asked: Asked) -> Result:
        shots, problems = split(asked, read)
        if not problems:
            raise nothing(asked, "problem with tests")
        prompts = [_ids(asked, shots, problem) for problem in problems]
        figures, items = answer(
            asked, problems, prompts, grader="code", max_new_tokens=512, stop=STOPS,
            text=(lambda problem, reply: reply) if asked.chat is not None else _program,
        )  # fmt: skip
        return Result(counted(asked, figures, len(problems)), items)


def read(asked: Asked) -> Iterator[_shapes.Problem]:
    """The problems of the data."""
    for place, record in records(asked.data, asked.drops):
        found = _shapes.code(record)
        if isinstance(found, str):
            asked.drops.add(f"records {found}", place)
        else:
            yield found


def _begun(problem: _shapes.Problem) -> bool:
    """Whether the prompt is the beginning of the program itself."""
    return first(problem.record, "entry_point") is not None


def _asks(problem: _shapes.Problem) -> str:
    if _begun(problem):
        return f"{problem.question}\n"
    return f'"""\n{problem.question}{_examples(problem)}\n"""\n'


def _examples(problem: _shapes.Problem) -> str:
    """The tests, which alone say what MBPP's functions are called."""
    tests = first(problem.record, "test_list")
    return "\n" + "\n".join(map(str, tests)) if isinstance(tests, Sequence) else ""


def _program(problem: _shapes.Problem, reply: str) -> str:
    """What is run of a base model's reply."""
    return f"{problem.question}\n{reply}" if _begun(problem) else reply


def _ids(asked: Asked, shots: Sequence[_shapes.Problem], problem: _shapes.Problem) -> list[int]:
    if asked.chat is not None:
        turns: list[Message] = []
        for shot in shots:
            said = f"```python\n{_solved(shot)}\n```"
            turns += [
                {"role": "user", "content": shot.question + _examples(shot)},
                {"role": "assistant", "content": said},
            ]
        asked_for = problem.question + _examples(problem)
        return asked.chat.prompt([*turns, {"role": "user", "content": asked_for}])
    text = shown([f"{_asks(shot)}{shot.answer}" for shot in shots]) + _asks(problem)
    return [asked.codec.bos_id, *asked.codec.encode(text)]


def _solved(shot: _shapes.Problem) -> str:
    return f"{shot.question}\n{shot.answer}" if _begun(shot) else shot.answer
