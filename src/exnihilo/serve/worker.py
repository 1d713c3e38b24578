"""One model at work for many readers: a thread that steps the engine, and tickets that the event loop reads.

::

    worker = Worker("gpt", codec, build=lambda: Engine(model, slots=32), queue=256)
    ticket = worker.submit(Job([Request(ids)]))      # Full: too many wait
    async for piece in ticket.pieces():      # Piece(index, text, reason ...); what came meanwhile is joined
        ...
    ticket.cancel()                 # its slots are free before the next step

The event loop never computes: it puts jobs into a list under a lock, and gets pieces by one call a step for
all readers together, at most every `PACE` seconds. A step that fails ends the requests that were in the
engine, with 500; the engine is built anew and those who wait go on.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from exnihilo import log
from exnihilo.errors import ExNihiloError
from exnihilo.infer.request import Request, Token
from exnihilo.serve.errors import ApiError
from exnihilo.serve.texts import Growing, Piece
from exnihilo.serve.tickets import Full, Job, Ticket, Writing, hand_over

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec

PACE = 0.02  # seconds between deliveries: 50 a second are smooth, more would cost the engine its core
_EACH = 0.001  # seconds more for each reader: 64 of them get 12 a second


class Motor(Protocol):
    """What the worker asks of an engine: `infer.engine.Engine`, or another's behind the same calls."""

    @property
    def path(self) -> str: ...
    @property
    def slots(self) -> int: ...
    @property
    def active(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    def add(self, request: Request) -> int: ...
    def cancel(self, handle: int, index: int | None = None) -> None: ...
    def step(self) -> list[Token]: ...


class Observer(Protocol):
    """Who counts: see metrics.py."""

    def first(self, name: str, seconds: float) -> None: ...
    def over(self, name: str, tokens: int, seconds: float) -> None: ...
    def drawn(self, name: str, tokens: int) -> None: ...
    def failed(self, name: str) -> None: ...


class Worker:
    """A decoder at work.

    Args:
        name: of the model, for messages and metrics.
        codec: of the model.
        build: makes the engine; called again when it has failed.
        queue: texts that may wait.
        observer: is told of tokens and times.

    Attributes:
        engine: the present one; None: it could not be built.
        drew, broke: when the last token was drawn, when the engine last failed (monotonic seconds; 0: never).
        failures: of the engine so far.
    """

    def __init__(
        self,
        name: str,
        codec: Codec,
        build: Callable[[], Motor],
        *,
        queue: int = 256,
        context: int = 1,
        observer: Observer | None = None,
    ) -> None:
        self.name, self.codec, self.queue = name, codec, queue
        self._build, self._context, self._observer = build, context, observer
        self.engine: Motor | None = build()
        self.slots = self.engine.slots
        self.drew, self.broke, self.stepped, self.failures = 0.0, 0.0, time.monotonic(), 0
        self._lock = threading.Condition()
        self._inbox: deque[Ticket] = deque()
        self._live: dict[int, Ticket] = {}  # by the engine's handle
        self._seen: set[Ticket] = set()  # tickets with something in the engine
        self._texts = 0  # that are not over
        self._out: dict[Ticket, list[Piece | ApiError]] = {}
        self._delivered = 0.0
        self._retired = False
        self._thread: threading.Thread | None = None
        self._typical = 1.0  # seconds a text takes, a running mean

    # the loop's side ----------------------------------------------------------------------------------

    @property
    def active(self) -> int:
        """Texts that are being written."""
        engine = self.engine
        return 0 if engine is None else engine.active

    @property
    def waiting(self) -> int:
        """Texts that wait for a slot."""
        return max(0, self._texts - self.active)

    @property
    def kv_use(self) -> float:
        """Share of the key-value cache that holds texts in work."""
        with self._lock:
            held = sum(t.prompt_tokens + t.made_tokens for t in self._seen)
        return min(1.0, held / (self.slots * self._context))

    @property
    def stuck(self) -> float:
        """Seconds since the engine last moved, while there is work for it; 0 without work."""
        return time.monotonic() - self.stepped if self._texts else 0.0

    def submit(self, job: Job, *, urgent: bool = False) -> Ticket:
        """Take a job; call it in the loop that will read the ticket.

        Args:
            urgent: stand first, and never be refused: the server's own question whether it lives.

        Raises:
            Full: too many texts wait.
        """
        ticket = Ticket(job, self, asyncio.get_running_loop())
        with self._lock:
            beyond = self._texts + job.texts - self.slots
            if beyond > self.queue and not urgent:
                retry = min(60, max(1, round(self._typical * self.waiting / self.slots)))
                raise Full(self.name, self.waiting, self.queue, retry)
            if not self._texts:
                self.stepped = time.monotonic()
            self._texts += job.texts
            if urgent:
                self._inbox.appendleft(ticket)
            else:
                self._inbox.append(ticket)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name=f"engine {self.name}", daemon=True)
                self._thread.start()
            self._lock.notify()
        return ticket

    def wake(self) -> None:
        """Have the thread look at its tickets."""
        with self._lock:
            self._lock.notify()

    def retire(self) -> None:
        """Another worker takes over: finish what is here, then let the thread go. Jobs that still come are
        done."""
        with self._lock:
            self._retired = True
            self._lock.notify()

    def abort(self, error: ApiError) -> int:
        """End everything with an error, though the engine may hang; how many jobs that were."""
        with self._lock:
            tickets = [t for t in {*self._inbox, *self._seen} if not t.gone]
            for ticket in tickets:
                ticket.gone = True
            self._retired = True
            self._lock.notify()
        hand_over({ticket: [error] for ticket in tickets})
        return len(tickets)

    def join(self, seconds: float) -> bool:
        """Wait for the thread of a retired worker; whether it has ended."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)
        return thread is None or not thread.is_alive()

    # the thread's side --------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._inbox and not self._seen and not self._out:
                    if self._retired:
                        self._thread = None
                        return
                    self._lock.wait()
            try:
                self._turn()
            except Exception as error:  # whatever it was: these requests fail, the server goes on
                self._failure(error)
            if self._out:
                pace = PACE + _EACH * len(self._out)
                if not self._seen or time.monotonic() - self._delivered >= pace:
                    self._deliver()

    def _turn(self) -> None:
        """Who left leaves, who waits comes in, everybody there gets a token."""
        with self._lock:
            self._sweep()
            homeless = self.engine is None and bool(self._inbox)
        if homeless:  # not under the lock: the loop must not wait for it
            self._rebuild()
        with self._lock:
            self._admit()
        engine = self.engine
        if engine is not None and (engine.active or engine.waiting):
            tokens = engine.step()
            self.stepped = time.monotonic()
            self._take(tokens)

    def _sweep(self) -> None:
        """Jobs whose reader is gone, or whose time is over, leave at once; under the lock."""
        now = time.monotonic()
        for ticket in [t for t in (*self._inbox, *self._seen) if t.gone or now > t.deadline]:
            if not ticket.gone:
                waited = " (it waited for a slot)" * (not ticket.handles)
                text = f"not done within {ticket.job.seconds:g} s{waited}"
                self._say(ticket, ApiError(text, status=504, code="timeout"))
            self._drop(ticket)

    def _drop(self, ticket: Ticket) -> None:
        """Take a ticket out of everything; under the lock."""
        ticket.gone = True
        self._texts -= ticket.left
        ticket.left = 0
        ticket.todo.clear()
        for handle in ticket.handles:
            self._live.pop(handle, None)
            if self.engine is not None:
                self.engine.cancel(handle)
        self._seen.discard(ticket)
        if ticket in self._inbox:
            self._inbox.remove(ticket)

    def _admit(self) -> None:
        """Hand the engine as much as it has slots for; under the lock."""
        engine = self.engine
        while engine is not None and self._inbox and engine.active + engine.waiting < engine.slots:
            ticket = self._inbox[0]
            number = ticket.todo.popleft()
            request = ticket.job.requests[number]
            try:
                handle = engine.add(request)
            except ExNihiloError as error:  # this request alone is wrong
                self._say(ticket, ApiError.of(error))
                self._drop(ticket)
                continue
            first = sum(r.n for r in ticket.job.requests[:number])
            ticket.handles[handle] = first
            self._live[handle] = ticket
            self._seen.add(ticket)
            if not ticket.todo:
                self._inbox.popleft()

    def _take(self, tokens: Sequence[Token]) -> None:
        """Tokens of a step become pieces."""
        if not tokens:
            return
        now = self.drew = time.monotonic()
        if self._observer is not None:
            self._observer.drawn(self.name, len(tokens))
        for token in tokens:
            ticket = self._live.get(token.handle)
            if ticket is None or ticket.gone:
                continue
            if token.reason == "failed":  # a constraint that could not be followed: never shown as a text
                with self._lock:
                    failed = "the text could not follow what response_format or tool_choice asks for"
                    self._say(ticket, ApiError(failed, code="constraint_failed"))
                    self._drop(ticket)
                continue
            index = ticket.handles[token.handle] + token.index
            text = ticket.texts.get(index)
            if text is None:
                job = ticket.job
                growing = Growing(self.codec, index, job.stops, job.requests[0].stop_ids, job.facts)
                text = ticket.texts[index] = Writing(growing, now)
                if self._observer is not None:
                    self._observer.first(self.name, now - ticket.began)
            text.made += 1
            ticket.made_tokens += 1
            piece = text.growing.push(token)
            self._say(ticket, piece)
            if piece.reason is not None:
                self._ended(ticket, token, text, now)

    def _ended(self, ticket: Ticket, token: Token, text: Writing, now: float) -> None:
        if token.reason is None and self.engine is not None:  # a stop string: the engine does not know
            self.engine.cancel(token.handle, token.index)
        self._typical += 0.1 * (now - text.first - self._typical)
        if self._observer is not None:
            self._observer.over(self.name, text.made, now - text.first)
        with self._lock:
            ticket.left -= 1
            self._texts -= 1
            if not ticket.left:
                for handle in ticket.handles:
                    self._live.pop(handle, None)
                self._seen.discard(ticket)

    def _failure(self, error: Exception) -> None:
        """A step failed: nobody knows what the engine's state is worth."""
        self.failures += 1
        self.broke = time.monotonic()
        log.warn(f"{self.name}: the engine failed and is built anew: {error!r:.500}")
        if self._observer is not None:
            self._observer.failed(self.name)
        with self._lock:
            self.engine = None
            for ticket in list(self._seen):
                failed = "the engine failed at this request"
                self._say(ticket, ApiError(failed, status=500, code="engine_failed"))
                self._drop(ticket)
            self._live.clear()
        self._rebuild()

    def _rebuild(self) -> None:
        """A new engine. Where that fails, those who wait are told, and the next job tries again."""
        try:
            self.engine = self._build()
        except Exception as error:
            self.broke = time.monotonic()
            log.warn(f"{self.name}: the engine cannot be built: {error!r:.500}")
            with self._lock:
                for ticket in list(self._inbox):
                    failed = "the engine failed and could not be built anew"
                    self._say(ticket, ApiError(failed, status=500, code="engine_failed"))
                    self._drop(ticket)

    def _say(self, ticket: Ticket, piece: Piece | ApiError) -> None:
        self._out.setdefault(ticket, []).append(piece)

    def _deliver(self) -> None:
        out, self._out = self._out, {}
        self._delivered = time.monotonic()
        hand_over(out)
