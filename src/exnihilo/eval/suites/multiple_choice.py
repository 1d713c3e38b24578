"""``multiple_choice``: which of several answers does the model find likeliest?

::

    exnihilo eval RUN --suite multiple_choice=arc.jsonl shots=5

accuracy: by the summed log-probability of each choice; accuracy_norm: by that sum over the choice's length in
characters, where long choices would lose for their length alone. chance: what guessing gives. Equal to the
``acc`` and ``acc_norm`` of lm-evaluation-harness for ARC, HellaSwag, PIQA and the like.

A question is asked as "Question: ...\\nAnswer:", a text goes on as it stands. A model that was taught to
answer is asked in its own turns, unless chat=off. Shapes: `_shapes`.

References: Brown et al. 2020 (arXiv:2005.14165, 2.4) for both ways to compare; Clark et al. 2018 (ARC).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from exnihilo.codec.chat import Message
from exnihilo.config import DataConfig
from exnihilo.data.base import Drops
from exnihilo.eval.likelihood import Row, encode_pair, likelihoods
from exnihilo.eval.suites import _shapes, _world
from exnihilo.eval.suites._records import is_world, records, usable
from exnihilo.eval.suites._shots import shown, split
from exnihilo.eval.suites.base import Asked, Result, Suite, counted, nothing, share


class MultipleChoice(Suite):
    summary = "the likeliest of several answers: accuracy, and normalised by length, beside chance"
    options = frozenset({"chat", "shots", "shots_from"})

    def run(self, asked: Asked) -> Result:
        shots, questions = split(asked, read)
        if not questions:
            raise nothing(asked, "question with choices")
        asked.progress.start("multiple_choice", total=sum(len(q.choices) for q in questions), unit="choices")
        given = [_rows(asked, shots, question) for question in questions]
        found = iter(likelihoods(asked.model, [r for rows in given for r in rows], progress=asked.progress))
        asked.progress.stop()
        items, cut = [], 0
        for question in questions:
            scores = [next(found) for _ in question.choices]
            cut += any(one.cut for one in scores)
            plain = [one.logprob for one in scores]
            normed = [one.logprob / len(c) for one, c in zip(scores, question.choices, strict=True)]
            items.append(
                {
                    "prompt": question.prompt, "choices": list(question.choices), "answer": question.answer,
                    "logprobs": plain, "right": _first(plain) == question.answer,
                    "right_norm": _first(normed) == question.answer,
                }
            )  # fmt: skip
        figures = {
            **share("accuracy", [one["right"] for one in items]),
            **share("accuracy_norm", [one["right_norm"] for one in items]),
            "chance": sum(1 / len(q.choices) for q in questions) / len(questions),
            "cut": float(cut),
        }
        return Result(counted(asked, figures, len(items)), items)


def read(asked: Asked) -> Iterator[_shapes.Question]:
    """The questions of the data."""
    if is_world(asked.data):
        yield from _world.questions(asked.data)
        return
    yield from read_from(asked.data, asked.drops)


def read_from(data: DataConfig, drops: Drops) -> Iterator[_shapes.Question]:
    """The same of files; what cannot be used is counted."""
    return usable(((place, _shapes.question(record)) for place, record in records(data, drops)), drops)


def asks(question: _shapes.Question) -> str:
    """The prompt of a question where no turns are marked."""
    return f"Question: {question.prompt}\nAnswer:" if question.asked else question.prompt


def _rows(asked: Asked, shots: Sequence[_shapes.Question], question: _shapes.Question) -> list[Row]:
    """(given, predicted) of each choice."""
    if asked.chat is not None and not question.suffix:
        turns: list[Message] = []
        for shot in shots:
            turns += [
                {"role": "user", "content": shot.prompt},
                {"role": "assistant", "content": shot.choices[shot.answer]},
            ]
        prompt = asked.chat.prompt([*turns, {"role": "user", "content": question.prompt}])
        return [(prompt, asked.chat.completion(choice)) for choice in question.choices]
    before = shown([_text(shot, shot.answer) for shot in shots])
    if question.suffix:
        prompts = [f"{before}{question.prompt} {choice}" for choice in question.choices]
        return [encode_pair(asked.codec, prompt, question.suffix) for prompt in prompts]
    return [encode_pair(asked.codec, before + asks(question), f" {c}") for c in question.choices]


def _text(question: _shapes.Question, choice: int) -> str:
    return f"{asks(question)} {question.choices[choice]}{question.suffix}"


def _first(values: Sequence[float]) -> int:
    """Where the largest stands, the first of equal ones."""
    return max(range(len(values)), key=lambda i: values[i])
