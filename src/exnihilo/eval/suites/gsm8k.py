"""``gsm8k``: word problems whose final number is checked.

::

    exnihilo eval RUN --suite gsm8k=test.jsonl shots=5 shots_from=train.jsonl
    exnihilo eval RUN --suite gsm8k=test.jsonl samples=8              # pass@1, @2, @4, @8

A problem is asked as "Question: ...\\nAnswer:" behind `shots` solved ones, and the reply ends before the next
"Question:"; a model that was taught to answer is asked in its own turns, unless chat=off. The grader
``number`` reads the final number of the reply and of the gold answer (docs/graders.md). The control is the
most frequent answer.

Reference: Cobbe et al. 2021, *Training Verifiers to Solve Math Word Problems*, arXiv:2110.14168.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from exnihilo.codec.chat import Message
from exnihilo.config import DataConfig
from exnihilo.data.base import Drops
from exnihilo.eval.graders.number import final
from exnihilo.eval.suites import _shapes, _world
from exnihilo.eval.suites._records import is_world, records, usable
from exnihilo.eval.suites._replies import answer
from exnihilo.eval.suites._shots import shown, split
from exnihilo.eval.suites.base import Asked, Result, Suite, counted, nothing

STOP = "Question:"
"""Ends a reply: the next problem, which a base model would invent."""


class Gsm8k(Suite):
    summary = "problems with a number as their answer: pass@1, pass@k, beside the most frequent answer"
    options = frozenset(
        {
            *("chat", "shots", "shots_from", "samples", "temperature", "max_new_tokens"),
            *("seed", "grader", "seconds"),
        }
    )

    def run(self, asked: Asked) -> Result:
        shots, problems = split(asked, read)
        if not problems:
            raise nothing(asked, "question with an answer")
        prompts = [_ids(asked, shots, problem) for problem in problems]
        figures, items = answer(asked, problems, prompts, grader="number", max_new_tokens=256, stop=[STOP])
        golds = Counter(final(problem.answer) for problem in problems)
        golds.pop(None, None)
        common = golds.most_common(1)[0][1] if golds else 0
        figures["majority_pass@1"] = common / len(problems)
        return Result(counted(asked, figures, len(problems)), items)


def read(asked: Asked) -> Iterator[_shapes.Problem]:
    """The problems of the data."""
    if is_world(asked.data):
        yield from _world.problems(asked.data)
        return
    yield from read_from(asked.data, asked.drops)


def read_from(data: DataConfig, drops: Drops) -> Iterator[_shapes.Problem]:
    """The same of files; what cannot be used is counted."""
    return usable(((place, _shapes.problem(record)) for place, record in records(data, drops)), drops)


def asks(problem: _shapes.Problem) -> str:
    """The prompt of a problem where no turns are marked."""
    return f"Question: {problem.question}\nAnswer:"


def _ids(asked: Asked, shots: Sequence[_shapes.Problem], problem: _shapes.Problem) -> list[int]:
    if asked.chat is not None:
        turns: list[Message] = []
        for shot in shots:
            turns += [
                {"role": "user", "content": shot.question}, {"role": "assistant", "content": shot.answer}
            ]  # fmt: skip
        return asked.chat.prompt([*turns, {"role": "user", "content": problem.question}])
    text = shown([f"{asks(shot)} {shot.answer}" for shot in shots]) + asks(problem)
    return [asked.codec.bos_id, *asked.codec.encode(text)]
