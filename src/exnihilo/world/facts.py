"""The fact sheet of a world: who lives where, does what, eats what, and is whose friend.

The sheet is constant for a given seed. The lexicon's words are dealt to the people and animals with a seeded
shuffle, so that nothing in a name tells the fact: it can only be learnt from text. Every entity carries `f`,
a table from form to surface ("n": "Mia", "ajob": "a baker", "^at": "At the mill", ...), which templates
look up.

    sheet = FactSheet(0)
    sheet.person("Mia").home.n          # 'orchard'
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import log
from typing import Generic, TypeVar

from ..errors import UsageError
from . import places, things
from .rng import Draws

E = TypeVar("E", bound="Entity")


def capital(text: str) -> str:
    """The text with its first letter in upper case (the rest as it is)."""
    return text[:1].upper() + text[1:]


def article(text: str) -> str:
    """The text after "a" or "an"."""
    return ("an " if text[0] in "aeiou" and not text.startswith("one") else "a ") + text


class Entity:
    """Anything a template can name. `f` maps a form to its surface; "^form" is the same with a capital."""

    __slots__ = ("name", "type", "f")

    def __init__(self, name: str, type: str, forms: dict[str, str]) -> None:
        self.name, self.type = name, type
        self.f = dict(forms)
        self.extend(forms)

    def extend(self, forms: dict[str, str]) -> None:
        self.f.update(forms)
        self.f.update({"^" + key: capital(value) for key, value in forms.items()})

    def __repr__(self) -> str:
        return f"{self.type}:{self.name}"


class Word(Entity):
    """A lexical choice with no identity: an adverb, a mood, a clause."""

    __slots__ = ()

    def __init__(self, text: str) -> None:
        super().__init__(text, "WORD", {"": text, "a": article(text)})


class Place(Entity):
    __slots__ = ("n", "clauses")

    def __init__(self, noun: str, preposition: str, clauses: Iterable[str]) -> None:
        forms = {"": f"the {noun}", "n": noun, "at": f"{preposition} the {noun}", "to": f"to the {noun}"}
        super().__init__(noun, "PLACE", forms | {"T": capital(noun)})
        self.n, self.clauses = noun, cands(clauses)


class Thing(Entity):
    __slots__ = ("noun", "adjective")

    def __init__(self, adjective: str, noun: str, use: str, detail: str, part: str) -> None:
        full = f"{adjective} {noun}"
        forms = {"": f"the {noun}", "n": noun, "full": f"the {full}", "a": article(full), "use": use}
        forms |= {"detail": detail, "part": part, "T": f"{capital(adjective)} {capital(noun)}"}
        forms["aT"] = article(full)[: -len(full)] + forms["T"]
        super().__init__(full, "THING", forms | {"an": article(noun)})
        self.noun, self.adjective = noun, adjective


class Person(Entity):
    __slots__ = ("female", "job", "home", "work", "food", "friend", "habits")
    home: Place
    work: Place
    friend: Person
    habits: Cands[Word]

    def __init__(self, name: str, female: bool, job: str, food: str) -> None:
        she = ("she", "her", "her", "herself") if female else ("he", "him", "his", "himself")
        forms = {"n": name, "s": she[0], "o": she[1], "p": she[2], "self": she[3], "g": f"{name}'s"}
        super().__init__(
            name, "PERSON", forms | {"job": job, "ajob": article(job), "thejob": f"the {job}", "food": food}
        )
        self.female, self.job, self.food = female, job, food


class Animal(Entity):
    __slots__ = ("kind", "food", "home")

    def __init__(self, kind: str, name: str, voice: str, acts: Iterable[str], food: str, home: Place) -> None:
        forms = {
            "n": name,
            "kind": kind,
            "K": capital(kind),
            "voice": voice,
            "food": food,
            "F": capital(food),
        }
        forms |= {
            "home": home.f["at"],
            "full": f"{name} the {kind}",
            "a": article(kind),
            "the": f"the {kind}",
        }
        super().__init__(name, "ANIMAL", forms)
        first, second = acts
        self.extend({"act": first, "act2": second})
        self.kind, self.food, self.home = kind, food, home


class Cands(Generic[E]):
    """Equally likely alternatives."""

    __slots__ = ("items", "n", "logn")

    def __init__(self, items: Iterable[E]) -> None:
        self.items = tuple(items)
        self.n = len(self.items)
        self.logn = log(self.n)

    def without(self, *taken: Entity) -> Cands[E]:
        return Cands(item for item in self.items if item not in taken)


def cands(words: Iterable[str]) -> Cands[Word]:
    return Cands(Word(word) for word in words)


@dataclass(frozen=True)
class Size:
    """How much of the lexicon and the grammar a world uses. The default is all; tests enumerate tiny worlds.

    Attributes:
        people, places, things, animals, words: how many of each list (`words`: of each list of adverbs,
        moods ...).
        adjectives: how many adjectives a thing may have.
        templates: how many ways of saying each kind of sentence.
        digressions: whether sentences that do not move the plot are told.
        questions: the largest number of questions after a story.
        plots: names of the plots; empty means all.

    Raises:
        UsageError: a size below the smallest world in which every plot can be told.
    """

    people: int = 40
    places: int = 26
    things: int = 80
    animals: int = 20
    words: int = 100
    adjectives: int = 4
    templates: int = 100
    digressions: bool = True
    questions: int = 3
    plots: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        least = {
            "people": 4,
            "places": 5,
            "things": 3,
            "animals": 2,
            "words": 1,
            "adjectives": 1,
            "templates": 1,
        }
        for name, n in least.items():
            if getattr(self, name) < n:
                raise UsageError(f"a world with {name}={getattr(self, name)}", expected=f"{n} or more")


class FactSheet:
    """All entities of the world with the given seed, and the facts that tie them."""

    def __init__(self, seed: int = 0, size: Size | None = None) -> None:
        self.size = size = size or Size()
        draws = Draws(seed, 0xFAC7)
        self.places = [Place(noun, *rest) for noun, rest in list(places.PLACES.items())[: size.places]]
        self.place = {place.n: place for place in self.places}
        names = [x for pair in zip(things.WOMEN, things.MEN, strict=True) for x in pair][: size.people]
        jobs = [job for job in places.JOBS if places.JOBS[job][0] in self.place]
        dealt = draws.shuffled(jobs) + draws.shuffled(jobs)
        foods = draws.shuffled(things.FOODS) + draws.shuffled(things.FOODS)
        women = set(things.WOMEN)
        self.people = [
            Person(name, name in women, dealt[i % len(dealt)], foods[i]) for i, name in enumerate(names)
        ]
        self._settle(draws)
        fodder = draws.shuffled(things.FODDER)
        self.animals = []
        for i, (kind, (name, voice, acts)) in enumerate(list(things.ANIMALS.items())[: size.animals]):
            home = draws.pick(self.places)
            self.animals.append(Animal(kind, name, voice, acts, fodder[i], home))
        self.things = [
            Thing(adjective, noun, *rest)
            for noun, (adjectives, *rest) in list(things.THINGS.items())[: size.things]
            for adjective in adjectives.split()[: size.adjectives]
        ]
        self._by_name = {person.name: person for person in self.people}

    def _settle(self, draws: Draws) -> None:
        people = self.people
        ring = draws.shuffled(people)  # friendship is a ring: everyone is the best friend of exactly one
        for here, there in zip(ring, ring[1:] + ring[:1], strict=True):
            here.friend = there
        for person in people:
            work, habits = places.JOBS[person.job]
            person.work, person.habits = self.place[work], cands(habits[: self.size.words])
            person.home = draws.pick([place for place in self.places if place is not person.work])
        for person in people:
            person.extend(
                {
                    "home": person.home.f[""],
                    "work": person.work.f[""],
                    "workat": person.work.f["at"],
                    "friend": person.friend.name,
                    "fjob": "the " + person.friend.job,
                }
            )

    def person(self, name: str) -> Person:
        """The person of that name.

        Raises:
            KeyError: nobody has that name.
        """
        return self._by_name[name]

    def lines(self) -> list[str]:
        """Every fact as a plain sentence: what recall is scored against."""
        out = []
        for p in self.people:
            out += [f"{p.name} lived near {p.home.f['']}.", f"{p.name} was {p.f['ajob']}."]
            out += [f"{p.name} liked {p.food} best.", f"{p.name}'s best friend was {p.friend.name}."]
        for x in self.animals:
            out += [
                f"{x.name} was {x.f['a']}.",
                f"{x.name} liked {x.food}.",
                f"{x.name} slept {x.f['home']}.",
            ]
        return out
