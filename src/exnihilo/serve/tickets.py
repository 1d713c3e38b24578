"""A reader's end of a job: what was asked, and the pieces that come back.

::

    async for piece in ticket.pieces():      # Piece(index, text, reason ...); what came meanwhile is joined
        ...
    ticket.cancel()                 # its slots are free before the next step

A ticket belongs to the event loop it was made in; the worker's thread hands pieces over by one call a loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exnihilo.serve.errors import ApiError
from exnihilo.serve.texts import Growing, Piece

if TYPE_CHECKING:
    from exnihilo.infer.request import Request
    from exnihilo.serve.worker import Worker

_GRACE = 10.0  # seconds behind a request's own limit after which its reader gives up on the worker


class Full(ApiError):
    """Too many wait."""

    def __init__(self, name: str, waiting: int, limit: int, retry: int) -> None:
        super().__init__(
            f"{name} has {waiting} texts waiting, and at most {limit} may; ask again in {retry} s",
            status=429, code="queue_full", retry=retry,
        )  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What one HTTP request asks of a decoder.

    Attributes:
        requests: each prompt with its n completions. Text j of request i is number ``i * n + j``.
        stops: strings at which a text ends.
        facts: whether tokens are told of, with their log-probabilities.
        seconds: that it may take in all.
    """

    requests: Sequence[Request]
    stops: Sequence[str] = ()
    facts: bool = False
    seconds: float = 300.0

    @property
    def texts(self) -> int:
        """How many it writes."""
        return sum(r.n for r in self.requests)


@dataclass(eq=False)
class Writing:
    growing: Growing
    first: float = 0.0  # when its first token was drawn
    made: int = 0


class Ticket:
    """A reader's end of a job.

    Attributes:
        prompt_tokens, made_tokens: so far.
    """

    def __init__(self, job: Job, worker: Worker, loop: asyncio.AbstractEventLoop) -> None:
        self.job, self.prompt_tokens = job, sum(len(r.ids) * r.n for r in job.requests)
        self.made_tokens = 0
        self.loop = loop
        self.began = time.monotonic()
        self.deadline = self.began + job.seconds
        self.gone = False  # nobody reads it any more
        self.todo: deque[int] = deque(range(len(job.requests)))  # requests that the engine has not got
        self.texts: dict[int, Writing] = {}
        self.handles: dict[int, int] = {}  # the engine's -> number of the request's first text
        self.left = job.texts
        self._worker = worker
        self._ready: deque[Piece | ApiError] = deque()
        self._wake = asyncio.Event()

    def cancel(self) -> None:
        """The reader is gone: nothing more is computed for it. Any thread; again: nothing happens."""
        if not self.gone:
            self.gone = True
            self._worker.wake()

    def put(self, pieces: Sequence[Piece | ApiError]) -> None:
        """In the loop's thread."""
        self._ready.extend(pieces)
        self._wake.set()

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """Pieces, those that wait for the reader joined; ends when all texts are over. Leaving it cancels the
        job.

        Raises:
            ApiError: the engine failed (500), the time is over (504), the server goes down (503).
        """
        left = self.job.texts
        late = ApiError("the model did not answer in time", status=504, code="timeout")
        rest = self.deadline + _GRACE - time.monotonic()
        alarm = self.loop.call_later(max(0.0, rest), self.put, (late,))
        try:
            while left:
                if not self._ready:
                    self._wake.clear()
                    await self._wake.wait()
                joined, failure = self._joined()
                for piece in joined:
                    left -= piece.reason is not None
                    yield piece
                if failure is not None:
                    raise failure
        finally:
            alarm.cancel()
            self.cancel()

    def _joined(self) -> tuple[list[Piece], ApiError | None]:
        """What waits: a piece a text, and an error behind them."""
        joined: dict[int, Piece] = {}
        while self._ready:
            piece = self._ready.popleft()
            if isinstance(piece, ApiError):
                return list(joined.values()), piece
            if piece.index in joined:
                joined[piece.index].join(piece)
            else:
                joined[piece.index] = piece
        return list(joined.values()), None


def hand_over(out: Mapping[Ticket, Sequence[Piece | ApiError]]) -> None:
    """From any thread: one call a loop for all its readers."""
    loops: dict[asyncio.AbstractEventLoop, list[tuple[Ticket, Sequence[Piece | ApiError]]]] = {}
    for ticket, pieces in out.items():
        loops.setdefault(ticket.loop, []).append((ticket, pieces))
    for loop, items in loops.items():
        try:
            loop.call_soon_threadsafe(_hand_over, items)
        except RuntimeError:  # the loop is closed: nobody reads
            for ticket, _ in items:
                ticket.gone = True


def _hand_over(items: Sequence[tuple[Ticket, Sequence[Piece | ApiError]]]) -> None:
    for ticket, pieces in items:
        ticket.put(pieces)
