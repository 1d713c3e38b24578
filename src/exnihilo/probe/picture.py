"""Pictures of influence: over distance, as a map, and as the text itself, coloured.

::

    over_distance({"trained": found, "untrained": blank, "shuffled": control}, Path("distance.png"))
    as_map(found, Path("map.png"))
    as_text(pieces, found.nats_QT[-1])             # HTML; `painted` is the same for a terminal

Drawn with matplotlib's Agg canvas, without its global state. What is exactly zero is left white, so that a
leak from the future would show.

Key: Q sites, T positions
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.style import Style
from rich.text import Text

from exnihilo.probe.influence import Influence

INK, SOFT, GRID = "#1b1f24", "#6b7280", "#e5e7eb"
COLOURS = ("#1d4ed8", "#9ca3af", "#c2410c", "#15803d", "#7e22ce", "#b45309")
LEAST = 1e-6  # nats: the floor of logarithmic axes
FILES = ("distance.png", "map.png", "text.html")


def over_distance(
    found: Mapping[str, Influence], path: Path, *, title: str = "", whole: bool = False
) -> None:
    """Nats against how far back a position lies, both logarithmic: one line a model or measure.

    Distances are gathered in bins that widen by a quarter, so that far ones are means over many positions.

    Args:
        whole: the output is one for all positions: against where a position stands.
    """
    figure = Figure(figsize=(7.2, 4.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for colour, (name, one) in zip(COLOURS * 9, found.items(), strict=False):
        x, y = binned(one.by_distance())
        axes.plot(x + 1, np.maximum(y, LEAST), color=colour, marker="o", markersize=3, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    both = "" if all(one.causal for one in found.values()) else " to either side"
    where = f"distance + 1, positions{both or ' back'} (1: the position of the output itself)"
    axes.set_xlabel("position + 1 (there is one output for all)" if whole else where, color=INK)
    axes.set_ylabel("influence, nats (KL)", color=INK)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=SOFT)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if title:
        axes.set_title(title, color=INK, fontsize=10, loc="left")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)


def binned(nats_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean distance, mean nats) of bins that widen by a quarter; what was not measured is left out.

    >>> binned(np.array([1.0, 2.0, 3.0, np.nan]))[1].tolist()
    [1.0, 2.0, 3.0]
    """
    xs, ys, start = [], [], 0
    while start < len(nats_T):
        end = max(start + 1, int((start + 1) * 1.25))
        inside = np.arange(start, min(end, len(nats_T)))
        known = inside[~np.isnan(nats_T[inside])]
        if len(known):
            xs.append(known.mean())
            ys.append(nats_T[known].mean())
        start = end
    return np.array(xs), np.array(ys)


def as_map(found: Influence, path: Path, *, title: str = "") -> None:
    """Sites downwards, positions to the right, colours by nats; beside it what each site gets and each
    position gives."""
    nats_QT = np.nan_to_num(found.nats_QT)
    figure = Figure(figsize=(6.8, 6.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, width_ratios=(5, 1), height_ratios=(1, 5))
    main = figure.add_subplot(grid[1, 0])
    top, right = figure.add_subplot(grid[0, 0], sharex=main), figure.add_subplot(grid[1, 1], sharey=main)
    highest = max(float(nats_QT.max()), 10 * LEAST)
    shown = np.ma.masked_less_equal(nats_QT, 0.0)
    picture = main.imshow(
        shown, cmap="viridis_r", norm=LogNorm(max(LEAST, highest * 1e-4), highest), aspect="auto"
    )
    main.xaxis.set_major_locator(MaxNLocator(integer=True))
    main.set_xlabel("input position", color=INK)
    main.set_ylabel("output position", color=INK)
    rows = list(range(0, len(found.sites), max(1, len(found.sites) // 8)))
    main.set_yticks(rows, [str(found.sites[q]) if found.sites[q] >= 0 else "text" for q in rows])
    top.bar(range(nats_QT.shape[1]), nats_QT.sum(0), width=1.0, color=COLOURS[0])
    right.barh(range(nats_QT.shape[0]), nats_QT.sum(1), height=1.0, color=COLOURS[0])
    top.set_ylabel("gives", color=SOFT, fontsize=8)
    right.set_xlabel("gets", color=SOFT, fontsize=8)
    top.tick_params(labelbottom=False, colors=SOFT, labelsize=7)
    right.tick_params(labelleft=False, colors=SOFT, labelsize=7)
    for axes in (top, right):
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.colorbar(picture, ax=right, label="nats", fraction=0.6)
    if title:
        figure.suptitle(title, color=INK, fontsize=10, x=0.02, ha="left")
    figure.savefig(path)


def shares(nats_T: np.ndarray) -> np.ndarray:
    """Of the largest influence, 0 to 1; a square root makes small ones visible.

    >>> shares(np.array([0.0, 1.0, 4.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    values = np.nan_to_num(np.maximum(nats_T, 0.0))
    top = float(values.max()) if values.size else 0.0
    return np.sqrt(values / top) if top > 0 else values


def as_text(pieces: Sequence[str], nats_T: np.ndarray) -> str:
    """The text as HTML, each token on a ground that is the deeper, the more it bears on the site; the nats
    are shown on hover."""
    out = []
    words = sum(len(piece) > 1 for piece in pieces) > len(pieces) / 2
    gap = " " if words and not any(c.isspace() for piece in pieces for c in piece) else ""
    for piece, share, nats in zip(pieces, shares(nats_T), np.nan_to_num(nats_T), strict=True):
        dark = " color:#fff;" if share > 0.6 else ""
        between = "" if piece.startswith("##") or not out else gap  # a vocabulary of words without spaces
        out.append(
            f'{between}<span style="background:rgba(29,78,216,{share:.3f});{dark}" title="{nats:.4f} nats">'
            f"{html.escape(piece)}</span>"
        )
    return f'<p style="white-space:pre-wrap;line-height:1.7">{"".join(out)}</p>'


def painted(pieces: Sequence[str], nats_T: np.ndarray) -> Text:
    """The same for a terminal."""
    text = Text()
    for piece, share in zip(pieces, shares(nats_T), strict=True):
        ground = tuple(round(255 + share * (to - 255)) for to in (29, 78, 216))
        ink = "white" if share > 0.6 else "black"
        text.append(piece, Style(color=ink, bgcolor="#{:02x}{:02x}{:02x}".format(*ground)))
    return text


def page(title: str, body: str) -> str:
    """The page of a coloured text."""
    style = "body{font:16px/1.6 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}"
    title = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{style}</style><h1>What the last output reads</h1><p>{title}. The deeper a token's ground, "
        f"the more the output changes when it is swapped.</p>{body}</html>"
    )
