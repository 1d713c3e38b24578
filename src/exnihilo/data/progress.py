"""Progress in a terminal: a bar after two seconds; without a terminal, a plain line now and then."""

from __future__ import annotations

import sys
import time

from rich.console import Console as Terminal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from exnihilo import log

DELAY = 2.0
EVERY = 15.0


class Console:
    """A `log.Progress` that stays silent for what is done within `DELAY` seconds."""

    def __init__(self) -> None:
        self.what, self.total, self.done = "", None, 0.0
        self.began = self.said = 0.0
        self.bar: Progress | None = None

    def start(self, what: str, total: float | None = None, unit: str = "") -> None:
        self.stop()
        self.what, self.total, self.done = what, total, 0.0
        self.began = self.said = time.perf_counter()

    def advance(self, amount: float = 1) -> None:
        self.done += amount
        now = time.perf_counter()
        if log.rank() != 0 or now - self.began < DELAY:
            return
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=self.done)
        elif sys.stderr.isatty():
            columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
            self.bar = Progress(
                *columns, TimeRemainingColumn(), console=Terminal(stderr=True), transient=True
            )
            self.bar.add_task(self.what, total=self.total, completed=int(self.done))
            self.bar.start()
        elif now - self.said >= EVERY:
            self.said = now
            share = f" of {self.total / 1e6:,.0f}" if self.total else ""
            rate = self.done / 1e6 / (now - self.began)
            log.say(f"{self.what}: {self.done / 1e6:,.0f}{share} MB, {rate:.1f} MB/s")

    def stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
        self.what = ""

    def say(self, text: str) -> None:
        if self.bar is not None:
            self.bar.console.print(text, markup=False, highlight=False)
        else:
            log.say(text)
