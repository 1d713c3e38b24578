"""Pictures as the model will see them, in characters: one a few pixels, dark to light.

    if pictures.seen(objective): pictures.add(objective, codec, examples, items, count, seed, made)

And what sizes show: pictures that are made much smaller, or larger than they are, grey ones in three
channels, those of one colour.

Key: H, W pixels, C channels
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from exnihilo.codec.picture import palette, read
from exnihilo.data.base import Example, Item
from exnihilo.doctor.report import Diagnosis, Sample, share
from exnihilo.objective._seeing import INPUT, Seeing, starts
from exnihilo.objective.base import Look, Objective
from exnihilo.objective.draws import generator
from exnihilo.objective.picture_tokens import PictureTokens

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec

RAMP = " .:-=+*#%@"
HIDDEN = "\u2591"
WIDE, HIGH = 44, 22  # characters of a picture; one is about twice as high as wide
_LOOKED_AT = 300


def seen(objective: Objective) -> bool:
    """Whether an objective's examples are pictures and nothing else."""
    return isinstance(objective, (Seeing, PictureTokens))


def add(
    objective: Objective,
    codec: Codec,
    examples: Sequence[Example],
    items: Sequence[Sequence[Item]],
    count: int,
    seed: int,
    made: Diagnosis,
) -> None:
    """Adds `count` samples, and what the pictures' sizes and levels show."""
    kept = [i for i, own in enumerate(items) if own]
    _sizes(objective, [examples[i] for i in _spread(kept, _LOOKED_AT)], made)
    flat = 0
    looked = _spread(kept, _LOOKED_AT)
    for i in looked:
        flat += int(np.ptp(_image(objective, codec, items[i][0])) == 0)
    if flat:
        made.found(
            "warning" if flat > 0.01 * len(looked) else "note",
            f"{share(flat, len(looked))} of the pictures are of one colour: there is nothing to see on them",
            "leave them out",
        )
    for i in _spread(kept, count):
        made.samples.append(_sample(objective, codec, examples[i], items[i][0], seed + i))
    made.legend = f"{RAMP[0]!r} black to {RAMP[-1]!r} white"
    if objective.heads in (("painter",), ("vectors",)):
        made.legend += f"; {HIDDEN} hidden"


def drawn(image: np.ndarray, hidden: np.ndarray | None = None) -> list[str]:
    """A picture in lines of characters.

    Args:
        image: uint8 (H, W, C). hidden: bool (H, W), what is not shown.

    >>> drawn(np.array([[[0], [255]]], np.uint8))
    [' @']
    """
    height, width = image.shape[:2]
    columns = min(width * 2, WIDE) if height > 1 else min(width, WIDE)
    rows = max(1, min(HIGH, round(height / width * columns / 2)))
    light = image.astype(np.float64).mean(-1)
    out = []
    for y in range(rows):
        top, bottom = _span(y, rows, height)
        line = ""
        for x in range(columns):
            left, right = _span(x, columns, width)
            part = np.s_[top:bottom, left:right]
            if hidden is not None and hidden[part].mean() > 0.5:
                line += HIDDEN
            else:
                line += RAMP[round(light[part].mean() / 255 * (len(RAMP) - 1))]
        out.append(line)
    return out


def _span(at: int, parts: int, size: int) -> tuple[int, int]:
    first = at * size // parts
    return first, max(first + 1, (at + 1) * size // parts)


def _spread(numbers: Sequence[int], count: int) -> list[int]:
    n = min(count, len(numbers))
    return [numbers[k * len(numbers) // n] for k in range(n)]


def _image(objective: Objective, codec: Codec, item: Item) -> np.ndarray:
    """The picture that an item holds."""
    if isinstance(objective, PictureTokens):
        return objective.pixels_of(codec.decode(np.asarray(item["tokens"]).tolist()))
    assert isinstance(objective, Seeing)
    T = objective.layout.positions
    folded = np.asarray(item["pixels"])[objective.marked : objective.marked + T]
    return objective.layout.unfold(folded)


def _sample(objective: Objective, codec: Codec, example: Example, item: Item, seed: int) -> Sample:
    name = str(example.get(INPUT, "")).rpartition("/")[2]
    told = [f"{role} {example[role]!r:.80}" for role in ("label", "text") if example.get(role) is not None]
    image = _image(objective, codec, item)
    sample = Sample(": ".join([name, ", ".join(told)]) if told else name)
    for line in drawn(image, _hidden(objective, codec, item, seed)):
        sample.add(line)
    return sample


def _hidden(objective: Objective, codec: Codec, item: Item, seed: int) -> np.ndarray | None:
    """Which pixels a first step would hide; None where nothing is ever hidden."""
    if not isinstance(objective, Seeing) or objective.heads not in (("painter",), ("vectors",)):
        return None
    columns: dict[str, Any] = {name: np.asarray(value)[None] for name, value in item.items()}
    columns["doc"] = np.zeros_like(columns["tokens"])
    look = Look(1, np.zeros(1, np.int64), lambda rows: columns, codec)
    after = objective.draw(columns, [generator(seed, 0, 0)], look)
    layout = objective.layout
    [(_, start)] = starts(columns["kind"], None, layout.positions)
    mask = after["mask"][0, start : start + layout.positions, None] == 1
    whole = np.repeat(mask, layout.held[0], 1)
    return layout.unfold(whole)[..., 0]


def _sizes(objective: Any, examples: Sequence[Example], made: Diagnosis) -> None:
    """What the files are, by their headers."""
    found = []
    for example in examples:
        try:
            found.append(read.size_of(str(example.get(INPUT)), most=objective.config.most_pixels))
        except read.Unreadable:
            continue  # counted where it was encoded
    if not found:
        return
    high, wide, channels = np.array(found).T
    sides = objective.sides if isinstance(objective, PictureTokens) else objective.layout.size
    middle = f"{int(np.median(high))} × {int(np.median(wide))}"
    least, most = f"{high.min()} × {wide.min()}", f"{high.max()} × {wide.max()}"
    kinds = f"{share(int((channels == 1).sum()), len(found))} grey"
    made.facts["pictures"] = (
        f"{middle} at the median, from {least} to {most}, {kinds}; made {sides[0]} × {sides[1]}"
        if least != most
        else f"{middle}, {kinds}" + ("" if (high[0], wide[0]) == sides else f"; made {sides[0]} × {sides[1]}")
    )
    if isinstance(objective, PictureTokens):
        made.facts["palette"] = f"{len(objective.colours)} colours"
        lost = _lost(objective, examples[:20])
        if lost is not None:
            made.facts["palette"] += f", {lost:.1f} of 255 levels off on average"
    ratio = float(np.median(high * wide)) / (sides[0] * sides[1])
    if ratio > 64:
        made.found(
            "note",
            f"pictures of {middle} are made {sides[0]} × {sides[1]}: what is small on them is lost",
            "a larger options.size, with a larger options.patch",
        )
    elif ratio < 0.5:
        made.found(
            "note",
            f"pictures of {middle} are made larger, {sides[0]} × {sides[1]}: positions that hold nothing new",
            f"options.size={int(np.median(high))}",
        )
    if (channels == 1).all() and objective.config.channels == 3:
        made.found("note", "all pictures are grey, in three channels", "options.channels=1")


def _lost(objective: PictureTokens, examples: Sequence[Example]) -> float | None:
    """How far a pixel is from its colour of the palette."""
    far = []
    for example in examples:
        try:
            image = objective._pixels(example)
        except read.Unreadable:
            continue
        again = objective.colours[palette.quantise(image, objective.colours)]
        far.append(np.abs(image.astype(np.float64) - again).mean())
    return float(np.mean(far)) if far else None
