"""Several run folders side by side: their final figures as a table, their curves in one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exnihilo.report import plot
from exnihilo.report.folder import open_run

_COLUMNS = ("val_loss", "val_bpb", "loss", "tokens", "step", "seconds", "tokens_per_s")


def compare(paths: Sequence[Path], out: Path | None = None) -> list[dict[str, Any]]:
    """One row a run, the lowest validation loss first; runs without one last.

    Losses of runs with different tokenizers are in different units: ``val_bpb`` compares those.
    """
    runs = [open_run(path) for path in paths]
    if out is not None:
        named = {str(run.path): plot.curves(run.train, run.val) for run in runs}
        plot.overlay({name: data for name, data in named.items() if data.train or data.val}, out)
    rows = [{"run": str(run.path), **{name: run.last(name) for name in _COLUMNS}} for run in runs]
    return sorted(rows, key=lambda row: math.inf if row["val_loss"] is None else row["val_loss"])


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of `compare` as text."""
    head = ["run", *_COLUMNS]
    cells = [[str(row["run"])] + [_cell(row[name]) for name in _COLUMNS] for row in rows]
    widths = [max(len(line[i]) for line in [head, *cells]) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in [head, *cells]
    )


def _cell(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4f}"
