"""The small world's series: tides, heat of days, wandering prices and the like, drawn from a seed.

    values = render("world:tide:7")                # float32 (160,); world:tide:7:500 of 500 moments
    for example in series(document): ...           # {"series", "label", "part"}

Kinds differ in shape: a slow wave, a day's rise and fall with its weekend, a walk, beats, steps, a trend that
fades. The seed decides level, size, phase and noise within a kind. Never to be passed off as measurements.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

if TYPE_CHECKING:
    from .document import Document

KINDS = ("tide", "days", "walk", "beats", "steps", "trend")
LENGTH = 160
_COUNT = re.compile(r"[1-9]\d{0,5}")


def render(name: str) -> np.ndarray:
    """The values of a name ``world:KIND:SEED[:LENGTH]``, float32 (LENGTH,).

    Raises:
        ValueError: no such kind, or no seed.

    Example:
        >>> render("world:tide:1:48").shape
        (48,)
    """
    _, kind, seed, *more = name.split(":") + [""] * max(0, 2 - name.count(":"))
    if kind not in KINDS or not seed.isdigit() or len(more) > 1 or (more and not _COUNT.fullmatch(more[0])):
        raise ValueError(f"{name}: expected world:KIND:SEED[:LENGTH] with kinds {', '.join(KINDS)}")
    L = int(more[0]) if more else LENGTH
    rng = np.random.Generator(np.random.Philox(key=[int(seed), crc32(kind.encode())]))
    level, size = rng.normal(0, 20), float(np.exp(rng.normal(0, 1)))
    t, phase = np.arange(L), rng.uniform(0, 24)
    if kind == "tide":
        period = rng.uniform(20, 40)
        shape = np.sin(2 * np.pi * (t + phase) / period) + 0.3 * np.sin(4 * np.pi * (t + phase) / period)
    elif kind == "days":
        shape = np.sin(2 * np.pi * (t + phase) / 24) * np.where((t // 24) % 7 < 5, 1.0, 0.4)
    elif kind == "walk":
        shape = np.cumsum(rng.standard_normal(L)) / 4
    elif kind == "beats":
        shape = 2.0 * ((t + int(phase)) % int(rng.integers(8, 16)) == 0)
    elif kind == "steps":
        shape = rng.normal(0, 1, 1 + L // 20)[t // 20]
    else:
        shape = 2 * (1 - np.exp(-t / rng.uniform(30, 90)))
    noise = 0.1 if kind != "walk" else 0.02
    return (level + size * (shape + noise * rng.standard_normal(L))).astype(np.float32)


def series(document: Document) -> Iterator[dict[str, Any]]:
    """One series of a kind, told by the document's number."""
    index = document.index or 0
    kind = KINDS[index % len(KINDS)]
    name = f"world:{kind}:{index}"
    yield {"series": name, "label": kind, "part": "all", "_group": name}
