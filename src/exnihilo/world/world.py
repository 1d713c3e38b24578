"""The world: its facts, its grammar, and its documents.

    world = World(seed=0)
    world.document(7).text
    for doc in world.stories(1000): ...
    world.log_prob(text)                # exact, nats; -inf if the world cannot tell it

`seed` fixes the facts (who lives where ...) and the stream of stories. Document i is a pure function of
(seed, i), so training and validation are ranges of indices: by custom, training counts up from 0 and
held-out documents start at `HELD_OUT`.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import cached_property
from itertools import count, islice

from . import things as w
from .chooser import Enumerator, Sampler
from .document import HELD_OUT, Document
from .facts import Cands, Entity, FactSheet, Person, Place, Size, Word, cands
from .grammar import Grammar
from .places import TIMES, WEATHER
from .plots import Plots, tell
from .plots_life import COUNTS, ORDINALS
from .probes import Probe, probes
from .rng import Draws, stream
from .score import Floor, Parse, Recogniser, floor, parse, split
from .talks import Dialogue, Preference, dialogues, preferences
from .tasks import MAKERS, Task, tasks

NUMBERS = (
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "twelve",
    "fifteen",
    "twenty",
)


class World:
    """A little world that tells stories and knows what is true in them.

    Args:
        seed: fixes the facts and the stories.
        size: how much of the lexicon and grammar to use (tests enumerate tiny worlds).

    Example:
        >>> World(0).document(0).title == World(0).document(0).title
        True
    """

    def __init__(self, seed: int = 0, size: Size | None = None) -> None:
        self.seed = seed
        self.sheet = sheet = FactSheet(seed, size)
        n = sheet.size.words
        self.people, self.places = Cands(sheet.people), Cands(sheet.places)
        self.things, self.animals = Cands(sheet.things), Cands(sheet.animals)
        nouns = list(dict.fromkeys(t.noun for t in sheet.things))
        even = set(nouns[::2])
        self.things_even = Cands(t for t in sheet.things if t.noun in even)
        self.things_odd = Cands([t for t in sheet.things if t.noun not in even] or sheet.things)
        self.others: dict[Entity, Cands[Person]] = {p: self.people.without(p) for p in sheet.people}
        self.elsewhere: dict[Entity, Cands[Place]] = {p: self.places.without(p) for p in sheet.places}
        self.apart = {p: Cands(q for q in sheet.people if q.job != p.job) for p in sheet.people}
        self.starts: dict[Entity, Cands] = {p: Cands((p.home, p.work)) for p in sheet.people}
        crafts = {"smith", "carpenter", "clockmaker", "potter", "weaver", "stonemason", "painter", "miller"}
        self.craft = self._craft(crafts)
        numbers = [Word(word) for word in NUMBERS]
        self.prices = Cands(numbers[2 : 2 + n])
        self.below: dict[Entity, Cands] = {
            x: Cands(numbers[max(0, i - n) : i]) for i, x in enumerate(numbers) if i
        }
        fodder = {x: Word(x.food) for x in sheet.animals}
        self.fodder: dict[Entity, Cands] = {
            x: Cands([v for k, v in fodder.items() if k is not x] or [Word("hay")]) for x in sheet.animals
        }
        self.ordinals = tuple(map(Word, ORDINALS))
        self.counts = tuple(map(Word, COUNTS))
        words = {
            "weather": tuple(WEATHER), "time": TIMES, "glad": w.GLAD, "sad": w.SAD, "go": w.GO, "road":
            w.ROADS,
            "way": w.WAYS, "praise": w.PRAISE, "where": w.SEARCHED, "hid": w.HIDING,
        }  # fmt: skip
        self.lex: dict = {name: cands(values[:n]) for name, values in words.items()}
        self.lex["x"] = self.animals
        self.grammar = Grammar()
        self.plots = Plots(self, self.grammar)

    def _craft(self, jobs: set[str]) -> Cands[Person]:
        """Who can mend things: in a tiny world, everybody."""
        able = [person for person in self.sheet.people if person.job in jobs]
        return Cands(able if len(able) > 3 else self.sheet.people)

    # documents

    def document(self, i: int) -> Document:
        """Document i of this world, i >= 0: a pure function of (seed, i)."""
        teller = Sampler(self, stream(self.seed, 0x57042, i))
        tell(teller)
        return Document(self, i, teller.steps, teller.log_prob)

    def stories(self, n: int | None = None, start: int = 0) -> Iterator[Document]:
        """Documents start, start+1, ...: n of them, or without end."""
        for i in count(start) if n is None else range(start, start + n):
            yield self.document(i)

    def numbered(self, n: int | None = None, start: int = 0) -> Iterator[Document]:
        """The same documents with their numbers alone, nothing told: for what is drawn of a number."""
        for i in count(start) if n is None else range(start, start + n):
            yield Document(self, i, (), 0.0)

    def enumerate(self) -> Iterator[tuple[Document, Fraction]]:
        """Every derivation of this world with its exact probability: for tiny worlds only."""
        path: list[int] = []
        while True:
            teller = Enumerator(self, path)
            tell(teller)
            yield Document(self, None, teller.steps, teller.log_prob), teller.probability
            sizes = teller.sizes
            path = (path + [0] * len(sizes))[: len(sizes)]
            while path and path[-1] + 1 == sizes[len(path) - 1]:
                path.pop()
            if not path:
                return
            path[-1] += 1

    # scores

    def parse(self, text: str) -> Parse:
        """The derivation of a text and its exact probability; says where a foreign text leaves the world."""
        return parse(self, text)

    def read(self, text: str) -> Document | None:
        """The document with its ground truth, from its text alone; None if the world cannot tell it."""
        found = parse(self, text)
        return Document(self, None, found.steps, found.log_prob) if found.derivations else None

    def log_prob(self, text: str) -> float:
        """The exact log-probability of a whole document's text, in nats; -inf if the world cannot tell it."""
        return parse(self, text).log_prob

    def entropy_floor(self, n: int = 2000, start: int = HELD_OUT) -> Floor:
        """The entropy of this world, estimated from n documents, with a 95% interval."""
        return floor(self, n, start)

    @cached_property
    def domain(self) -> dict[str, tuple[Entity, ...]]:
        """Every value that a slot of that name may hold."""
        sheet = self.sheet
        out: dict[str, tuple[Entity, ...]] = {name: v.items for name, v in self.lex.items()}
        out |= {var: tuple(sheet.people) for var in "abcd"}
        out |= {var: tuple(sheet.places) for var in "pqr"}
        out |= {var: tuple(sheet.things) for var in "tu"}
        out["x"] = tuple(sheet.animals)
        out["clause"] = tuple(word for place in sheet.places for word in place.clauses.items)
        out["habit"] = tuple(word for person in sheet.people for word in person.habits.items)
        out["sky"] = tuple(Word(clause) for clauses in WEATHER.values() for clause in clauses)
        out["day"] = tuple(map(Word, ("morning", "afternoon", "evening", "day")))
        out["num"] = out["less"] = tuple(map(Word, NUMBERS))
        out["nth"], out["count"] = self.ordinals, self.counts
        out["fodder"] = tuple(Word(x.food) for x in sheet.animals)
        return out

    def probes(self, kind: str, n: int, seed: int = 0) -> list[Probe]:
        """n probes, "consistency" (the story's own truth) or "recall" (facts), from held-out documents."""
        return list(probes(self, kind, n, seed))

    # what the later stages of training need

    @cached_property
    def word_list(self) -> list[str]:
        """Single lower-case words, for copying, sorting and counting."""
        nouns = {thing.noun for thing in self.sheet.things} | {place.n for place in self.sheet.places}
        return sorted(nouns | {animal.kind for animal in self.sheet.animals})

    @property
    def task_kinds(self) -> tuple[str, ...]:
        return tuple(MAKERS)

    def tasks(self, n: int, seed: int = 0, kind: str | None = None, size: int = 2) -> Iterator[Task]:
        """n verifiable tasks of one of `task_kinds`, or of all in turn; `size` sets how hard they are."""
        return islice(tasks(Draws(self.seed, seed, 0x7A5C), kind, self.word_list, size), n)

    def dialogues(self, n: int, seed: int = 0, kind: str | None = None) -> Iterator[Dialogue]:
        """n dialogues with checkable answers: "fact", "story", "task", "tell", or all in turn."""
        return dialogues(self, n, seed, kind)

    def preferences(self, n: int, seed: int = 0, property: str | None = None) -> Iterator[Preference]:
        """n preference pairs: "polite", "honest", "brief", "complete", "kind", or all in turn."""
        return preferences(self, n, seed, property)

    @cached_property
    def recogniser(self) -> Recogniser:
        return Recogniser(self)

    def well_formed(self, text: str, *, drop_last: bool = False) -> float:
        """The share of a text's sentences (and title lines) that the grammar can tell, from 0 to 1.

        Args:
            drop_last: leave out the last sentence if it does not end in . ! or ?, as a generation that hit
            its limit does.
        """
        sentences = split(text)
        if drop_last and sentences and sentences[-1].rstrip('"')[-1:] not in (".", "!", "?"):
            sentences.pop()
        if not sentences:
            return 0.0
        return sum(map(self.recogniser, sentences)) / len(sentences)


def stories(seed: int = 0, n: int | None = None, start: int = 0) -> Iterator[Document]:
    """Documents of the world with this seed."""
    return World(seed).stories(n, start)
