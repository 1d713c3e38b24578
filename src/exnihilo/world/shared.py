"""Steps that several plots share: the opening, a walk, a meeting, an ending."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .facts import Cands, Entity, Person, Place, Word
from .places import WEATHER

if TYPE_CHECKING:
    from .chooser import Teller

SKY = {name: Cands(map(Word, clauses)) for name, clauses in WEATHER.items()}
DAY = {name: Word(name) for name in ("morning", "afternoon", "evening", "day")}


def opening(c: Teller, a: Person | Cands[Person]) -> Person:
    """The first sentences; `a` is the hero, or those who may be. Returns the hero."""
    g = c.world.grammar
    if isinstance(a, Cands):
        kind, bound = c.say((3, g.ONCE, {"a": a}), (1, g.ONCE_HOME, {"a": a}))
        hero: Person = bound["a"]
        c.used.update((g.I_JOB, g.I_HOME) if kind is g.ONCE_HOME else (g.I_JOB,))
    else:
        hero = a
    c.ctx["a"], c.ctx["habit"] = hero, hero.habits
    bound = c.one(g.OPEN, a=hero, p=c.world.starts[hero])
    c.ctx["sky"] = SKY[bound["weather"].name]
    c.ctx["day"] = DAY.get(bound["time"].name, DAY["day"])
    c.at(bound["p"])
    return hero


def others(c: Teller, *taken: Entity) -> Cands[Person]:
    """The people who are none of these."""
    return c.world.others[taken[0]] if len(taken) == 1 else c.world.people.without(*taken)


def elsewhere(c: Teller, *taken: Place) -> Cands[Place]:
    """The places that are none of these."""
    return c.world.elsewhere[taken[0]] if len(taken) == 1 else c.world.places.without(*taken)


def travel(c: Teller, a: Person, q: Place | Cands, pad: int = 1) -> Place:
    """The hero goes somewhere. Returns where."""
    there = c.one(c.world.grammar.GO, pad, a=a, q=q)["q"]
    c.at(there)
    return there


def meet(c: Teller, a: Person, b: Person | Cands, pad: int = 1) -> Person:
    """The hero meets somebody here; they may greet each other. Returns whom."""
    return c.one(c.world.grammar.MEET, pad, a=a, b=b, p=c.ctx["p"])["b"]


def glad(c: Teller, a: Person) -> None:
    """A happy end for a."""
    c.one(c.world.grammar.E_GLAD, a=a)


def sad(c: Teller, a: Person) -> None:
    """A sad end for a."""
    c.one(c.world.grammar.E_SAD, a=a)
