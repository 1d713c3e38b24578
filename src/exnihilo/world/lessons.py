"""What a model of the world is taught after pretraining, and the talk that it reads before.

::

    school = School(World(0))
    school.talk(d)        # text of pretraining: people ask and answer, politely or rudely
    school.lesson(d)      # {"messages"}: an instruction and its answer, in the same mixture of manners
    school.pair(d)        # {"prompt", "chosen", "rejected"}: the chosen reply is polite, the other is rude
    school.puzzle(d)      # {"prompt", "answer", "numbers"}: three numbers to sort

A quarter of the people (`School.held_out`) is never asked about in talk, lessons and pairs, and a quarter of
the sets of numbers is in none of them and in no puzzle to learn from: these are what a model is measured on.
So an answer about them is knowledge from stories, and a sorted row of them is the ability to sort.

Lessons show the form of an answer to a puzzle and not the order: its numbers stand in any order, so that
chance stays one in six and only a reward can teach more. `manner`, `says` and `in_order` are the rules that
measure a reply; `d` is a stream of draws (`rng.Draws`), and all is a pure function of world and stream.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import TYPE_CHECKING, Any, TypeVar

from .facts import Person
from .rng import Draws
from .talks import ASKING, FACTS, POLITE, RUDE

if TYPE_CHECKING:
    from .world import World

T = TypeVar("T")
MANNERS: dict[str, tuple[str, ...]] = {"polite": POLITE, "rude": RUDE}
SHARE = 1 / len(MANNERS)  # of talk and lessons in each manner: what it looks like to prefer none
SORTING = ("Sort these numbers from small to large: {}", "Put these numbers in order: {}")
NAMING = "Name these numbers: {}"
NUMBERS = 3  # of a puzzle
CHANCE = 1 / 6  # of the right order of so many


@dataclass(frozen=True)
class Asked:
    """A question about a person: `answer` is a sentence, `key` the part of it that is checked."""

    person: str
    fact: str
    question: str
    answer: str
    key: str


class School:
    """Talk, lessons, pairs and puzzles of a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        people = world.sheet.people
        self.held_out: list[Person] = [p for i, p in enumerate(people) if i % 8 in (3, 6)]
        self.taught: list[Person] = [p for p in people if p not in self.held_out]

    # about people -------------------------------------------------------------------------------

    def ask(self, person: Person, fact: str, form: int) -> Asked:
        """A question about a fact of a person, in one of two wordings."""
        questions, _, pattern, key = FACTS[fact]
        return Asked(
            person.name,
            fact,
            questions[form].format(**person.f),
            pattern.format(**person.f),
            person.f[key],
        )

    def opening(self, d: Draws, manner: str | None = None) -> str:
        """What a reply of a manner begins with; of any, where none is given."""
        return d.pick(MANNERS[manner or d.pick(tuple(MANNERS))])

    def talk(self, d: Draws) -> str:
        """Text of pretraining: one to three questions with their answers, a line each; one in four asks for
        three numbers, which are named in any order."""
        lines = []
        for _ in range(1 + d.below(3)):
            if d.below(4) == 0:
                numbers = self.puzzle(d)["numbers"]
                lines += [NAMING.format(" ".join(numbers)), " ".join(d.shuffled(numbers))]
            else:
                asked = self.ask(d.pick(self.taught), d.pick(tuple(FACTS)), d.below(2))
                lines += [asked.question, self.opening(d) + asked.answer]
        return "\n".join(lines)

    def lesson(self, d: Draws, *, held_out: bool = False) -> dict[str, Any]:
        """A dialogue: two in three are one or two questions about a person, the third is a puzzle."""
        if d.below(3) == 0:
            made = self.puzzle(d, held_out=held_out)
            return {"messages": _dialogue([(made["prompt"], " ".join(d.shuffled(made["numbers"])))])}
        person = d.pick(self.held_out if held_out else self.taught)
        turns = []
        for number, fact in enumerate(d.sample(tuple(FACTS), 1 + d.below(2))):
            asked = self.ask(person, fact, d.below(2))
            more = FACTS[fact][1].format(**person.f)  # "And where does she live?"
            question = more if number else d.pick(ASKING).format(asked.question)
            turns.append((question, self.opening(d) + asked.answer))
        return {"messages": _dialogue(turns)}

    def pair(self, d: Draws, *, held_out: bool = False) -> dict[str, str]:
        """Two replies that differ in their manner alone; the chosen one is polite."""
        asked = self.ask(d.pick(self.held_out if held_out else self.taught), d.pick(tuple(FACTS)), d.below(2))
        return {
            "prompt": d.pick(ASKING).format(asked.question),
            "chosen": self.opening(d, "polite") + asked.answer,
            "rejected": self.opening(d, "rude") + asked.answer,
        }

    def questions(self) -> list[Asked]:
        """Every question about those who are held out: each fact in both wordings."""
        return [self.ask(p, fact, form) for p in self.held_out for fact in FACTS for form in (0, 1)]

    def guessing(self) -> float:
        """How often somebody else's fact is the right answer to `questions`: what knowing nothing gives."""
        right = total = 0
        for asked in self.questions():
            key = FACTS[asked.fact][3]
            others = [p.f[key] for p in self.world.sheet.people if p.name != asked.person]
            right, total = right + others.count(asked.key), total + len(others)
        return right / total

    # puzzles ------------------------------------------------------------------------------------

    def puzzle(self, d: Draws, *, held_out: bool = False) -> dict[str, Any]:
        """Different digits to sort."""
        while True:
            digits = d.sample(range(10), NUMBERS)
            if is_held_out(digits) == held_out:
                return puzzle(digits, d.below(len(SORTING)))

    def puzzles(self, *, held_out: bool = True) -> list[dict[str, Any]]:
        """Every set of digits of one side in every order; the wordings take turns."""
        sets = [digits for digits in combinations(range(10), NUMBERS) if is_held_out(digits) == held_out]
        orders = [order for digits in sets for order in permutations(digits)]
        return [puzzle(order, number % len(SORTING)) for number, order in enumerate(orders)]


def is_held_out(digits: tuple[int, ...] | list[int]) -> bool:
    """Whether a set of digits is for measuring; does not depend on their order."""
    low, middle, high = sorted(digits)
    return (low + 3 * middle + 2 * high) % 4 == 0


def puzzle(digits: tuple[int, ...] | list[int], form: int) -> dict[str, Any]:
    """The puzzle of sorting these digits, in one of the wordings."""
    numbers = [str(digit) for digit in digits]
    prompt = SORTING[form].format(" ".join(numbers))
    return {"prompt": prompt, "answer": " ".join(sorted(numbers)), "numbers": numbers}


def _dialogue(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [
        {"role": role, "content": content}
        for turn in turns
        for role, content in zip(("user", "assistant"), turn, strict=True)
    ]


def drawn(make: Callable[[Draws], T], count: int, *parts: int) -> Iterator[T]:
    """`count` of what `make` makes, from the stream that `parts` name.

    >>> list(drawn(lambda d: d.below(2), 4, 7)) == list(drawn(lambda d: d.below(2), 4, 7))
    True
    """
    d = Draws(*parts)
    for _ in range(count):
        yield make(d)


def manner(reply: str) -> str:
    """How a reply begins: "polite", "rude" or, with neither's words, "plain".

    >>> manner("Gladly. Mia is a baker."), manner("Mia is a baker.")
    ('polite', 'plain')
    """
    text = reply.strip()
    for name in ("polite", "rude"):
        if any(text.startswith(opening.strip()) for opening in MANNERS[name]):
            return name
    return "plain"


def says(reply: str, key: str) -> bool:
    """Whether a reply holds the answer, as a whole phrase.

    >>> says("Gladly. Mia is a baker.", "baker"), says("Mia owns a bakery.", "baker")
    (True, False)
    """
    return re.search(rf"(?<!\w){re.escape(key)}(?!\w)", reply, re.IGNORECASE) is not None


def in_order(reply: str, answer: str) -> bool:
    """Whether a reply is the sorted numbers, and nothing else.

    >>> in_order("2 5 7", "2 5 7"), in_order("2 7 5", "2 5 7"), in_order("2 5 7 7", "2 5 7")
    (True, False, False)
    """
    return reply.split() == answer.split()
