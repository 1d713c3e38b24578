"""A run folder, read: its figures, its settings, and the weights to use.

::

    run = open_run(Path("runs/books"))
    run.train["loss"][-1], run.val["val_loss"][-1]
    model, codec = load_model(Path("runs/books"))

A folder of weights alone (an imported or Hugging Face folder) is a run without figures.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exnihilo.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from exnihilo.config import RunConfig

Columns = dict[str, list[float]]


@dataclass
class RunFolder:
    """What a run folder holds."""

    path: Path
    train: Columns = field(
        default_factory=dict
    )  # step, tokens, seconds, loss, lr, grad_norm, tokens_per_s, mfu
    val: Columns = field(default_factory=dict)  # step, tokens, seconds, val_loss, val_bpb
    events: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    env: dict[str, Any] = field(default_factory=dict)
    config_text: str = ""
    config: RunConfig | None = None

    def last(self, name: str) -> float | None:
        """The newest value of a figure, of either table."""
        for table in (self.val, self.train):
            if table.get(name):
                return table[name][-1]
        return None


def open_run(path: Path) -> RunFolder:
    """Read a run folder.

    Raises:
        UsageError: it is no folder, or holds neither figures nor weights.
        CheckpointError: a file of it is broken.
    """
    if not path.is_dir():
        raise UsageError(
            f"{path} is no folder",
            expected="a run folder (it holds config.toml and metrics.jsonl)",
            next="check the path",
        )
    run = RunFolder(path)
    metrics = path / "metrics.jsonl"
    if metrics.is_file():
        for row in read_rows(metrics):
            table = {"train": run.train, "eval": run.val}.get(row.get("kind", ""))
            if table is None:
                run.events.append(row)
            else:
                _append(table, row)
    elif not (path / "model.safetensors").is_file() and not (path / "config.toml").is_file():
        raise UsageError(
            f"{path} is no run folder: no metrics.jsonl, no config.toml, no model.safetensors",
            expected="the folder that `exnihilo train ... run=DIR` wrote",
            next="check the path",
        )
    run.data, run.env = _json(path / "data.json"), _json(path / "env.json")
    config = path / "config.toml"
    if config.is_file():
        from exnihilo.config_layers import load_toml

        run.config_text = config.read_text(encoding="utf-8")
        run.config = load_toml(config)
    return run


def _append(table: Columns, row: dict[str, Any]) -> None:
    length = len(table.get("step", ()))
    for name, value in row.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            table.setdefault(name, [float("nan")] * length).append(float(value))
    for column in table.values():
        if len(column) == length:
            column.append(float("nan"))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.jsonl``; a last line that was cut short is left out.

    A run that was rewound or resumed may have written a step twice: the later row stands.
    """
    rows: list[dict[str, Any]] = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise CheckpointError(
                f"{path}, line {number}: {error}", expected="one JSON object a line", next="remove that line"
            ) from error
        if isinstance(row, dict):
            rows.append(row)
    seen: dict[tuple[str, Any], int] = {}
    for index, row in enumerate(rows):
        if row.get("kind") in ("train", "eval"):
            seen[(row["kind"], row.get("step"))] = index
    keep = set(seen.values())
    return [
        row for index, row in enumerate(rows) if row.get("kind") not in ("train", "eval") or index in keep
    ]


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path}: {error}", expected="a JSON object", next="remove it; it can be missing"
        ) from error
    return value if isinstance(value, dict) else {"value": value}


def summary(result: Any) -> str:
    """One line of what a training ended with (`train.Result`)."""
    words = [f"{result.run}: {result.step:,} steps, {result.tokens:,} tokens, {result.seconds:,.0f} s"]
    if result.loss is not None:
        words.append(f"loss {result.loss:.4f}")
    if result.val_loss is not None:
        words.append(f"validation {result.val_loss:.4f}")
    if result.bpb is not None:
        words.append(f"{result.bpb:.4f} bits a byte")
    if result.interrupted:
        words.append(f"interrupted; go on with: exnihilo train --resume run={result.run}")
    return "; ".join(words)
