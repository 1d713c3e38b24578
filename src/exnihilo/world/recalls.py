"""Tasks of recall, whose truth is known: which input positions an answer depends on, and which it cannot
depend on.

::

    task = make("associative_recall", length=64)
    lesson = task.draw(np.random.default_rng(0))    # tokens, the answer's place, the positions that matter
    task.text(lesson.tokens_T)                      # the same as characters: 'AcBf...?Bf'

They train small models to depend on something far away (``data=recall:TASK``, recipe ``recall``), and are
what the probe is judged by: a map is to be trusted where it finds these positions alone (`probe/faith.py`).
Tokens are ids: `PAD`, `ASK`, `MARK` and `IS` are signs, the others values and keys, in classes that a swap
stays in. As characters values are small letters, keys and names capital ones.

    copy_first          x ....... ?            -> x       the first token
    copy_last           ....... x ?            -> x       the last one
    copy_marked         .... ! x .... ?        -> x       the one behind the mark
    associative_recall  k v k v k v ? k        -> v       the value of the key that is asked for
    induction           .. a b ..... a         -> b       what followed the same token before
    needle              .... k v .... ? k      -> v       one pair in a text of others
    variable_tracking   a=3 b=a ... ? b        -> 3       through assignments of variables to variables

Sources: Arora et al. 2023 (MQAR, arXiv:2312.04927); Olsson et al. 2022 (induction, arXiv:2209.11895);
Hsieh et al. 2024 (RULER, arXiv:2404.06654).

Key: T positions
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from exnihilo.errors import UsageError, nearest

PAD, ASK, MARK, IS = 0, 1, 2, 3
SIGNS = 4
"""Ids below it are signs; values (and keys, where a task has them) follow."""
SIGNED = ".?!="
"""The signs as characters."""
VALUES, KEYS = 16, 16
"""Different ones where no number is given."""
LENGTH = 32
"""Tokens of a text where none is given."""
LEAST = {"copy_marked": 4, "associative_recall": 6, "induction": 5, "needle": 6, "variable_tracking": 12}
"""Tokens of the shortest text of a task; of others 3."""


@dataclass(frozen=True)
class Lesson:
    """One text of a task.

    Attributes:
        tokens_T: ids; the answer is the last one, and what it is predicted from is all before it.
        truth: positions that the answer depends on: swapping one of them changes the right answer.
        idle: positions that it cannot depend on: whatever stands there, the right answer is the same.
    """

    tokens_T: np.ndarray
    truth: tuple[int, ...]
    idle: tuple[int, ...]

    @property
    def answer(self) -> int:
        """The right last token."""
        return int(self.tokens_T[-1])


@dataclass(frozen=True)
class Task:
    """A family of texts of one length.

    Attributes:
        length: tokens of a text, the answer included.
        vocabulary: ids from 0.
        classes_V: class of each id; a swap stays in it. Signs have classes of their own.
        chance: share of right answers by guessing among the values.
        characters: one for each id.
    """

    name: str
    length: int
    vocabulary: int
    classes_V: np.ndarray
    chance: float
    make: Callable[[np.random.Generator], Lesson]
    characters: str = ""

    def text(self, tokens_T: np.ndarray) -> str:
        """Ids as characters.

        >>> make("copy_first", length=4).text(np.array([4, 5, 1, 4]))
        'ab?a'
        """
        return "".join(self.characters[t] for t in tokens_T.tolist())

    def draw(self, random: np.random.Generator) -> Lesson:
        """One text."""
        return self.make(random)

    def rows(self, count: int, seed: int = 0) -> tuple[np.ndarray, list[Lesson]]:
        """`count` texts as an array (count, length), and with their truth; a pure function of the seed."""
        lessons = [self.draw(np.random.default_rng([seed, n])) for n in range(count)]
        return np.stack([lesson.tokens_T for lesson in lessons]), lessons


def make(name: str, *, length: int, values: int = VALUES, keys: int = KEYS) -> Task:
    """A task by name.

    Args:
        length: tokens of a text.
        values: different values. keys: different keys, or names of variables.

    Raises:
        UsageError: no such task, or too short a text for it.
    """
    if name not in NAMES:
        raise UsageError(f"there is no task {name!r}", expected=nearest(name, NAMES))
    if length < LEAST.get(name, 3) or values < 2 or keys < 2:
        raise UsageError(
            f"{name} in {length} tokens with {values} values and {keys} keys",
            expected=f"at least {LEAST.get(name, 3)} tokens and two of each",
        )
    classes_V = np.concatenate([np.arange(SIGNS), np.full(values, SIGNS), np.full(keys, SIGNS + 1)])
    value, key = _ranges(values, keys)
    maker = NAMES[name]
    return Task(
        name,
        length,
        SIGNS + values + keys,
        classes_V,
        1 / values,
        lambda random: maker(random, length, value, key),
        SIGNED + _letters(values, "a", 0x4E00) + _letters(keys, "A", 0xAC00),
    )


def _letters(count: int, first: str, many: int) -> str:
    """So many characters: of the alphabet where it has enough, else of a larger block of Unicode."""
    start = ord(first) if count <= 26 else many
    return "".join(map(chr, range(start, start + count)))


def count_of(length: int) -> int:
    """Texts of a data set where no number is given: some two million tokens, 2,000 to 30,000 texts.

    >>> count_of(32), count_of(4096)
    (30000, 2000)
    """
    return max(2000, min(30_000, 2_000_000 // length))


def lesson(task: Task, seed: int, number: int) -> Lesson:
    """The n-th training text of a task: every third one of full length, the rest of any length below it, as
    many tokens from each to its double. What is near is learnt first, and then what is far: with long texts
    alone small models wait for chance. Of variables every third text asks for one that holds a value itself,
    the first of the two steps."""
    random = np.random.default_rng([seed, number])
    if number % 3 == 0:
        return task.draw(random)
    short, long = 1 / LEAST.get(task.name, 3), 1 / (task.length + 1)
    shorter = make(task.name, length=int(1 / random.uniform(long, short) + 1e-9))
    if task.name == "variable_tracking" and number % 3 == 1:
        return _asked_of_one(random, shorter.length, *_ranges(VALUES, KEYS))
    return shorter.draw(random)


def parse(path: str) -> tuple[Task, int] | None:
    """(task, texts) of ``recall:TASK[:LENGTH[:TEXTS]]``; None where the path is no such.

    Raises:
        UsageError: a task that there is not, or no number.

    >>> task, texts = parse("recall:needle:128") or (None, 0)
    >>> task.name, task.length, texts
    ('needle', 128, 15625)
    """
    kind, _, rest = path.partition(":")
    if kind != "recall" or not rest:
        return None
    name, *numbers = rest.split(":")
    if len(numbers) > 2 or not all(n.isdigit() and int(n) > 0 for n in numbers):
        raise UsageError(
            f"data={path}",
            expected="recall:TASK, recall:TASK:LENGTH or recall:TASK:LENGTH:TEXTS, e.g. recall:needle:128",
            next=f"tasks: {', '.join(NAMES)}",
        )
    length = int(numbers[0]) if numbers else LENGTH
    return make(name, length=length), int(numbers[1]) if numbers[1:] else count_of(length)


@dataclass(frozen=True)
class _Range:
    """Ids of one class."""

    first: int
    count: int

    def draw(self, random: np.random.Generator, size: int) -> np.ndarray:
        return random.integers(self.first, self.first + self.count, size)

    def different(self, random: np.random.Generator, size: int) -> np.ndarray:
        return self.first + random.permutation(self.count)[:size]


def _ranges(values: int, keys: int) -> tuple[_Range, _Range]:
    return _Range(SIGNS, values), _Range(SIGNS + values, keys)


def _copy(random: np.random.Generator, length: int, value: _Range, key: _Range, at: int) -> Lesson:
    del key
    tokens = value.draw(random, length)
    tokens[-2], tokens[-1] = ASK, tokens[at]
    rest = tuple(t for t in range(length - 2) if t != at)
    return Lesson(tokens, (at,), rest)


def _copy_first(random: np.random.Generator, length: int, value: _Range, key: _Range) -> Lesson:
    return _copy(random, length, value, key, 0)


def _copy_last(random: np.random.Generator, length: int, value: _Range, key: _Range) -> Lesson:
    return _copy(random, length, value, key, length - 3)


def _copy_marked(random: np.random.Generator, length: int, value: _Range, key: _Range) -> Lesson:
    del key
    tokens = value.draw(random, length)
    at = int(random.integers(1, length - 2))
    tokens[at - 1], tokens[-2], tokens[-1] = MARK, ASK, tokens[at]
    return Lesson(tokens, (at,), tuple(t for t in range(length - 2) if t not in (at, at - 1)))


def _pairs(length: int, key: _Range) -> int:
    return min((length - 3) // 2, key.count)


def _associative_recall(random: np.random.Generator, length: int, value: _Range, key: _Range) -> Lesson:
    pairs = _pairs(length, key)
    tokens = np.full(length, PAD)
    start = length - 3 - 2 * pairs
    tokens[start : start + 2 * pairs : 2] = key.different(random, pairs)
    tokens[start + 1 : start + 2 * pairs : 2] = value.draw(random, pairs)
    which = start + 2 * int(random.integers(pairs))
    tokens[-3], tokens[-2], tokens[-1] = ASK, tokens[which], tokens[which + 1]
    idle = tuple(t for t in range(start + 1, start + 2 * pairs, 2) if t != which + 1)
    return Lesson(tokens, (which + 1,), idle)


def _induction(random: np.random.Generator, length: int, value: _Range, key: _Range) -> Lesson:
    tokens = value.draw(random, length)
    at = int(random.integers(0, length - 3))
    sign = int(key.draw(random, 1)[0])  # of a class of its own, so that it stands twice only
    tokens[at], tokens[-2], tokens[-1] = sign, sign, tokens[at + 1]
    return Lesson(tokens, (at + 1,), tuple(t for t in range(length - 2) if t not in (at, at + 1)))


def _needle(random: np.random.Generator, length: int, value: _Range, key: _Range) -> Lesson:
    tokens = value.draw(random, length)
    at = int(random.integers(0, length - 4))
    sign = int(key.draw(random, 1)[0])
    tokens[at], tokens[-3], tokens[-2], tokens[-1] = sign, ASK, sign, tokens[at + 1]
    return Lesson(tokens, (at + 1,), tuple(t for t in range(length - 3) if t not in (at, at + 1)))


def _variable_tracking(random: np.random.Generator, length: int, value: _Range, key: _Range) -> Lesson:
    """Statements ``name IS value`` and ``name IS name``; one chain of two steps is asked for."""
    tokens, places, names, held = _statements(random, length, value, key)
    first, second = sorted(random.permutation(len(places))[:2].tolist())
    tokens[places[second]] = names[first]
    tokens[-3], tokens[-2], tokens[-1] = ASK, names[second], held[first]
    idle = tuple(place for s, place in enumerate(places) if s not in (first, second))
    return Lesson(tokens, (places[first],), idle)


def _asked_of_one(random: np.random.Generator, length: int, value: _Range, key: _Range) -> Lesson:
    """The same statements; the variable that is asked for holds a value."""
    tokens, places, names, held = _statements(random, length, value, key)
    which = int(random.integers(len(places)))
    tokens[-3], tokens[-2], tokens[-1] = ASK, names[which], held[which]
    return Lesson(tokens, (places[which],), tuple(p for s, p in enumerate(places) if s != which))


def _statements(
    random: np.random.Generator, length: int, value: _Range, key: _Range
) -> tuple[np.ndarray, list[int], np.ndarray, np.ndarray]:
    """(tokens, where each right side stands, left sides, right sides)."""
    count = min((length - 3) // 3, key.count)
    names, held = key.different(random, count), value.draw(random, count)
    start = length - 3 - 3 * count
    tokens = np.full(length, PAD)
    places = [start + 3 * s + 2 for s in range(count)]
    for place, name, right in zip(places, names, held, strict=True):
        tokens[place - 2 : place + 1] = (name, IS, right)
    return tokens, places, names, held


Maker = Callable[[np.random.Generator, int, _Range, _Range], Lesson]
NAMES: dict[str, Maker] = {
    "copy_first": _copy_first,
    "copy_last": _copy_last,
    "copy_marked": _copy_marked,
    "associative_recall": _associative_recall,
    "induction": _induction,
    "needle": _needle,
    "variable_tracking": _variable_tracking,
}
