"""What each stage of a chain gained on its held-out split: its figures before its first step and after its
last.

::

    of(Path("runs/mine/rlvr"), "rlvr")      # [{"figure": "val_pass@1", "before": 0.31, "after": 0.74, ...}]

The stage before is the control: a stage's figures before its first step are those of the model it started
from, on the same held-out examples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exnihilo.interop.files import read_json

# objective -> figures of an evaluation, the first that is there is taken: (name, in words, higher is better)
FIGURES: dict[str, tuple[tuple[str, str, bool], ...]] = {
    "causal_lm": (("val_loss", "loss, nats a token", False),),
    "sft": (("val_loss", "loss, nats a reply's token", False), ("val_stop_rate", "replies that end", True)),
    "preference": (
        ("val_accuracy", "pairs in the right order", True),
        ("val_margin", "margin of rewards", True),
        ("val_loss", "loss", False),
    ),
    "rlvr": (("val_pass@1", "right at the first try", True), ("val_stop_rate", "replies that end", True)),
}


def of(folder: Path, objective: str) -> list[dict[str, Any]]:
    """Each figure of a stage before and after it; [] where it has no held-out split."""
    from exnihilo.report.folder import read_rows

    file = folder / "metrics.jsonl"
    rows = [row for row in read_rows(file) if row.get("kind") == "eval"] if file.is_file() else []
    out = _replies(folder / "control.json")
    for name, words, higher in FIGURES.get(objective, (("val_loss", "loss", False),)):
        known = [row for row in rows if _number(row.get(name))]
        if len(known) < 2 or name in {entry["figure"] for entry in out}:
            continue
        first, last = known[0], known[-1]
        entry: dict[str, Any] = {
            "figure": name,
            "what": words,
            "higher": higher,
            "before": first[name],
            "after": last[name],
        }
        for side, row in (("before", first), ("after", last)):
            if _number(row.get(f"{name}_low")):
                entry[f"{side}_interval"] = [row[f"{name}_low"], row[f"{name}_high"]]
        out.append(entry)
    return out


def _replies(file: Path) -> list[dict[str, Any]]:
    """What the run itself found out about its replies and those of its parent (`train.replies`)."""
    found = read_json(file) if file.is_file() else {}
    if found.get("kind") != "parent":
        return []
    name = f"val_{found['metric']}"
    words = {key: text for figures in FIGURES.values() for key, text, _ in figures}
    entry: dict[str, Any] = {"figure": name, "what": words.get(name, found["metric"]), "higher": True}
    for side in ("before", "after"):
        entry[side] = found[side]["mean"]
        entry[f"{side}_interval"] = [found[side]["low"], found[side]["high"]]
    return [entry]


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


HEAD = ("stage", "on held-out examples", "before", "after", "steps", "seconds")


def rows(stages: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The table's cells: one line a figure of a stage."""
    out: list[list[str]] = []
    for stage in stages:
        for number, entry in enumerate(stage["gains"] or [{}]):
            out.append(
                [
                    stage["name"] if number == 0 else "",
                    entry.get("what", "no held-out split"),
                    _cell(entry, "before"),
                    _cell(entry, "after"),
                    f"{stage['steps']:,}" if number == 0 else "",
                    f"{stage['seconds']:,.0f}" if number == 0 else "",
                ]
            )
    return out


def _cell(entry: Mapping[str, Any], side: str) -> str:
    if side not in entry:
        return ""
    interval = entry.get(f"{side}_interval")
    return f"{entry[side]:.4g}" + (f" ({interval[0]:.3g}–{interval[1]:.3g})" if interval else "")


def text(stages: Sequence[Mapping[str, Any]]) -> str:
    """The table as lines."""
    lines = [list(HEAD), *rows(stages)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    return "what each stage gained, on held-out examples\n" + "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
