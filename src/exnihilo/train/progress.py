"""What a run shows while it works: a bar at a terminal, plain lines elsewhere, nothing where it is asked to
be quiet.

One display serves the whole run: `log.Progress` for preparation (start, advance, stop, say) and `train`
rows for the loop. The bar holds step, loss, tokens/s, MFU (share of this machine's own measured matmul
peak) and the time left.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from exnihilo import log

EVERY = 10.0  # seconds between plain lines
SHOWN = ("reward", "length", "entropy", "accuracy")  # beside the loss, where a step has them


def duration(seconds: float) -> str:
    """Seconds as hours, minutes and seconds.

    >>> duration(3725), duration(65), duration(8)
    ('1:02:05', '1:05', '0:08')
    """
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"


def line(row: Mapping[str, Any], total: float | None, left: float | None) -> str:
    """A training row in words."""
    of = f"/{total:.0f}" if total else ""
    parts = [f"step {row['step']}{of}", f"loss {float(row['loss']):.4f}"]
    if "val_loss" in row:
        parts.append(f"val {row['val_loss']:.4f}")
    for name in SHOWN:  # a policy's loss says nothing: it is near 0 whatever is learnt
        if name in row:
            parts.append(f"{name} {row[name]:.3g}")
    parts.append(f"{row['tokens_per_s']:,.0f} tokens/s")
    if row.get("mfu") is not None:
        parts.append(f"MFU {row['mfu']:.0%}")
    if left is not None:
        parts.append(f"{duration(left)} left")
    return "  ".join(parts)


class Display(log.Quiet):
    """Shows nothing; the base of those that do."""

    def train(self, row: Mapping[str, Any], share: float, total: float | None, left: float | None) -> None:
        """A step is done. `share` of the run in [0, 1]; `left` in seconds."""

    def close(self) -> None: ...


class Plain(Display):
    """Lines on a stream that is no terminal: stages as they begin and end, training now and then."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._last = 0.0
        self._stage = ""
        self._done = self._begun = 0.0
        self._unit = ""

    def say(self, text: str) -> None:
        print(text, file=self.stream, flush=True)

    def start(self, what: str, total: float | None = None, unit: str = "") -> None:
        self.stop()
        self._stage, self._unit, self._done = what, unit, 0.0
        self._begun = self._last = time.monotonic()

    def advance(self, amount: float = 1) -> None:
        self._done += amount
        if time.monotonic() - self._last >= EVERY:
            self._last = time.monotonic()
            self.say(f"{self._stage}: {self._done:,.0f} {self._unit}".rstrip())

    def stop(self) -> None:
        if self._stage:
            took = duration(time.monotonic() - self._begun)
            count = f"{self._done:,.0f} {self._unit} " if self._done else ""
            self.say(f"{self._stage}: {count}in {took}")
        self._stage = ""

    def train(self, row: Mapping[str, Any], share: float, total: float | None, left: float | None) -> None:
        now = time.monotonic()
        if now - self._last >= EVERY or row["step"] <= 1 or share >= 1:
            self._last = now
            self.say(line(row, total, left))

    def close(self) -> None:
        self.stop()


class Bar(Display):
    """A bar at a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self.console = Console(file=stream)
        self._bar: Progress | None = None
        self._task: Any = None

    def say(self, text: str) -> None:
        self.console.print(Text(text))

    def _open(self, what: str, total: float | None) -> None:
        self.stop()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[tail]}", markup=False),
            console=self.console,
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task(what, total=total, tail="")

    def start(self, what: str, total: float | None = None, unit: str = "") -> None:
        self._open(what, total)
        self._unit, self._done = unit, 0.0

    def advance(self, amount: float = 1) -> None:
        if self._bar is not None:
            self._done += amount
            self._bar.update(self._task, advance=amount, tail=f"{self._done:,.0f} {self._unit}")

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = None

    def train(self, row: Mapping[str, Any], share: float, total: float | None, left: float | None) -> None:
        if self._bar is None:
            self._open("train", 1.0)
        assert self._bar is not None
        self._bar.update(self._task, completed=share, tail=line(row, total, left))

    def close(self) -> None:
        self.stop()


def display(show: bool, stream: TextIO | None = None) -> Display:
    """The display for this process: none on all workers but the first."""
    out = stream or sys.stderr
    if not show or log.rank() != 0:
        return Display()
    return Bar(out) if out.isatty() else Plain(out)


@contextmanager
def shown(show: bool) -> Iterator[Display]:
    """A display that also prints what `log.say` says, above its bar; quiet shows neither."""
    made = display(show)
    try:
        with log.listen(made.say):
            yield made
    finally:
        made.close()
