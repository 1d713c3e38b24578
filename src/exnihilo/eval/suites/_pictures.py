"""Pictures of suites, by matplotlib's Agg canvas without its global state.

::

    grid(share_DL, lengths=[64, 256], depths=["0%", "100%"], path=Path("retrieval.png"), title="runs/books")
    line(place_K, loss_K, low_K, high_K, path=Path("positions.png"), title="runs/books")

Key: D depths, L lengths, K bins of positions
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, SOFT, GRID, BLUE = "#1b1f24", "#6b7280", "#e5e7eb", "#1d4ed8"


def grid(
    share_DL: np.ndarray, *, lengths: Sequence[int], depths: Sequence[str], path: Path, title: str = ""
) -> None:
    """Accuracy by depth (down) and length (across), 0 to 1; NaN where nothing was asked."""
    figure = Figure(
        figsize=(1.6 + 0.75 * len(lengths), 1.5 + 0.42 * len(depths)), dpi=130, layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(np.ma.masked_invalid(share_DL), cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
    for d in range(len(depths)):
        for n in range(len(lengths)):
            if not np.isnan(share_DL[d, n]):
                text = f"{share_DL[d, n]:.0%}"
                axes.text(n, d, text, ha="center", va="center", color=INK, fontsize=8)
    axes.set_xticks(range(len(lengths)), [f"{n:,}" for n in lengths])
    axes.set_yticks(range(len(depths)), depths)
    axes.set_xlabel("tokens", color=INK)
    axes.set_ylabel("how deep it stands", color=INK)
    axes.tick_params(colors=SOFT, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    figure.colorbar(image, ax=axes, label="found again", shrink=0.9)
    if title:
        axes.set_title(title, color=INK, fontsize=9, loc="left")
    figure.savefig(path)


def line(
    place_K: np.ndarray,
    loss_K: np.ndarray,
    low_K: np.ndarray,
    high_K: np.ndarray,
    *,
    path: Path,
    title: str = "",
) -> None:
    """Loss over the position in the text, on a logarithmic axis, with its interval."""
    figure = Figure(figsize=(7.2, 4.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.fill_between(place_K, low_K, high_K, color=BLUE, alpha=0.15, linewidth=0)
    axes.plot(place_K, loss_K, color=BLUE, marker="o", markersize=3)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("position in the text (tokens read before, and 1)", color=INK)
    axes.set_ylabel("loss, nats a token", color=INK)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=SOFT)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if title:
        axes.set_title(title, color=INK, fontsize=10, loc="left")
    figure.savefig(path)
