"""Sounds as the model will hear them: seconds, and how loud they are over time, a character a stretch.

    if sounds.heard(objective): sounds.add(objective, codec, examples, items, count, seed, made)

And what levels and rates show: silence, samples cut at full scale, files that are resampled.

Key: N samples, S stretches
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from exnihilo.codec.sound import mulaw, read
from exnihilo.codec.sound.layout import Layout
from exnihilo.data.base import Example, Item
from exnihilo.doctor.report import Diagnosis, Sample, share
from exnihilo.objective._hearing import INPUT, Hearing
from exnihilo.objective.base import Look, Objective
from exnihilo.objective.draws import generator
from exnihilo.objective.sound_tokens import SoundTokens

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec

RAMP = " ▁▂▃▄▅▆▇█"
HIDDEN = "░"
FLOOR = -60.0  # decibels of full scale that are shown as nothing
WIDE = 64  # characters
_SILENT = 1e-3  # of full scale: the loudest sample of a sound that nobody hears
_CLIPPED = 0.001  # share of a sound's samples at full scale
_LOOKED_AT = 300


def heard(objective: Objective) -> bool:
    """Whether an objective's examples are sounds."""
    return isinstance(objective, (Hearing, SoundTokens))


def add(
    objective: Objective,
    codec: Codec,
    examples: Sequence[Example],
    items: Sequence[Sequence[Item]],
    count: int,
    seed: int,
    made: Diagnosis,
) -> None:
    """Adds `count` samples, and what the sounds' lengths, levels and rates show."""
    kept = [i for i, own in enumerate(items) if own]
    rate = _rate(objective)
    seconds = np.array([sum(_count(objective, codec, item) for item in items[i]) / rate for i in kept])
    if len(seconds):
        made.facts["sounds"] = (
            f"{np.median(seconds):.2f} s at the median, from {seconds.min():.2f} to {seconds.max():.2f} s, "
            f"{seconds.sum() / 60:.1f} minutes together"
        )
    looked = _spread(kept, _LOOKED_AT)
    _levels([wave_of(objective, codec, items[i][0]) for i in looked], made)
    _rates([examples[i] for i in looked], rate, made)
    for i in _spread(kept, count):
        made.samples.append(_sample(objective, codec, examples[i], items[i], seed + i))
    made.legend = f"loudness from {FLOOR:.0f} to 0 dB of full scale"
    if objective.heads == ("vectors",):
        made.legend += f"; {HIDDEN} hidden"


def line(wave: np.ndarray, wide: int = WIDE) -> str:
    """Loudness over time, a character a stretch; full scale is at 1.

    >>> line(np.repeat([0.0, 1.0], 100), 4)
    '  ██'
    """
    if not len(wave):
        return ""
    cuts = np.linspace(0, len(wave), min(wide, len(wave)) + 1).astype(int)
    power_S = np.array(
        [np.mean(np.square(wave[a:b], dtype=np.float64)) for a, b in zip(cuts, cuts[1:], strict=False)]
    )
    level_S = 10 * np.log10(np.maximum(power_S, 1e-12))
    steps = np.clip(np.ceil((level_S - FLOOR) / -FLOOR * (len(RAMP) - 1)), 0, len(RAMP) - 1)
    return "".join(RAMP[int(step)] for step in steps)


def wave_of(objective: Objective, codec: Codec, item: Item) -> np.ndarray:
    """The samples that an item holds, float32, as they were read."""
    if isinstance(objective, SoundTokens):
        return mulaw.decode(mulaw.of_text(codec.decode(np.asarray(item["tokens"]).tolist())))
    held = np.asarray(item["wave"])[np.asarray(item["kind"]) == 1]
    return Layout.unfold(held)[: int(item["samples"])]


def _count(objective: Objective, codec: Codec, item: Item) -> int:
    return len(wave_of(objective, codec, item)) if "samples" not in item else int(item["samples"])


def _rate(objective: Any) -> int:
    return int(objective.config.rate)


def _spread(numbers: Sequence[int], count: int) -> list[int]:
    n = min(count, len(numbers))
    return [numbers[k * len(numbers) // n] for k in range(n)]


def _sample(objective: Objective, codec: Codec, example: Example, items: Sequence[Item], seed: int) -> Sample:
    name = str(example.get(INPUT, "")).rpartition("/")[2]
    told = [f"{role} {example[role]!r:.80}" for role in ("label", "text") if example.get(role) is not None]
    sample = Sample(": ".join([name, ", ".join(told)]) if told else name)
    at = 0.0
    for item in items[:3]:
        wave = wave_of(objective, codec, item)
        lasts = len(wave) / _rate(objective)
        shown = line(wave, max(1, min(WIDE, round(lasts * 32))))
        hidden = _hidden(objective, codec, item, seed)
        if hidden is not None and len(hidden):
            over = np.linspace(0, len(hidden), len(shown) + 1).astype(int)[:-1]
            shown = "".join(HIDDEN if hidden[o] else c for o, c in zip(over, shown, strict=True))
        sample.add((f"{at:.2f} to {at + lasts:.2f} s ", "label"), f"|{shown}|")
        at += lasts
    if len(items) > 3:
        sample.add((f"and {len(items) - 3} windows more", "special"))
    for event in list(example.get("events") or ())[:8]:
        if isinstance(event, dict) and {"start", "end", "label"} <= event.keys():
            start, end = float(event["start"]), float(event["end"])
            sample.add((f"{start:.2f} to {end:.2f} s ", "label"), str(event["label"]))
    return sample


def _hidden(objective: Objective, codec: Codec, item: Item, seed: int) -> np.ndarray | None:
    """Which positions of the sound a first step would hide; None where nothing is ever hidden."""
    if objective.heads != ("vectors",):
        return None
    columns: dict[str, Any] = {n: np.asarray(v)[None] for n, v in item.items() if np.ndim(v)}
    columns["samples"] = np.full_like(columns["tokens"], int(item["samples"]))
    columns["doc"] = np.zeros_like(columns["tokens"])
    look = Look(1, np.zeros(1, np.int64), lambda rows: columns, codec)
    after = objective.draw(columns, [generator(seed, 0, 0)], look)
    return after["mask"][0][np.asarray(item["kind"]) == 1] == 1


def _levels(waves: Sequence[np.ndarray], made: Diagnosis) -> None:
    """Silence and clipping."""
    waves = [wave for wave in waves if len(wave)]
    if not waves:
        return
    peaks = np.array([np.abs(wave).max() for wave in waves])
    decibels = 20 * np.log10(np.maximum(peaks, 1e-6))
    made.facts["loudest sample"] = (
        f"{np.median(decibels):.0f} dB of full scale at the median, from {decibels.min():.0f} to "
        f"{decibels.max():.0f}"
    )
    silent = int((peaks < _SILENT).sum())
    if silent:
        made.found(
            "warning" if silent > 0.01 * len(waves) else "note",
            f"{share(silent, len(waves))} of the sounds are silent: there is nothing to hear in them",
            "leave them out",
        )
    cut = sum(float(np.mean(np.abs(wave) > 0.999)) > _CLIPPED for wave in waves)
    if cut > 0.1 * len(waves):
        made.found("note", f"{share(cut, len(waves))} of the sounds are cut at full scale (clipped)")


def _rates(examples: Sequence[Example], rate: int, made: Diagnosis) -> None:
    """Rates of the files, by their headers."""
    found: Counter[int] = Counter()
    for example in examples:
        own = read.rate_of(str(example.get(INPUT)))
        if own is not None:
            found[own] += 1
    if not found:
        return
    total = sum(found.values())
    named = ", ".join(
        f"{r:,} Hz" + (f" {share(n, total)}" if len(found) > 1 else "") for r, n in found.most_common(4)
    )
    made.facts["rate of the files"] = named + ("" if set(found) == {rate} else f"; heard at {rate:,} Hz")
    lower = sum(n for r, n in found.items() if r < rate)
    if lower > 0.5 * total:
        most = max(r for r in found if r < rate)
        made.found(
            "note",
            f"{share(lower, total)} of the files have a lower rate than {rate:,} Hz: above {most // 2:,} Hz "
            "there is nothing to hear",
            f"options.rate={most}",
        )
