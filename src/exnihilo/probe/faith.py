"""Whether a map of influence is to be trusted: measured on tasks whose truth is known.

::

    found = judge(model, make("needle", length=64))
    found.hit, found.false_positives, found.trusted

A measure *hits* a text if the position that the right answer depends on gets the largest influence among
those of its class, and is *false* at a position that the answer cannot depend on, if that gets more than
`SHARE` of the largest. A model that has not learnt the task depends on nothing: its map says so, and no map
is judged by it.

Key: N texts, T positions
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from exnihilo.probe import attention, influence
from exnihilo.probe.subject import Subject
from exnihilo.probe.tasks import Task

if TYPE_CHECKING:
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
        seconds: for all texts.
    """

    method: str
    task: str
    accuracy: float
    hit: float
    false_positives: float
    nats: float
    seconds: float

    @property
    def trusted(self) -> bool:
        """Whether the map finds what is there and nothing else, in a model that has learnt the task."""
        return self.accuracy >= LEARNT and self.hit >= HIT and self.false_positives <= FALSE

    @property
    def verdict(self) -> str:
        """In words."""
        if self.accuracy < LEARNT:
            return f"the model has not learnt {self.task} ({self.accuracy:.0%} right): no truth to find in it"
        if self.trusted:
            return f"{self.method} is to be trusted on {self.task}"
        return (
            f"{self.method} is not to be trusted on {self.task}: it hits {self.hit:.0%} and is false at "
            f"{self.false_positives:.0%} of the idle positions"
        )


def judge(
    model: Model, task: Task, *, method: str = "resampling", texts: int = 32, seed: int = 10_000
) -> Faith:
    """One measure on one task, on texts of their own.

    Args:
        model: a decoder that reads the task's ids.
        method: one of `METHODS`.
        seed: of the texts; training must not have drawn from it.
    """
    subject = Subject(model, "tokens")
    rows_NT, lessons = task.rows(texts, seed)
    read_NT = rows_NT[:, :-1]
    with influence.quiet(subject), torch.no_grad():
        logp_N1V = subject.logp(
            {"tokens": torch.from_numpy(read_NT).to(subject.device)}, [read_NT.shape[1] - 1]
        )
    right = logp_N1V[:, 0].argmax(-1).cpu().numpy() == rows_NT[:, -1]
    swap = influence.Others(read_NT, task.classes_V)
    found = measure(subject, read_NT, method, swap=swap, seed=seed)
    nats_NT = np.nan_to_num(found.nats_NQT[:, 0])
    hits, false, idle_count, nats = 0, 0, 0, []
    for values_T, lesson in zip(nats_NT, lessons, strict=True):
        true, idle = list(lesson.truth), list(lesson.idle)
        best = max((values_T[t] for t in true), default=0.0)
        other = max((values_T[t] for t in idle), default=0.0)
        hits += best > other
        top = max(best, other)
        false += int((values_T[idle] > SHARE * top).sum()) if top > 0 else len(idle)
        idle_count += len(idle)
        nats.append(best)
    return Faith(
        method,
        task.name,
        float(right.mean()),
        hits / len(lessons),
        false / max(1, idle_count),
        float(np.mean(nats)),
        found.seconds,
    )


def measure(
    subject: Subject,
    rows_NT: np.ndarray,
    method: str,
    *,
    swap: influence.Swap | None = None,
    seed: int = 0,
) -> influence.Influence:
    """Influence on the last site by a method's name."""
    ways: dict[str, Callable[[], influence.Influence]] = {
        "resampling": lambda: influence.resampling(subject, rows_NT, swap=swap, sites=[-1], seed=seed),
        "screened": lambda: influence.screened(subject, rows_NT, swap=swap, seed=seed),
        "gradient_norm": lambda: influence.gradient_norms(subject, rows_NT, sites=[-1], seed=seed),
        "integrated_gradients": lambda: influence.integrated_gradients(subject, rows_NT),
        "rollout": lambda: _by_attention(subject, rows_NT, attention.rollout),
        "last_layer": lambda: _by_attention(subject, rows_NT, attention.last_layer),
    }
    return ways[method]()


def _by_attention(
    subject: Subject, rows_NT: np.ndarray, read: Callable[[list[torch.Tensor]], torch.Tensor]
) -> influence.Influence:
    tokens_NT = torch.from_numpy(np.ascontiguousarray(rows_NT)).to(subject.device)
    weights = attention.attention_weights(subject.model, {"tokens": tokens_NT})
    values_NT = read(weights)[:, -1].double().cpu().numpy()
    return influence.Influence(values_NT[:, None], (rows_NT.shape[1] - 1,), 0.0, len(rows_NT))
