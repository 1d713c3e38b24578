"""``metrics.jsonl``: one JSON row a step, evaluation or event; after a cut it holds each step once.

A row belongs to the number of steps done when it was written. On resume, rows beyond the checkpoint are
dropped: those steps are done again, and write the same again.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from exnihilo.errors import TrainError


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Whole rows of a metrics file, in order; a last line that was cut short is left out."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and {"kind", "step"} <= row.keys():
                yield row


def truncate(path: Path, step: int, evaluated: int | None = None) -> None:
    """Drop the rows after `step`, atomically.

    Args:
        evaluated: the last evaluation that the checkpoint knows of; a later one will be done again.
    """
    if not path.exists():
        return
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w", encoding="utf-8") as out:
        for row in rows(path):
            again = row["kind"] == "eval" and evaluated is not None and row["step"] > evaluated
            if row["step"] <= step and not again:
                out.write(json.dumps(row) + "\n")
        out.flush()
        os.fsync(out.fileno())
    os.replace(aside, path)


class Metrics:
    """Appends rows; each is flushed, so that a killed process loses at most a part of one line."""

    def __init__(self, path: Path | None) -> None:
        self.path = path  # None on all workers but the first
        self._file = path.open("a", encoding="utf-8") if path is not None else None

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> dict[str, Any]:
        """Append ``{"kind", "step", ...}``. Numbers that are not finite become text: JSON has none."""
        row = {"kind": kind, "step": step, **{k: _plain(v) for k, v in values.items() if v is not None}}
        if self._file is not None:
            try:
                self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
                self._file.flush()
            except OSError as error:
                raise TrainError(
                    f"{self.path} cannot be written: {error.strerror or error}",
                    expected="a disk with room",
                    next="free some space, then resume from the last checkpoint",
                ) from error
        return row

    def restart(self, step: int) -> None:
        """Drop the rows after `step` and go on appending (after a rewind)."""
        if self.path is not None:
            self.close()
            truncate(self.path, step)
            self._file = self.path.open("a", encoding="utf-8")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
