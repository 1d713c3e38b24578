"""Whether a map of influence is to be trusted: measured on tasks whose truth is known.

::

    found = judge(model, make("needle", length=64))
    found.hit, found.false_positives, found.trusted

A measure *hits* a text if the position that the right answer depends on gets the largest influence among
those of its class, and is *false* at a position that the answer cannot depend on, if that gets more than
`SHARE` of the largest. A model that has not learnt the task depends on nothing: its map says so, and no map
is judged by it.

Key: N texts, T positions, V vocabulary
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from exnihilo.errors import UsageError
from exnihilo.probe import attention, influence
from exnihilo.probe.rows import Rows
from exnihilo.probe.subject import Subject
from exnihilo.probe.tasks import Lesson, Task

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

HIT, FALSE = 0.95, 0.05
"""A map is trusted where it hits at least so often, and is false at most so often."""
SHARE = 0.25  # of the largest influence: what is above it, a reader of the map takes for a dependency
LEARNT = 0.9  # of right answers: below it there is no truth to be found in the model

METHODS = ("resampling", "screened", "gradient_norm", "integrated_gradients", "rollout", "last_layer")


@dataclass(frozen=True)
class Faith:
    """How a measure fares on a task.

    Attributes:
        accuracy: of the model's answers. hit: share of texts whose true position comes first.
        false_positives: share of idle positions that seem to matter.
        nats: mean influence of the true position on the answer, of measures in nats.
        seconds: for all texts. forwards: rows that went through the model.
    """

    method: str
    task: str
    accuracy: float
    hit: float
    false_positives: float
    nats: float
    seconds: float
    forwards: int = 0

    @property
    def trusted(self) -> bool:
        """Whether the map finds what is there and nothing else, in a model that has learnt the task."""
        return self.accuracy >= LEARNT and self.hit >= HIT and self.false_positives <= FALSE

    @property
    def verdict(self) -> str:
        """In words."""
        if self.accuracy < LEARNT:
            return f"the model has not learnt {self.task} ({self.accuracy:.0%} right): no truth to find in it"
        figures = f"it hits {self.hit:.0%} and is false at {self.false_positives:.1%} of the idle positions"
        sure = "is to be trusted" if self.trusted else "is not to be trusted"
        return f"{self.method} {sure} on {self.task}: {figures}"


@dataclass(frozen=True)
class Known:
    """Texts of a task in a model's own ids, with their truth.

    Attributes:
        rows_NT: what the answer is predicted from. answers_N: the right next tokens.
        truth, idle: positions of each text (`Lesson`). classes_V: class of each of the model's ids.
    """

    rows_NT: np.ndarray
    answers_N: np.ndarray
    truth: tuple[tuple[int, ...], ...]
    idle: tuple[tuple[int, ...], ...]
    classes_V: np.ndarray


def known(task: Task, texts: int, seed: int = 10_000, codec: Codec | None = None) -> Known:
    """Texts of a task, as a model reads them.

    Args:
        seed: of the texts; training must not have drawn from it (``data=recall:TASK`` draws from 0).
        codec: of a run that was trained on the task's characters; None: the model reads the task's ids.

    Raises:
        UsageError: a codec that does not read a character as a token.
    """
    rows_NT, lessons = task.rows(texts, seed)
    if codec is None:
        return _known(rows_NT, lessons, 0, task.classes_V)
    spelled = codec.encode_batch(list(task.characters))
    if any(len(ids) != 1 for ids in spelled):
        raise UsageError(
            f"a tokenizer that does not read the characters of {task.name} as tokens",
            expected="codec.kind=chars",
            next=f"exnihilo train recall data=recall:{task.name}",
        )
    ids_V = np.array([ids[0] for ids in spelled], np.int64)
    classes = -1 - np.arange(codec.vocab_size)  # what is no part of the task stays: a class of its own
    classes[ids_V] = task.classes_V
    begin_N1 = np.full((len(rows_NT), 1), codec.bos_id, np.int64)
    return _known(np.concatenate((begin_N1, ids_V[rows_NT]), 1), lessons, 1, classes)


def _known(rows_NT: np.ndarray, lessons: Sequence[Lesson], first: int, classes_V: np.ndarray) -> Known:
    def moved(places: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(t + first for t in places)

    truth = tuple(moved(lesson.truth) for lesson in lessons)
    idle = tuple(moved(lesson.idle) for lesson in lessons)
    return Known(rows_NT[:, :-1].astype(np.int64), rows_NT[:, -1], truth, idle, classes_V)


def accuracy(subject: Subject, texts: Known) -> float:
    """Share of right answers."""
    right = 0
    with influence.quiet(subject), torch.no_grad():
        for row_T, answer in zip(texts.rows_NT, texts.answers_N, strict=True):
            raw = {"tokens": torch.from_numpy(row_T[None]).to(subject.device)}
            right += int(subject.logp(raw, [len(row_T) - 1])[0, 0].argmax()) == int(answer)
    return right / len(texts.rows_NT)


def score(found: influence.Influence, texts: Known, *, method: str, task: str, right: float) -> Faith:
    """A measure's values on the last site, held against the truth; what was not measured counts as none."""
    values_NT = np.nan_to_num(found.on(-1)[0])
    hits, false, idle_count, nats = 0, 0, 0, []
    for values_T, true, idle in zip(values_NT, texts.truth, texts.idle, strict=True):
        best = max((values_T[t] for t in true), default=0.0)
        other = max((values_T[t] for t in idle), default=0.0)
        hits += int(best > other)
        top = max(best, other)
        false += int((values_T[list(idle)] > SHARE * top).sum()) if top > 0 else len(idle)
        idle_count += len(idle)
        nats.append(best)
    return Faith(
        method,
        task,
        right,
        hits / len(values_NT),
        false / max(1, idle_count),
        float(np.mean(nats)),
        found.seconds,
        found.forwards,
    )


def judge(
    model: Model,
    task: Task,
    *,
    method: str = "resampling",
    texts: int = 32,
    seed: int = 10_000,
    codec: Codec | None = None,
    draws: int | None = None,
) -> Faith:
    """One measure on one task, on texts of their own.

    Args:
        model: a decoder that reads the task's ids, or with `codec` its characters.
        method: one of `METHODS`.
        seed: of the texts; training must not have drawn from it.
        draws: swaps of a position, of measures that swap.
    """
    subject, told = Subject(model, "tokens"), known(task, texts, seed, codec)
    swap = influence.Others(told.rows_NT, told.classes_V)
    found = measure(subject, told.rows_NT, method, swap=swap, seed=seed, draws=draws)
    return score(found, told, method=method, task=task.name, right=accuracy(subject, told))


def measure(
    subject: Subject,
    rows: influence.Given,
    method: str,
    *,
    swap: influence.Swap | None = None,
    seed: int = 0,
    draws: int | None = None,
) -> influence.Influence:
    """Influence on the last site by a method's name."""
    more: dict[str, Any] = {} if draws is None else {"draws": draws}
    ways: dict[str, Callable[[], influence.Influence]] = {
        "resampling": lambda: influence.resampling(
            subject, rows, swap=swap, sites=None if subject.single else [-1], seed=seed, **more
        ),
        "screened": lambda: influence.screened(subject, rows, swap=swap, seed=seed, **more),
        "gradient_norm": lambda: influence.gradient_norms(
            subject, rows, sites=None if subject.single else [-1], seed=seed
        ),
        "integrated_gradients": lambda: influence.integrated_gradients(subject, rows),
        "rollout": lambda: _by_attention(subject, Rows.of(rows), attention.rollout),
        "last_layer": lambda: _by_attention(subject, Rows.of(rows), attention.last_layer),
    }
    if method not in ways:
        raise UsageError(f"no measure {method!r}", expected=", ".join(METHODS))
    return ways[method]()


def _by_attention(
    subject: Subject, rows: Rows, read: Callable[[list[torch.Tensor]], torch.Tensor]
) -> influence.Influence:
    begun = time.perf_counter()
    values = []
    for n in range(len(rows)):  # one at a time: weights are T×T
        weights = attention.attention_weights(subject.model, subject.inputs(rows.batch(n, subject.device)))
        values.append(read(weights)[0, -1].double().cpu().numpy())
    found = influence.Influence(np.stack(values)[:, None], (rows.lengths[0] - 1,), 0.0, len(rows))
    return replace(found, seconds=time.perf_counter() - begun)
