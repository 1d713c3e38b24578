"""Series as a model will see them: values as a line of eight heights, what is missing, what is hidden.

    if series.numbers(objective): series.add(objective, codec, examples, items, count, seed, made)

Key: T positions, P patches, V values of a patch, R rows of a stretch, W columns of a table, C channels
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from exnihilo.codec.series import bins
from exnihilo.data.base import Example, Item
from exnihilo.doctor.checks import place
from exnihilo.doctor.report import Diagnosis, Sample, share
from exnihilo.objective._series import Serial
from exnihilo.objective._windows import Windowed
from exnihilo.objective.base import Objective
from exnihilo.objective.draws import generator
from exnihilo.objective.series_classification import SeriesClassification
from exnihilo.objective.series_tokens import SeriesTokens

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec

RAMP = "▁▂▃▄▅▆▇█"
MISSING, HIDDEN = "·", "░"
WIDE = 96  # characters
_LOOKED_AT = 500
_LINES = 4  # channels of a sample


def numbers(objective: Objective) -> bool:
    """Whether an objective's examples are series."""
    return isinstance(objective, Serial)


def add(
    objective: Objective,
    codec: Codec,
    examples: Sequence[Example],
    items: Sequence[Sequence[Item]],
    count: int,
    seed: int,
    made: Diagnosis,
) -> None:
    """Adds `count` samples, and how many values of the windows are missing or never change."""
    flat = [(i, n) for i, own in enumerate(items) for n in range(len(own))]
    looked = [values_of(objective, codec, items[i][n]) for i, n in _spread(flat, _LOOKED_AT)]
    if looked:
        total = sum(held.size for held in looked)
        gone = sum(int(np.isnan(held).sum()) for held in looked)
        still = sum(bool(len(v := held[~np.isnan(held)]) and (v == v[0]).all()) for held in looked)
        made.facts["windows"] = f"{len(flat):,} are stored, of {looked[0].shape[0]:,} values" + (
            f" in {looked[0].shape[1]:,} channels" if looked[0].shape[1] > 1 else ""
        )
        if gone:
            made.facts["missing values"] = (
                f"{share(gone, total)} of the windows' values: masked, never filled"
            )
        if still:
            made.found("note", f"{share(still, len(looked))} of the windows never change")
    for i, n in _spread(flat, count):
        made.samples.append(_sample(objective, codec, examples[i], items[i][n], seed + i))
    made.legend = f"values from the window's lowest to its highest; {MISSING} missing"
    if isinstance(objective, Windowed):
        made.legend += f"; {HIDDEN} hidden, and asked about"


def line(values: np.ndarray, wide: int = WIDE) -> str:
    """Values over time, a character a stretch (its mean).

    >>> line(np.array([0.0, 1.0, np.nan, 2.0]))
    '▁▄·█'
    """
    if not len(values):
        return ""
    cuts = np.linspace(0, len(values), min(wide, len(values)) + 1).astype(int)
    parts = [values[a:b][~np.isnan(values[a:b])] for a, b in zip(cuts, cuts[1:], strict=False)]
    level_S = np.array([part.mean() if len(part) else np.nan for part in parts])
    good = level_S[~np.isnan(level_S)]
    low, high = (float(good.min()), float(good.max())) if len(good) else (0.0, 0.0)
    step_S = (level_S - low) / ((high - low) or 1.0) * (len(RAMP) - 1)
    return "".join(MISSING if np.isnan(s) else RAMP[int(s)] for s in step_S)


def values_of(objective: Objective, codec: Codec, item: Item) -> np.ndarray:
    """The values that an item holds, (moments, channels), NaN where missing."""
    if isinstance(objective, Windowed):
        rows_1RW, _ = objective._stored(np.asarray(item["values"])[None])
        return rows_1RW[0, : objective.config.history + objective.config.horizon, :1].astype(np.float64)
    if isinstance(objective, SeriesTokens):
        ids = np.asarray(item["tokens"])[1:]
        return bins.decode(ids, 1.0, objective.bins_of(codec))[:, None]
    assert isinstance(objective, SeriesClassification)
    p, C = objective.config.patch, objective.channels
    held_PF = np.asarray(item["series"])[1:]
    values_PV, there_PV = held_PF[:, : p * C], held_PF[:, p * C : 2 * p * C]
    return np.where(there_PV > 0, values_PV, np.nan).reshape(-1, C).astype(np.float64)


def _sample(objective: Objective, codec: Codec, example: Example, item: Item, seed: int) -> Sample:
    told = [f"{role} {example[role]!r:.80}" for role in ("label", "part") if example.get(role) is not None]
    names: Any = objective.facts.get("channels") or []
    values = values_of(objective, codec, item)
    sample = Sample(": ".join([place(example), ", ".join(told)]) if told else place(example))
    hidden = _hidden(objective, values, seed)
    for channel in range(min(_LINES, values.shape[1])):
        at = int(item["channel"]) if "channel" in item else channel
        name = f"{names[at]} " if at < len(names) and len(names) > 1 else ""
        shown = line(values[:, channel])
        if hidden is not None:
            over = np.linspace(0, len(hidden), len(shown) + 1).astype(int)[:-1]
            shown = "".join(HIDDEN if hidden[o] else c for o, c in zip(over, shown, strict=True))
        sample.add((name, "label"), f"|{shown}|")
    if values.shape[1] > _LINES:
        sample.add((f"and {values.shape[1] - _LINES} channels more", "special"))
    return sample


def _hidden(objective: Objective, values: np.ndarray, seed: int) -> np.ndarray | None:
    """Which moments a first step would hide; None where nothing is ever hidden."""
    if not isinstance(objective, Windowed):
        return None
    seen_1P = np.ones((1, objective.patches), bool)
    hidden_1P = objective.hidden_of(seen_1P, [generator(seed, 0, 0)])
    return np.repeat(hidden_1P[0], objective.config.patch)[: len(values)]


def _spread(found: Sequence[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    n = min(count, len(found))
    return [found[k * len(found) // n] for k in range(n)]
