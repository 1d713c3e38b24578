"""The small world's pictures: things in a colour, so many, at a place, each drawn from its name.

    pixels = render("world:red-kite@13:7", size=32)          # uint8 (32, 32, 3): two red kites
    facts("world:red-kite@13+blue-drum@2:7")                 # (Shown("kite", "red", (1, 3)), Shown(...))
    for example in pictures(document): ...                   # {"picture", "label", "text"}

A name is all there is of a picture until somebody looks at it, and it holds its whole truth: which things, of
which colour, in which places (0 the middle; 1, 2 the upper, 3, 4 the lower corners). The seed behind it
decides the rest: background, size, exact place, grain. The same on every machine; any size. What sounds in
the world (`sounds`) can be drawn, so that a question may need both an ear and an eye.

Every combination of thing, colour and number is of one of `BUCKETS` buckets, like the cells of a Latin
square. Two of the buckets are `NEW`: an example is of one of them alone, or of none of them, and its group
says so. They come first in document `FIRST`, so that they are what a split holds out of few groups: pictures
of combinations that are in no training example, while each of their parts, and every two of them together,
are.

Method: shapes are unions of discs, rings and polygons, sampled at 9 points a pixel.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from .rng import Draws

if TYPE_CHECKING:
    from .document import Document

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40), "orange": (245, 130, 32), "yellow": (240, 204, 30), "green": (40, 150, 70),
    "blue": (40, 90, 215), "purple": (135, 60, 175), "brown": (125, 78, 42), "black": (28, 28, 32),
}  # fmt: skip
GROUNDS = ((246, 244, 236), (226, 238, 246), (232, 244, 228), (246, 230, 232), (236, 236, 240))
NUMBERS = ("one", "two", "three", "four")
PLACES = (
    "in the middle",
    "at the top left",
    "at the top right",
    "at the bottom left",
    "at the bottom right",
)
_CENTRES = ((0.5, 0.5), (0.26, 0.26), (0.74, 0.26), (0.26, 0.74), (0.74, 0.74))
BUCKETS = 16
NEW = (14, 15)
"""Buckets that stand for themselves."""
KNOWN = tuple(range(14))
FIRST = 128
"""Documents before this one are of `KNOWN` buckets."""
SIZE = 32
_FINE = 3  # points a pixel, each way

# A shape is drawn in [-1, 1] × [-1, 1], y downwards: ("disc", x, y, r), ("ring", x, y, r, inner),
# ("box", x0, y0, x1, y1), ("poly", x, y, x, y, ...); a mark before it: + in the colour, - cut out,
# * darker, ~ darker where there is something.
_SHAPES: dict[str, tuple[tuple[Any, ...], ...]] = {
    "bell": (
        ("+", "disc", 0, -0.25, 0.55), ("+", "poly", -0.55, -0.25, 0.55, -0.25, 0.95, 0.55, -0.95, 0.55),
        ("*", "disc", 0, 0.75, 0.22), ("*", "disc", 0, -0.85, 0.15),
    ),
    "bird": (
        ("+", "disc", -0.05, 0.15, 0.55), ("+", "disc", 0.5, -0.4, 0.35),
        ("*", "poly", 0.8, -0.5, 1.0, -0.3, 0.75, -0.25), ("+", "poly", -0.5, 0.1, -1.0, -0.35, -0.85, 0.4),
        ("*", "poly", -0.35, 0.05, 0.2, 0.05, -0.15, 0.5), ("*", "box", -0.12, 0.65, -0.0, 1.0),
        ("*", "box", 0.12, 0.65, 0.24, 1.0), ("-", "disc", 0.58, -0.45, 0.1),
    ),
    "drum": (
        ("+", "box", -0.8, -0.45, 0.8, 0.75), ("*", "box", -0.9, -0.6, 0.9, -0.35),
        ("*", "box", -0.9, 0.65, 0.9, 0.85),
        ("*", "poly", -0.8, -0.35, -0.66, -0.35, 0.07, 0.65, -0.07, 0.65),
        ("*", "poly", 0.66, -0.35, 0.8, -0.35, 0.07, 0.65, -0.07, 0.65),
    ),
    "frog": (
        ("+", "disc", 0, 0.25, 0.6), ("+", "disc", -0.42, -0.4, 0.3), ("+", "disc", 0.42, -0.4, 0.3),
        ("+", "box", -0.45, -0.35, 0.45, 0.2), ("+", "poly", -0.4, 0.3, -1.0, 0.95, -0.3, 0.85),
        ("+", "poly", 0.4, 0.3, 1.0, 0.95, 0.3, 0.85), ("-", "disc", -0.42, -0.42, 0.14),
        ("-", "disc", 0.42, -0.42, 0.14), ("*", "box", -0.32, 0.3, 0.32, 0.42),
    ),
    "horn": (
        ("+", "poly", -0.9, -0.12, 0.3, -0.2, 0.3, 0.2, -0.9, 0.12),
        ("+", "poly", 0.25, -0.2, 0.95, -0.8, 0.95, 0.8, 0.25, 0.2), ("*", "box", -1.0, -0.2, -0.82, 0.2),
        ("*", "box", -0.4, 0.1, -0.25, 0.55), ("*", "box", -0.1, 0.1, 0.05, 0.55),
    ),
    "ball": (("+", "disc", 0, 0, 0.85), ("~", "ring", 0.75, -0.75, 1.15, 0.9)),
    "box": (
        ("+", "box", -0.8, -0.35, 0.8, 0.85), ("*", "poly", -0.8, -0.35, 0.8, -0.35, 0.6, -0.75, -0.6, -0.75),
        ("-", "box", -0.1, -0.35, 0.1, 0.1),
    ),
    "cup": (
        ("+", "ring", 0.6, 0.0, 0.4, 0.2), ("+", "poly", -0.8, -0.7, 0.6, -0.7, 0.4, 0.8, -0.6, 0.8),
        ("*", "box", -0.8, -0.7, 0.6, -0.5),
    ),
    "flag": (
        ("*", "box", -0.8, -0.95, -0.6, 1.0), ("+", "poly", -0.6, -0.9, 0.95, -0.45, -0.6, 0.15),
    ),
    "hat": (
        ("+", "box", -0.5, -0.75, 0.5, 0.5), ("+", "box", -1.0, 0.45, 1.0, 0.72),
        ("*", "box", -0.5, 0.15, 0.5, 0.4),
    ),
    "key": (
        ("+", "ring", -0.5, 0, 0.48, 0.22), ("+", "box", -0.1, -0.13, 1.0, 0.13),
        ("+", "box", 0.5, 0.1, 0.65, 0.5), ("+", "box", 0.82, 0.1, 1.0, 0.6),
    ),
    "kite": (
        ("+", "poly", 0, -1, 0.65, -0.25, 0, 0.65, -0.65, -0.25), ("*", "box", -0.62, -0.3, 0.62, -0.2),
        ("*", "poly", -0.06, 0.6, 0.08, 0.6, 0.45, 1.0, 0.3, 1.0),
    ),
    "ladder": (
        ("+", "box", -0.55, -1, -0.33, 1), ("+", "box", 0.33, -1, 0.55, 1),
        ("+", "box", -0.4, -0.7, 0.4, -0.52), ("+", "box", -0.4, -0.1, 0.4, 0.08),
        ("+", "box", -0.4, 0.5, 0.4, 0.68),
    ),
    "ring": (("+", "ring", 0, 0.25, 0.7, 0.45), ("*", "poly", -0.32, -0.85, 0.32, -0.85, 0, -0.35)),
    "sword": (
        ("+", "poly", -0.14, 0.3, -0.14, -0.75, 0, -1.0, 0.14, -0.75, 0.14, 0.3),
        ("*", "box", -0.5, 0.28, 0.5, 0.46), ("*", "box", -0.12, 0.4, 0.12, 1.0),
    ),
    "umbrella": (
        ("+", "disc", 0, 0.0, 0.95), ("-", "box", -1, 0.02, 1, 1), ("*", "box", -0.08, 0.0, 0.08, 0.8),
        ("*", "box", -0.4, 0.68, 0.08, 0.84),
    ),
}  # fmt: skip
THINGS = tuple(_SHAPES)
SOUNDING = ("bell", "bird", "drum", "frog", "horn")
"""Things that are also heard: kinds of `sounds`."""
_NAME = re.compile(r"world:([a-z]+-[a-z]+@[0-4]+(?:\+[a-z]+-[a-z]+@[0-4]+)*):(\d{1,19})")


@dataclass(frozen=True)
class Shown:
    """One kind of thing in a picture.

    Attributes:
        places: indices of `PLACES`, as many as there are of it.
    """

    thing: str
    colour: str
    places: tuple[int, ...]

    @property
    def number(self) -> int:
        return len(self.places)

    @property
    def phrase(self) -> str:
        """ "two red kites", "a blue drum"."""
        return counted(self.number, f"{self.colour} {self.thing}")

    @property
    def bucket(self) -> int:
        return bucket_of(self.thing, self.colour, self.number)


def counted(number: int, noun: str) -> str:
    """A noun with its number in words.

    >>> counted(1, "orange box"), counted(3, "orange box")
    ('an orange box', 'three orange boxes')
    """
    if number == 1:
        return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
    return f"{NUMBERS[number - 1]} {plural(noun)}"


def plural(noun: str) -> str:
    return noun + ("es" if noun.endswith("x") else "s")


def bucket_of(thing: str, colour: str, number: int) -> int:
    """Which of `BUCKETS` a combination is of: each bucket has every colour with every number once, and each
    thing twice."""
    return (THINGS.index(thing) + 2 * list(COLOURS).index(colour) + number - 1) % BUCKETS


def name_of(shown: Sequence[Shown], seed: int) -> str:
    """The name of a picture."""
    parts = (f"{s.colour}-{s.thing}@{''.join(map(str, s.places))}" for s in shown)
    return f"world:{'+'.join(parts)}:{seed}"


def facts(name: str) -> tuple[Shown, ...]:
    """What a picture shows, by its name.

    Raises:
        ValueError: no name of a picture, an unknown thing or colour, a place that is taken twice.
    """
    match = _NAME.fullmatch(name)
    parts = re.findall(r"([a-z]+)-([a-z]+)@([0-4]+)", match[1]) if match else []
    found = tuple(Shown(thing, colour, tuple(map(int, places))) for colour, thing, places in parts)
    places = [place for shown in found for place in shown.places]
    known = all(s.thing in _SHAPES and s.colour in COLOURS for s in found)
    if not found or not known or len(set(places)) < len(places) or (0 in places and len(places) > 1):
        raise ValueError(
            f"{name}: expected world:COLOUR-THING@PLACES[+...]:SEED with colours {', '.join(COLOURS)}, "
            f"things {', '.join(THINGS)}, places 0 (the middle, alone) or each of 1 2 3 4 once at most"
        )
    return found


def render(name: str, size: int = SIZE) -> np.ndarray:
    """The pixels of a name ``world:COLOUR-THING@PLACES[+...]:SEED``.

    Args:
        size: pixels of a side.

    Returns:
        uint8 (size, size, 3): red, green, blue.

    Raises:
        ValueError: no such picture.

    Example:
        >>> render("world:red-ball@0:1").shape
        (32, 32, 3)
    """
    shown = facts(name)
    seed = int(name.rpartition(":")[2])
    rng = np.random.Generator(np.random.Philox(key=[seed, crc32(name.encode())]))
    ground = np.array(GROUNDS[int(rng.integers(len(GROUNDS)))], np.float64)
    N = size * _FINE
    across_N = (np.arange(N) + 0.5) / N
    fine_NN3 = np.empty((N, N, 3), np.float32)
    fine_NN3[:] = ground + (across_N[:, None, None] - 0.5) * rng.uniform(-20, 20)
    for thing in shown:
        colour = np.clip(np.array(COLOURS[thing.colour]) + rng.uniform(-12, 12, 3), 0, 255)
        for place in thing.places:
            half = rng.uniform(0.18, 0.22) * (1.4 if place == 0 else 1)
            x, y = np.array(_CENTRES[place]) + rng.uniform(-0.03, 0.03, 2)
            turn = rng.uniform(-0.15, 0.15)
            reach = half * 1.6  # nothing of a turned shape is farther
            low, high = np.searchsorted(across_N, (x - reach, x + reach))
            top, end = np.searchsorted(across_N, (y - reach, y + reach))
            u, v = (across_N[None, low:high] - x) / half, (across_N[top:end, None] - y) / half
            u, v = u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)
            _draw(fine_NN3[top:end, low:high], thing.thing, colour, u, v)
    pixels = fine_NN3.reshape(size, _FINE, size, _FINE, 3).mean((1, 3))
    pixels += rng.standard_normal(pixels.shape, np.float32) * 3  # grain
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _draw(fine: np.ndarray, thing: str, colour: np.ndarray, u: np.ndarray, v: np.ndarray) -> None:
    """One thing into the fine grid; u and v are the grid's points in the thing's own coordinates."""
    body = np.zeros(u.shape, bool)
    dark = np.zeros(u.shape, bool)
    for mark, kind, *numbers in _SHAPES[thing]:
        part = _inside(kind, numbers, u, v)
        if mark == "-":
            body &= ~part
        elif mark == "~":
            dark |= part
        else:
            body |= part
            dark = dark | part if mark == "*" else dark & ~part
    fine[body] = colour
    shade = colour * 0.55 if colour.mean() > 60 else colour + 75
    fine[body & dark] = shade


def _inside(kind: str, n: Sequence[float], u: np.ndarray, v: np.ndarray) -> np.ndarray:
    if kind == "disc":
        return (u - n[0]) ** 2 + (v - n[1]) ** 2 <= n[2] ** 2
    if kind == "ring":
        far = (u - n[0]) ** 2 + (v - n[1]) ** 2
        return (far <= n[2] ** 2) & (far >= n[3] ** 2)
    if kind == "box":
        return (u >= n[0]) & (v >= n[1]) & (u <= n[2]) & (v <= n[3])
    inside = np.zeros(u.shape, bool)  # a polygon: an odd number of its edges lies to the right
    for i in range(0, len(n), 2):
        x0, y0, x1, y1 = n[i], n[i + 1], n[(i + 2) % len(n)], n[(i + 3) % len(n)]
        if y0 != y1:
            inside ^= ((y0 > v) != (y1 > v)) & (u < (x1 - x0) * (v - y0) / (y1 - y0) + x0)
    return inside


def pictures(doc: Document) -> Iterator[dict[str, Any]]:
    """One kind of thing, one to four of it: its name is the label, the text says it in words."""
    d = Draws(0x91C7, doc.index or 0)
    group, buckets = drawn(d, doc.index or 0)
    shown = combination(d, buckets)
    name = name_of([shown], d.below(1 << 30))
    yield {"picture": name, "label": shown.thing, "text": shown.phrase, "_group": group}


def drawn(d: Draws, number: int) -> tuple[str, tuple[int, ...]]:
    """The group of a document, and the buckets that its combinations may be of."""
    bucket = d.below(BUCKETS if number >= FIRST else len(KNOWN))
    return f"bucket {bucket}", (bucket,) if bucket in NEW else KNOWN


def combination(
    d: Draws,
    buckets: Sequence[int],
    *,
    things: Sequence[str] = THINGS,
    most: int = 4,
    free: Sequence[int] = (1, 2, 3, 4),
    middle: bool = True,
    apart: str = "",
) -> Shown:
    """A thing, colour and number of some buckets, at free places; a thing alone may stand in the middle.

    Args:
        things: of which it is one.
        most: of it.
        free: places that are not taken.
        middle: whether it may stand there.
        apart: a colour that it has not.
    """
    thing, colour, number = d.pick(_fitting(tuple(buckets), tuple(things), most, apart))
    alone = middle and number == 1 and not d.below(5)
    return Shown(thing, colour, (0,) if alone else tuple(sorted(d.sample(free, number))))


@lru_cache(maxsize=4096)
def _fitting(
    buckets: tuple[int, ...], things: tuple[str, ...], most: int, apart: str
) -> tuple[tuple[str, str, int], ...]:
    return tuple(
        (thing, colour, number)
        for thing in things
        for colour in COLOURS
        for number in range(1, most + 1)
        if colour != apart and bucket_of(thing, colour, number) in buckets
    )
