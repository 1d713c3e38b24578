"""Loss curves as a picture (PNG), with the marks that give a loss its meaning: chance above, the entropy
floor below.

::

    png(curves, path=Path("loss.png"), floor=1.93, chance=math.log(1024))

Drawn with matplotlib's Agg canvas, without its global state: no window, no shared figures.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

INK, SOFT, GRID = "#1b1f24", "#6b7280", "#e5e7eb"
TRAIN, VAL, FLOOR, CHANCE = "#9db8d9", "#c2410c", "#15803d", "#6b7280"
PALETTE = ("#1d4ed8", "#c2410c", "#15803d", "#7e22ce", "#b45309", "#0e7490", "#be123c", "#4d7c0f")


@dataclass
class Curves:
    """Points of a run: `x` in tokens (or steps), losses in nats a token."""

    train_x: Sequence[float] = ()
    train: Sequence[float] = ()
    val_x: Sequence[float] = ()
    val: Sequence[float] = ()
    unit: str = "tokens"
    marks: dict[str, float] = field(default_factory=dict)  # label -> nats: horizontal lines


def curves(train: Mapping[str, Sequence[float]], val: Mapping[str, Sequence[float]]) -> Curves:
    """Curves from the tables of a `RunFolder`; over tokens where they are known, else over steps.

    A step's training loss is that of the weights before it, so it stands where the step began.
    """
    unit = "tokens" if "tokens" in train or "tokens" in val else "step"
    begun = [x - x / step for x, step in zip(train.get(unit, ()), train.get("step", ()), strict=False)]
    return Curves(
        *_points(begun, train.get("loss", ())),
        *_points(val.get(unit, ()), val.get("val_loss", ())),
        unit="tokens" if unit == "tokens" else "steps",
    )


def _points(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    kept = [(a, b) for a, b in zip(x, y, strict=False) if math.isfinite(a) and math.isfinite(b)]
    return [a for a, _ in kept], [b for _, b in kept]


def smooth(values: Sequence[float], window: int) -> list[float]:
    """A centred mean over `window` points (fewer at the ends): no lag, no invented points.

    >>> smooth([1.0, 2.0, 6.0], 3)
    [1.5, 3.0, 4.0]
    """
    half = max(0, window // 2)
    total = [0.0]
    for value in values:
        total.append(total[-1] + value)
    out = []
    for i in range(len(values)):
        low, high = max(0, i - half), min(len(values), i + half + 1)
        out.append((total[high] - total[low]) / (high - low))
    return out


def short(value: float) -> str:
    """``1.2M`` for 1,200,000."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _axes(figure: Figure, xlabel: str, ylabel: str) -> Any:
    axes = figure.add_axes((0.085, 0.13, 0.75, 0.76))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(SOFT)
    axes.tick_params(colors=SOFT, labelsize=9)
    axes.grid(True, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel, color=SOFT, fontsize=10)
    axes.set_ylabel(ylabel, color=SOFT, fontsize=10)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: short(v)))
    return axes


def _save(figure: Figure, path: Path | None) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=150, facecolor="white")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())
    return buffer.getvalue()


def _spread(
    labels: list[tuple[float, str, str]], low: float, high: float, gap: float
) -> list[tuple[float, str, str]]:
    """Push labels at the right edge apart so that none covers another."""
    placed: list[tuple[float, str, str]] = []
    for y, text, colour in sorted(labels):
        y = max(y, placed[-1][0] + gap) if placed else max(y, low)
        placed.append((y, text, colour))
    over = placed[-1][0] - high if placed else 0.0
    if over > 0:
        for index in range(len(placed) - 1, -1, -1):
            y, text, colour = placed[index]
            top = placed[index + 1][0] - gap if index + 1 < len(placed) else high
            placed[index] = (min(y, top), text, colour)
    return placed


def png(
    data: Curves,
    path: Path | None = None,
    *,
    floor: float | None = None,
    chance: float | None = None,
    title: str = "",
) -> bytes:
    """The loss curve as PNG bytes, written to `path` too where one is given.

    Args:
        floor: entropy of the data in nats a token: no model can be below it (drawn dashed).
        chance: loss of a model that knows nothing, ln V (drawn dotted).
    """
    figure = Figure(figsize=(9, 5))
    axes = _axes(figure, f"{data.unit} seen", "loss, nats a token")
    labels: list[tuple[float, str, str]] = []
    values = [v for v in (*data.train, *data.val) if math.isfinite(v)]
    if data.train:
        axes.plot(data.train_x, data.train, color=TRAIN, linewidth=0.8, alpha=0.55)
        window = max(1, len(data.train) // 40) | 1
        steady = smooth(data.train, window)
        axes.plot(data.train_x, steady, color="#1d4ed8", linewidth=1.8)
        labels.append((steady[-1], f"training {steady[-1]:.2f}", "#1d4ed8"))
    if data.val:
        axes.plot(
            data.val_x,
            data.val,
            color=VAL,
            linewidth=1.6,
            marker="o",
            markersize=4.5,
            markeredgecolor="white",
        )
        labels.append((data.val[-1], f"validation {data.val[-1]:.2f}", VAL))
    lines = [(floor, "entropy floor", FLOOR, "--"), (chance, "ln V (chance)", CHANCE, ":")]
    lines += [(value, name, SOFT, "-.") for name, value in data.marks.items()]
    for value, name, colour, style in lines:
        if value is not None:
            axes.axhline(value, color=colour, linestyle=style, linewidth=1.3)
            labels.append((value, f"{name} {value:.2f}", colour))
            values.append(value)
    if values:
        low, high = min(values), max(values)
        room = max(high - low, 0.1)
        axes.set_ylim(low - 0.06 * room, high + 0.06 * room)
        bottom, top = axes.get_ylim()
        for y, text, colour in _spread(labels, bottom, top, 0.045 * (top - bottom)):
            axes.annotate(
                text,
                (1.012, (y - bottom) / (top - bottom)),
                xycoords="axes fraction",
                color=colour,
                fontsize=8.5,
                va="center",
                annotation_clip=False,
            )
    axes.set_xlim(left=0)
    axes.margins(x=0)
    axes.set_title(title or "Loss", color=INK, fontsize=12, loc="left", pad=12)
    return _save(figure, path)


def overlay(
    named: Mapping[str, Curves], path: Path | None = None, *, title: str = "Validation loss"
) -> bytes:
    """The validation (else training) curves of several runs in one picture."""
    figure = Figure(figsize=(9, 5))
    unit = next(iter(named.values())).unit if named else "tokens"
    axes = _axes(figure, f"{unit} seen", "loss, nats a token")
    labels: list[tuple[float, str, str]] = []
    for (name, data), colour in zip(named.items(), PALETTE * (1 + len(named) // len(PALETTE)), strict=False):
        x, y = (
            (data.val_x, data.val)
            if data.val
            else (data.train_x, smooth(data.train, len(data.train) // 40 | 1))
        )
        if y:
            axes.plot(x, y, color=colour, linewidth=1.7, marker="o" if data.val else "", markersize=3.5)
            labels.append((y[-1], f"{name} {y[-1]:.2f}", colour))
    bottom, top = axes.get_ylim()
    for y, text, colour in _spread(labels, bottom, top, 0.045 * (top - bottom)):
        axes.annotate(
            text,
            (1.012, (y - bottom) / (top - bottom)),
            xycoords="axes fraction",
            color=colour,
            fontsize=8.5,
            va="center",
            annotation_clip=False,
        )
    axes.set_title(title, color=INK, fontsize=12, loc="left", pad=12)
    return _save(figure, path)


def sweep(
    rates: Sequence[float], losses: Sequence[float], suggestion: float, path: Path | None = None
) -> bytes:
    """A learning-rate sweep: smoothed loss over the rate, the suggestion marked."""
    figure = Figure(figsize=(9, 5))
    axes = _axes(figure, "learning rate", "loss, nats a token")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0e}".replace("e-0", "e-")))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.plot(rates, losses, color="#1d4ed8", linewidth=1.8)
    axes.axvline(suggestion, color=VAL, linestyle="--", linewidth=1.4)
    axes.annotate(
        f" suggestion {suggestion:.2g}",
        (suggestion, 0.97),
        xycoords=("data", "axes fraction"),
        color=VAL,
        fontsize=9,
        va="top",
    )
    axes.set_title("Learning-rate sweep", color=INK, fontsize=12, loc="left", pad=12)
    return _save(figure, path)
