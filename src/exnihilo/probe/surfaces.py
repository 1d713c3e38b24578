"""The example itself, coloured by influence, where it is no text: the spectrogram of a sound, the patches of
a picture, the curve of a series; of anything else the numbers of its positions.

::

    draw(rows.items[0], rows.inputs, nats_T, folder, subject)       # spectrogram.png, patches.png, ...

The deeper a position's colour, the more the output changes when it is swapped (the square root of its share
of the largest, as in a text).

Key: T positions, F numbers a position, M frames, H, W pixels
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from exnihilo.probe.picture import COLOURS, INK, SOFT, shares
from exnihilo.probe.subject import Subject

FILES = ("spectrogram.png", "patches.png", "series.png", "inputs.png")
DEEP = np.array((194, 65, 12)) / 255  # on grey


def draw(
    item: Mapping[str, np.ndarray],
    inputs: Sequence[str],
    nats_T: np.ndarray,
    folder: Path,
    subject: Subject,
    *,
    title: str = "",
) -> list[Path]:
    """One picture for each input that the example has."""
    from exnihilo.codec.picture import layout as pictures
    from exnihilo.codec.sound import layout as sounds

    out: list[Path] = []
    for number, name in enumerate(inputs, 1):
        at = np.flatnonzero(item["kind"] == number)
        if not len(at):
            continue
        held_TF, nats = item[name][at], nats_T[at]
        layout = _layout(subject, name)
        if isinstance(layout, sounds.Layout):
            path = folder / "spectrogram.png"
            grid = getattr(layout, "grid", None)
            spectrogram(held_TF, nats, path, mels=layout.held[-1], grid=grid, title=title)
        elif isinstance(layout, pictures.Patches) and len(at) == layout.positions:
            path = folder / "patches.png"
            patches(layout.unfold(held_TF), nats, layout.grid, path, title=title)
        elif name == "series":
            path = folder / "series.png"
            series(
                held_TF, nats, int(getattr(_config(subject), "patch", held_TF.shape[1])), path, title=title
            )
        else:
            path = folder / "inputs.png"
            numbers(held_TF, nats, path, title=f"{title}, {name}")
        out.append(path)
    return out


def _config(subject: Subject) -> Any:
    return None if subject.objective is None else subject.objective.config


def _layout(subject: Subject, name: str) -> Any:
    """How the objective lays an input out: its `layout`, or the one of that name."""
    found = getattr(subject.objective, "layout", None)
    many = getattr(subject.objective, "layouts", None)
    return many.get(name, found) if isinstance(many, Mapping) else found


def spectrogram(
    held_TF: np.ndarray,
    nats_T: np.ndarray,
    path: Path,
    *,
    mels: int = 80,
    grid: tuple[int, int] | None = None,
    title: str = "",
) -> None:
    """A sound: frames in grey, coloured where they bear on the output, and above them how many nats.

    Args:
        held_TF: frames of each position one after another; with `grid` square patches, all of one band of
            frequencies, then the next.
        mels: numbers of a frame, where there is no grid.
        grid: patches over frequencies and over time.
    """
    if grid is None:
        image = held_TF.reshape(-1, mels).T
        share = np.repeat(shares(nats_T), image.shape[1] // len(held_TF))[None].repeat(len(image), 0)
        over = nats_T
    else:
        side = round(held_TF.shape[1] ** 0.5)
        tiles = held_TF.reshape(*grid, side, side)[:, :, : max(1, side * 5 // 8), : max(1, side * 5 // 8)]
        image = tiles.transpose(0, 2, 1, 3).reshape(grid[0] * tiles.shape[2], -1)
        by_tile = shares(nats_T).reshape(grid)
        share = by_tile.repeat(tiles.shape[2], 0).repeat(tiles.shape[3], 1)
        over = nats_T.reshape(grid).sum(0)
    figure, top, main = _two(title)
    _bars(top, over, image.shape[1])
    main.imshow(tinted(image, share), origin="lower", aspect="auto", interpolation="nearest")
    main.set_xlabel("frames of 10 ms" if grid is None else "time", color=INK)
    main.set_ylabel("mel bands", color=INK)
    figure.savefig(path)


def patches(
    image_HWC: np.ndarray, nats_T: np.ndarray, grid: tuple[int, int], path: Path, *, title: str = ""
) -> None:
    """A picture as it was seen, and beside it in grey, coloured where it bears on the output."""
    low, high = float(image_HWC.min()), float(image_HWC.max())
    seen = (image_HWC - low) / max(high - low, 1e-9)
    figure = Figure(figsize=(7.2, 4.0), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.imshow(seen if seen.shape[-1] == 3 else seen[..., 0], cmap="gray", interpolation="nearest")
    height, width = image_HWC.shape[0] // grid[0], image_HWC.shape[1] // grid[1]
    share = shares(nats_T).reshape(grid).repeat(height, 0).repeat(width, 1)
    right.imshow(tinted(seen.mean(-1), share), interpolation="nearest")
    best = int(np.argmax(nats_T))
    right.set_xlabel(f"largest: {nats_T[best]:.4f} nats", color=SOFT, fontsize=8)
    for axes in (left, right):
        axes.set_xticks([])
        axes.set_yticks([])
    if title:
        figure.suptitle(title, color=INK, fontsize=9, x=0.02, ha="left")
    figure.savefig(path)


def series(held_TF: np.ndarray, nats_T: np.ndarray, patch: int, path: Path, *, title: str = "") -> None:
    """A curve over time, its ground coloured where it bears on the output; not what is asked about."""
    values = held_TF[:, :patch].astype(float)
    curve = values.reshape(-1)
    figure, top, main = _two(title)
    _bars(top, nats_T, len(curve))
    for t, share in enumerate(shares(nats_T)):
        main.axvspan(t * patch - 0.5, (t + 1) * patch - 0.5, color=DEEP, alpha=0.75 * float(share), lw=0)
    hidden = np.repeat(~values.any(1), patch)  # a patch of zeros is none
    main.plot(np.arange(len(curve)), np.where(hidden, np.nan, curve), color=INK, linewidth=1.0)
    main.set_xlim(-0.5, len(curve) - 0.5)
    main.set_xlabel("moments", color=INK)
    main.set_ylabel("value, normalised", color=INK)
    figure.savefig(path)


def numbers(held_TF: np.ndarray, nats_T: np.ndarray, path: Path, *, title: str = "") -> None:
    """Any numbers: positions to the right, what each holds upwards."""
    figure, top, main = _two(title)
    _bars(top, nats_T, len(held_TF))
    share = shares(nats_T)[None].repeat(held_TF.shape[1], 0)
    main.imshow(tinted(held_TF.T, share), origin="lower", aspect="auto", interpolation="nearest")
    main.set_xlabel("position", color=INK)
    main.set_ylabel("number", color=INK)
    figure.savefig(path)


def tinted(image: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Grey levels (H, W) as colours (H, W, 3), the deeper the larger the share.

    >>> tinted(np.array([[0.0, 2.0]]), np.array([[0.0, 0.0]])).tolist()
    [[[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]]
    """
    low, high = (float(np.quantile(image, q)) for q in (0.0, 1.0))
    grey = np.clip((image - low) / max(high - low, 1e-9), 0, 1)[..., None]
    weight = 0.8 * share[..., None]
    return (1 - weight) * grey + weight * DEEP * (0.4 + 0.6 * grey)


def _two(title: str) -> tuple[Figure, Axes, Axes]:
    figure = Figure(figsize=(7.2, 4.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    top, main = figure.subplots(2, 1, height_ratios=(1, 4))
    if title:
        figure.suptitle(title, color=INK, fontsize=9, x=0.02, ha="left")
    return figure, top, main


def _bars(axes: Axes, nats: np.ndarray, width: int) -> None:
    """How many nats each position has, above what it holds."""
    step = width / len(nats)
    axes.bar((np.arange(len(nats)) + 0.5) * step - 0.5, nats, width=step, color=COLOURS[0])
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylabel("nats", color=SOFT, fontsize=8)
    axes.tick_params(labelbottom=False, colors=SOFT, labelsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
