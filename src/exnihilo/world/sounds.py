"""The small world's sounds: a bell, a bird, a drum, wind and the like, each drawn from a seed, with its
truth.

    wave = render("world:bird:7", rate=16_000)             # float32
    wave = render("world:bird+drum:7", rate=16_000)        # one after the other, a little silence between
    for example in sounds(document): ...                   # {"sound", "label", "text", "events"}; soundscapes

A name is all there is of a sound until somebody hears it: it is computed anew each time, the same on every
machine. Kinds differ by pitch, timbre and rhythm; the seed decides pitch, length and loudness within a kind.
Never to be passed off as recordings.

Source: additive synthesis with exponential envelopes (Risset & Mathews 1969, *Analysis of Musical-Instrument
Tones*).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

if TYPE_CHECKING:
    from .document import Document

KINDS = ("bell", "bird", "drum", "frog", "horn", "rain", "siren", "wind")
WORDS = {
    "bell": "a bell rings", "bird": "a bird sings", "drum": "a drum beats", "frog": "a frog croaks",
    "horn": "a horn blows", "rain": "rain falls", "siren": "a siren wails", "wind": "the wind howls",
}  # fmt: skip
_TIME = re.compile(r"\d{1,3}(\.\d+)?")
SECONDS = 0.8
"""Of one sound of a name."""
GAP = 0.1
"""Seconds of near silence between two."""


def render(name: str, rate: int = 16_000) -> np.ndarray:
    """The samples of a name ``world:KIND[+KIND...]:SEED[:SECONDS]``; seconds of each kind, default 0.8.

    Returns:
        float32 (samples,), below 1 in size.

    Raises:
        ValueError: no such kind, or no seed.

    Example:
        >>> len(render("world:bell+drum:1", 8000)) / 8000
        1.7
    """
    _, kinds, seed, *more = (name.split(":") + ["", ""])[: max(3, name.count(":") + 1)]
    unknown = [kind for kind in kinds.split("+") if kind not in KINDS]
    seconds = float(more[0]) if len(more) == 1 and _TIME.fullmatch(more[0]) else SECONDS
    if unknown or not seed.isdigit() or len(more) > 1 or (more and not _TIME.fullmatch(more[0])):
        raise ValueError(f"{name}: expected world:KIND:SEED[:SECONDS] with kinds {', '.join(KINDS)}")
    rng = np.random.Generator(np.random.Philox(key=[int(seed), crc32(kinds.encode())]))
    pieces: list[np.ndarray] = []
    for number, kind in enumerate(kinds.split("+")):
        if number:
            pieces.append(np.zeros(round(GAP * rate)))
        pieces.append(_one(kind, rng, round(seconds * rate), rate))
    wave = np.concatenate(pieces)
    wave = wave / max(1e-9, float(np.abs(wave).max())) * rng.uniform(0.3, 0.9)
    return (wave + rng.standard_normal(len(wave)) * 0.002).astype(np.float32)


def _one(kind: str, rng: np.random.Generator, count: int, rate: int) -> np.ndarray:
    t = np.arange(count) / rate
    noise = rng.standard_normal(count)
    if kind == "bell":
        base = rng.uniform(500, 900)
        partials = ((1, 1.0, 4), (2.76, 0.6, 6), (5.4, 0.3, 9))
        tones = (a * np.sin(2 * np.pi * base * r * t) * np.exp(-d * t) for r, a, d in partials)
        return sum(tones, np.zeros(count))
    if kind == "bird":
        base, wide, rhythm = rng.uniform(2000, 3000), rng.uniform(300, 700), rng.uniform(5, 9)
        phase = 2 * np.pi * np.cumsum(base + wide * np.sin(2 * np.pi * rhythm * t)) / rate
        return np.sin(phase) * (np.sin(2 * np.pi * rhythm * t) > -0.3)
    if kind == "drum":
        base, beat = rng.uniform(60, 110), rng.uniform(0.18, 0.3)
        since = t % beat
        return np.sin(2 * np.pi * base * since) * np.exp(-18 * since) + 0.1 * noise * np.exp(-60 * since)
    if kind == "frog":
        base, rhythm = rng.uniform(250, 400), rng.uniform(22, 34)
        sounding = (np.sin(2 * np.pi * rhythm * t) > 0) * ((t % 0.35) < 0.22)
        return np.sign(np.sin(2 * np.pi * base * t)) * sounding
    if kind == "horn":
        base = rng.uniform(180, 300)
        tones = (np.sin(2 * np.pi * base * k * t) / k for k in range(1, 8))
        return sum(tones, np.zeros(count)) * np.minimum(1, 12 * t)
    if kind == "siren":
        low, high, rhythm = rng.uniform(500, 650), rng.uniform(900, 1200), rng.uniform(1.2, 2.2)
        pitch = low + (high - low) * (0.5 + 0.5 * np.sin(2 * np.pi * rhythm * t))
        return np.sin(2 * np.pi * np.cumsum(pitch) / rate)
    if kind == "rain":
        drops = (rng.random(count) < 0.02) * rng.standard_normal(count)
        return 0.15 * noise + np.convolve(drops, np.exp(-np.arange(40) / 6), "same")
    size = max(8, rate // 250)  # wind: noise without its high part, swelling
    swell = 0.6 + 0.4 * np.sin(2 * np.pi * rng.uniform(0.6, 1.5) * t + rng.uniform(0, 6))
    return np.convolve(noise, np.ones(size) / size, "same") * swell


def sounds(doc: Document) -> Iterator[dict[str, Any]]:
    """One sound of one kind: its label."""
    yield _example(doc, 1)


def soundscapes(doc: Document) -> Iterator[dict[str, Any]]:
    """One to three kinds, one after the other: `events` says when each is heard, `text` in words."""
    yield _example(doc, 3)


def _example(doc: Document, most: int) -> dict[str, Any]:
    rng = np.random.Generator(np.random.Philox(key=[doc.index or 0, 77]))
    count = int(rng.integers(1, most + 1))
    kinds = [str(k) for k in rng.choice(np.array(KINDS), count, replace=False)]
    step = SECONDS + GAP
    events = [
        {"start": round(i * step, 3), "end": round(i * step + SECONDS, 3), "label": kind}
        for i, kind in enumerate(kinds)
    ]
    name = f"world:{'+'.join(kinds)}:{int(rng.integers(0, 1 << 30))}"
    words = ", then ".join(WORDS[kind] for kind in kinds)
    return {"sound": name, "label": kinds[0], "text": words, "events": events, "_group": name}
