"""A run of several stages as sections of its page: each with where it comes from, its curves, and what it
replies.

::

    for section in sections(Path("runs/quickstart")):      # [] where the folder holds one run alone
        section.title, section.line, section.tiles, section.picture, section.replies

``RUN/chain.json`` names the stages; their figures are in their own folders. Curves are chosen by what the
stage has measured: losses, pairs in the right order, rewards, entropy, right answers on held-out prompts.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exnihilo.interop.files import read_json
from exnihilo.report import plot
from exnihilo.report.folder import Columns, RunFolder, open_run

FILE = "chain.json"
PICTURE = "chain.png"  # of the whole chain, where one was drawn
WIDEST = 3  # panels of a stage's picture
# title, columns of steps, columns of evaluations (drawn with marks), as a share
PANELS: tuple[tuple[str, tuple[str, ...], tuple[str, ...], bool], ...] = (
    ("reward", ("reward",), ("val_pass@1",), True),
    ("held-out replies: right, ended", (), ("val_pass@1", "val_stop_rate"), True),
    ("pairs in the right order", ("accuracy",), ("val_accuracy",), True),
    ("loss, nats", ("loss",), ("val_loss",), False),
    ("rewards of chosen and rejected", ("chosen_reward", "rejected_reward"), (), False),
    ("entropy of a token, nats", ("policy@entropy", "entropy"), (), False),
    ("tokens of a reply", ("length",), (), False),
)
POST = ("sft", "preference", "reward_model", "rlvr")  # whose loss alone says little
SKIPPED = {"rlvr": ("loss, nats",)}  # a policy's loss says nothing about what it has learnt


@dataclass(frozen=True)
class Section:
    """One stage, ready for the template."""

    title: str
    line: str
    tiles: list[tuple[str, str]] = field(default_factory=list)
    picture: str = ""
    alt: str = ""
    replies: list[tuple[str, str]] = field(default_factory=list)


def sections(path: Path) -> list[Section]:
    """The stages of a chain in order.

    Raises:
        CheckpointError, UsageError: a stage's folder is broken or gone.
    """
    file = path / FILE
    if not file.is_file():
        return []
    return [_section(path, stage) for stage in read_json(file).get("stages", ())]


def overview(path: Path) -> str:
    """The picture of the whole chain as a data URI; "" where there is none."""
    file = path / PICTURE
    return uri(file.read_bytes()) if file.is_file() else ""


def uri(png: bytes) -> str:
    """A picture that stands inside a page."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _section(path: Path, stage: Mapping[str, Any]) -> Section:
    run = open_run(path / stage["folder"])
    objective = str(stage.get("objective", ""))
    start = stage.get("init")
    words = [f"{objective}, from {'random weights' if start is None else start}"]
    if run.config is not None:
        words.append("on " + ", ".join(source.path for source in run.config.data.sources))
    words.append(f"in {run.path}")
    png, alt = picture(run, objective)
    return Section(
        title=f"{stage['name']}: {stage['title']}" if stage.get("title") else stage["name"],
        line=", ".join(words),
        tiles=_tiles(stage),
        picture=uri(png) if png else "",
        alt=alt,
        replies=[(str(q), str(a)) for q, a in (stage.get("replies") or {}).items()],
    )


def _tiles(stage: Mapping[str, Any]) -> list[tuple[str, str]]:
    out = []
    for entry in stage.get("gains") or ():
        out.append((entry["what"], f"{short(entry['before'])} → {short(entry['after'])}"))
    for name, form in (("steps", "{:,.0f}"), ("tokens", "{:,.0f}"), ("seconds", "{:,.0f}")):
        if stage.get(name) is not None:
            out.append((name, form.format(stage[name])))
    return out


def short(value: float) -> str:
    """Four digits at most.

    >>> short(0.70312), short(12345.6)
    ('0.703', '12,346')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def picture(run: RunFolder, objective: str) -> tuple[bytes, str]:
    """The stage's curves as PNG, and in words; (b"", "") where it has none."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chosen = []
    for title, of_steps, of_evals, share in PANELS:
        lines = [(name, run.train, "") for name in of_steps if _drawable(run.train, name, 2)]
        lines += [(name, run.val, "o") for name in of_evals if _drawable(run.val, name, 2)]
        seen = {name for _, old, _ in chosen for name, _, _ in old}
        if lines and not {name for name, _, _ in lines} <= seen and title not in SKIPPED.get(objective, ()):
            chosen.append((title, lines, share))
    chosen = chosen[:WIDEST]
    if not chosen:
        return b"", ""
    figure = Figure(figsize=(4.4 * len(chosen) + 0.6, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, lines, share) in zip(
        figure.subplots(1, len(chosen), squeeze=False)[0], chosen, strict=True
    ):
        _panel(axes, title, lines, share)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, facecolor="white")
    return buffer.getvalue(), "; ".join(title for title, _, _ in chosen)


def _panel(axes: Any, title: str, lines: Sequence[tuple[str, Columns, str]], share: bool) -> None:
    from matplotlib.ticker import FuncFormatter

    scale = 100.0 if share else 1.0
    for number, (name, table, mark) in enumerate(lines):
        pairs = zip(table["step"], table[name], strict=False)
        points = [(x, scale * y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]
        x, y = [p[0] for p in points], [p[1] for p in points]
        colour = plot.VAL if mark else plot.PALETTE[(0, 2, 3)[number % 3]]
        label = name.removeprefix("val_") + (" (held out)" if mark else "")
        if mark:
            axes.plot(x, y, color=colour, marker=mark, markersize=4, label=label)
        else:
            axes.plot(x, y, color=plot.TRAIN, linewidth=0.6, alpha=0.6)
            axes.plot(x, plot.smooth(y, max(1, len(y) // 30) | 1), color=colour, label=label)
    axes.set_title(title + (", per cent" if share else ""), loc="left", fontsize=10)
    axes.set_xlabel("step", color=plot.SOFT, fontsize=9)
    axes.tick_params(colors=plot.SOFT, labelsize=8)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plot.short(value)))
    axes.grid(True, axis="y", color=plot.GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if share:
        axes.set_ylim(-3, 103)
    axes.legend(frameon=False, fontsize=8)


def _drawable(table: Columns, name: str, least: int) -> bool:
    """Whether a column has so many points."""
    return sum(map(math.isfinite, table.get(name, ()))) >= least
