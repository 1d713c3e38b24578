"""Questions about the world's pictures and sounds, with their answers in words.

    for example in scenes(document): ...    # {"question", "answer", and "picture", "sound" or both}

Of twelve five are about a picture (what, which colour, how many, where, is there a ...?), three about a sound
(what is heard, first, last?), four about both at once: which colour has what is heard, where is it, is it
in the picture at all? Neither the picture nor the sound nor the question alone tells those. Answers of a
question are about equally frequent, so that who neither sees nor hears is right as rarely as can be.

Groups are those of `pictures`: what a split holds out are new combinations of thing, colour and number, and
sounds that follow each other as they do nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from . import sounds as noises
from .pictures import (
    BUCKETS,
    NUMBERS,
    PLACES,
    SOUNDING,
    THINGS,
    Shown,
    combination,
    counted,
    drawn,
    name_of,
    plural,
)
from .rng import Draws

if TYPE_CHECKING:
    from .document import Document

Values = dict[str, Any]
Buckets = tuple[int, ...]
_CORNERS = (1, 2, 3, 4)


def scenes(doc: Document, kind: str | None = None) -> Iterator[Values]:
    """One question a document.

    Args:
        kind: ``picture``, ``sound`` or ``both``; None: they take turns.

    Example:
        >>> next(scenes(World(0).document(4)))     # doctest: +SKIP
        {'question': 'How many keys are there?', 'answer': 'three', 'picture': 'world:red-key@134:77', ...}
    """
    number = doc.index or 0
    d = Draws(0x5CE7E, number)
    turn = d.below(12)
    name = kind or ("picture" if turn < 5 else "sound" if turn < 8 else "both")
    group, buckets = drawn(d, number)
    yield {**d.pick(_ASKED[name])(d, buckets), "_group": group}


def _seen(d: Draws, shown: list[Shown]) -> str:
    return name_of(shown, d.below(1 << 30))


def _heard(d: Draws, kinds: list[str]) -> str:
    return f"world:{'+'.join(kinds)}:{d.below(1 << 30)}"


def _are(shown: Shown) -> str:
    return f"is the {shown.thing}" if shown.number == 1 else f"are the {plural(shown.thing)}"


# about a picture ------------------------------------------------------------------------------------------


def _what(d: Draws, buckets: Buckets) -> Values:
    shown = combination(d, buckets)
    return {"picture": _seen(d, [shown]), "question": "What is in the picture?", "answer": shown.phrase}


def _colour(d: Draws, buckets: Buckets) -> Values:
    shown = combination(d, buckets)
    question = f"What colour {_are(shown)}?"
    return {"picture": _seen(d, [shown]), "question": question, "answer": shown.colour}


def _number(d: Draws, buckets: Buckets) -> Values:
    shown = combination(d, buckets)
    question = f"How many {plural(shown.thing)} are there?"
    return {"picture": _seen(d, [shown]), "question": question, "answer": NUMBERS[shown.number - 1]}


def _two(d: Draws, buckets: Buckets, things: tuple[str, ...], most: int = 1) -> list[Shown]:
    """Two kinds of thing in two colours, one of each or up to `most`."""
    first = combination(d, buckets, things=things, most=most, middle=False)
    free = tuple(place for place in _CORNERS if place not in first.places)
    rest = tuple(thing for thing in things if thing != first.thing)
    return [
        first,
        combination(
            d, buckets, things=rest, most=min(most, len(free)), free=free, middle=False, apart=first.colour
        ),
    ]


def _where(d: Draws, buckets: Buckets) -> Values:
    if d.below(2):
        shown = [combination(d, buckets, most=1)]
    else:
        shown = _two(d, buckets, THINGS)
    question = f"Where is the {shown[0].thing}?"
    answer = PLACES[shown[0].places[0]]
    return {"picture": _seen(d, d.shuffled(shown)), "question": question, "answer": answer}


def _is_there(d: Draws, buckets: Buckets) -> Values:
    shown = _two(d, buckets, THINGS, most=2)
    there = d.below(2)
    others = [thing for thing in THINGS if thing not in (shown[0].thing, shown[1].thing)]
    thing = shown[0].thing if there else d.pick(others)
    question = f"Is there {counted(1, thing)}?"
    return {"picture": _seen(d, shown), "question": question, "answer": "yes" if there else "no"}


# about a sound --------------------------------------------------------------------------------------------


def _kinds(d: Draws, buckets: Buckets) -> list[str]:
    """Two kinds of sound; which may follow which, the buckets say."""
    kinds = noises.KINDS
    return d.pick(
        [
            [a, b]
            for i, a in enumerate(kinds)
            for j, b in enumerate(kinds)
            if i != j and (i + 2 * j) % BUCKETS in buckets
        ]
    )


def _sounds(d: Draws, buckets: Buckets) -> Values:
    if d.below(2):
        kinds = [d.pick(noises.KINDS)]
    else:
        kinds = _kinds(d, buckets)
    answer = " and then ".join(noises.WORDS[kind] for kind in kinds)
    return {"sound": _heard(d, kinds), "question": "What is heard?", "answer": answer}


def _order(d: Draws, buckets: Buckets) -> Values:
    kinds, which = _kinds(d, buckets), d.below(2)
    question = f"What is heard {('first', 'last')[which]}?"
    return {"sound": _heard(d, kinds), "question": question, "answer": f"the {kinds[which]}"}


# about both -----------------------------------------------------------------------------------------------


def _colour_heard(d: Draws, buckets: Buckets) -> Values:
    shown = _two(d, buckets, SOUNDING, most=2)
    return {
        "picture": _seen(d, d.shuffled(shown)),
        "sound": _heard(d, [shown[0].thing]),
        "question": "What colour is what is heard?",
        "answer": shown[0].colour,
    }


def _where_heard(d: Draws, buckets: Buckets) -> Values:
    shown = _two(d, buckets, SOUNDING)
    return {
        "picture": _seen(d, d.shuffled(shown)),
        "sound": _heard(d, [shown[0].thing]),
        "question": "Where is what is heard?",
        "answer": PLACES[shown[0].places[0]],
    }


def _is_heard(d: Draws, buckets: Buckets) -> Values:
    shown = _two(d, buckets, SOUNDING, most=2)
    there = d.below(2)
    others = [thing for thing in SOUNDING if thing not in (shown[0].thing, shown[1].thing)]
    return {
        "picture": _seen(d, shown),
        "sound": _heard(d, [shown[0].thing if there else d.pick(others)]),
        "question": "Is what is heard in the picture?",
        "answer": "yes" if there else "no",
    }


_ASKED: dict[str, tuple[Callable[[Draws, Buckets], Values], ...]] = {
    "picture": (_what, _colour, _number, _where, _is_there),
    "sound": (_sounds, _order),
    "both": (_colour_heard, _where_heard, _is_heard),
}
KINDS = tuple(_ASKED)
