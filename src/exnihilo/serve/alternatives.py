"""How many alternatives an objective lists, for one request: answers of a question, words of a gap.

    with listing(objective, 20):
        objective.decode(...)       # 20, whatever it was trained with
    trimmed(prediction, objective, 3)

Only the thread that owns the objective may use this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from exnihilo.predictions.run import top

if TYPE_CHECKING:
    from exnihilo.objective.base import Objective

_NAMES = ("top_k", "n_best")


def _each(objective: Objective) -> Iterator[tuple[Objective, str, int]]:
    """Every option that says how many."""
    members: Mapping[str, Objective] = getattr(objective, "members", {})
    for one in (objective, *members.values()):
        for name in _NAMES:
            now = getattr(one.config, name, None)
            if isinstance(now, int) and not isinstance(now, bool):
                yield one, name, now


@contextmanager
def listing(objective: Objective, k: int | None) -> Iterator[None]:
    """Within, an objective that lists alternatives lists `k` of them; None: as it was set."""
    before = [(one, one.config) for one, _, _ in _each(objective)] if k is not None else []
    try:
        if k is not None:
            for one, name, _ in list(_each(objective)):
                one.config = one.config.model_copy(update={name: k})
        yield
    finally:
        for one, config in before:
            one.config = config


def usual(objective: Objective) -> int | None:
    """How many it lists by itself; None: it lists none."""
    return max((now for _, _, now in _each(objective)), default=None)


def trimmed(prediction: dict[str, Any], objective: Objective, k: int | None) -> dict[str, Any]:
    """A prediction with at most `k` alternatives; None: as many as the objective gives by itself."""
    if k is not None:
        return top(prediction, k)
    many = usual(objective)
    if many is None or not isinstance(prediction.get("gaps"), list):
        return prediction
    return {**prediction, "gaps": [gap[:many] for gap in prediction["gaps"]]}
