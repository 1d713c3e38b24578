"""Items of the embedded world for each suite: of held-out documents, which no training has seen.

list(passages(DataConfig(sources="world:50")))
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice

from exnihilo.config import DataConfig
from exnihilo.eval.suites import _shapes
from exnihilo.eval.suites._records import world_count

ITEMS = 200  # where no number is given
SUMS = ("add", "subtract", "multiply", "largest", "count")
"""Kinds of the world's tasks whose answer is a number."""


def passages(data: DataConfig) -> Iterator[_shapes.Passage]:
    """Stories, cut before their last word."""
    for text in stories(data):
        found = _shapes.last_word(text)
        if not isinstance(found, str):
            yield found


def stories(data: DataConfig) -> Iterator[str]:
    """Held-out documents."""
    from exnihilo.world import World
    from exnihilo.world.document import HELD_OUT

    world = World(0)
    for index in range(world_count(data, ITEMS)):
        yield world.document(HELD_OUT + index).text


def questions(data: DataConfig) -> Iterator[_shapes.Question]:
    """The world's probes, one kind after the other by turns: the story's own truth, facts of the world."""
    from exnihilo.world import World
    from exnihilo.world.probes import KINDS, probes

    total = world_count(data, ITEMS)
    world = World(0)
    kinds = [probes(world, kind, total) for kind in KINDS]
    for number in range(total):
        probe = next(kinds[number % len(kinds)])
        choices = tuple(choice.strip() for choice in probe.choices)
        yield _shapes.Question(probe.prompt, choices, probe.answer, False)


def problems(data: DataConfig) -> Iterator[_shapes.Problem]:
    """The world's tasks whose answer is a number, by turns; no question twice."""
    from exnihilo.world import World
    from exnihilo.world.document import HELD_OUT
    from exnihilo.world.views import VIEWS

    world, told = World(0), set()

    def all_of_them() -> Iterator[_shapes.Problem]:
        for index in count():
            kind = SUMS[index % len(SUMS)]
            for values in VIEWS["tasks"].make(world.document(HELD_OUT + index), kind):
                asked = values["prompt"][-1]["content"]
                if asked not in told:
                    told.add(asked)
                    yield _shapes.Problem(asked, str(values["answer"]), values["record"])

    yield from islice(all_of_them(), world_count(data, ITEMS))
