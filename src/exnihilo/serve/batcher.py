"""One encoder at work for many readers: a thread that takes all that waits as one batch.

::

    batcher = Batcher("sentiment", predictor, queue=256)
    predictions = await batcher.predict(["a fine film", {"a": "It rains.", "b": "It is wet."}], seconds=30)

What arrives while a batch is computed is the next batch: sorted by length and packed by the `Predictor`, in
forwards of a budget of tokens. Who is gone, or whose time is over, is left out when the batch is taken. A
batch that fails is taken apart, so that only the request at fault gets 500.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from exnihilo import log
from exnihilo.serve.alternatives import listing, trimmed, usual
from exnihilo.serve.errors import ApiError
from exnihilo.serve.tickets import Full

if TYPE_CHECKING:
    from exnihilo.infer.predict import Given, Predictor

_MOST = 512  # examples of a batch, unless one request has more


class Predictions(list[dict[str, Any]]):
    """Predictions in order.

    Attributes:
        tokens: that the model read for them.
    """

    def __init__(self, found: Sequence[dict[str, Any]], tokens: int) -> None:
        super().__init__(found)
        self.tokens = tokens


@dataclass(eq=False)
class _Order:
    examples: Sequence[Given]
    top_k: int | None
    deadline: float
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[list[dict[str, Any]]]
    began: float = field(default_factory=time.monotonic)
    gone: bool = False


class Batcher:
    """An encoder at work.

    Args:
        name: of the model, for messages.
        predictor: answers; only its thread calls it.
        queue: examples that may wait.

    Attributes:
        answered, broke: when a batch was last done, or failed (monotonic seconds; 0: never).
    """

    def __init__(self, name: str, predictor: Predictor, *, queue: int = 256) -> None:
        self.name, self.predictor, self.queue = name, predictor, queue
        self.answered, self.broke, self.failures, self.began = 0.0, 0.0, 0, 0.0
        self._lock = threading.Condition()
        self._inbox: deque[_Order] = deque()
        self._retired = False
        self._thread: threading.Thread | None = None
        self._rate = 100.0  # examples a second, a running mean
        self.active = 0

    @property
    def waiting(self) -> int:
        """Examples that wait."""
        with self._lock:
            return sum(len(o.examples) for o in self._inbox)

    @property
    def stuck(self) -> float:
        """Seconds since the present batch began; 0: none is being computed."""
        return time.monotonic() - self.began if self.active else 0.0

    async def predict(
        self,
        examples: Sequence[Given],
        *,
        seconds: float = 300.0,
        top_k: int | None = None,
        urgent: bool = False,
    ) -> list[dict[str, Any]]:
        """One prediction an example, in order; ``{"error": ..., "row": N}`` for one that cannot be read.

        Args:
            examples: as for `Predictor.predict`.
            seconds: that it may take, waiting included.
            top_k: so many alternatives of each, if there are; default: as the objective has it.
            urgent: never refused: the server's own question whether it lives.

        Raises:
            ApiError: too many wait (429), the model failed (500), the time is over (504).
        """
        loop = asyncio.get_running_loop()
        order = _Order(examples, top_k, time.monotonic() + seconds, loop, loop.create_future())
        waiting = self.waiting
        if waiting and waiting + len(examples) > self.queue and not urgent:
            raise Full(self.name, waiting, self.queue, min(60, max(1, round(waiting / self._rate))))
        with self._lock:
            self._inbox.append(order)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name=f"model {self.name}", daemon=True)
                self._thread.start()
            self._lock.notify()
        try:
            async with asyncio.timeout(seconds + 1.0):
                return await order.done
        except TimeoutError:
            raise ApiError(f"not done within {seconds:g} s", status=504, code="timeout") from None
        finally:
            order.gone = True

    def retire(self) -> None:
        """Another takes over: finish what is here, then let the thread go."""
        with self._lock:
            self._retired = True
            self._lock.notify()

    def abort(self, error: ApiError) -> int:
        """End everything that waits with an error; how many requests that were."""
        with self._lock:
            orders = [o for o in self._inbox if not o.gone]
            self._inbox.clear()
            self._retired = True
            self._lock.notify()
        for order in orders:
            _later(order, error)
        return len(orders)

    def join(self, seconds: float) -> bool:
        """Wait for the thread of a retired batcher; whether it has ended."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)
        return thread is None or not thread.is_alive()

    # the thread's side --------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._inbox:
                    if self._retired:
                        self._thread = None
                        return
                    self._lock.wait()
                orders = self._taken()
                self.active = sum(len(o.examples) for o in orders)
                self.began = time.monotonic()
            self._answer(orders)
            self.active = 0

    def _taken(self) -> list[_Order]:
        """The next batch; under the lock."""
        now, count = time.monotonic(), 0
        out: list[_Order] = []
        while self._inbox and (not out or count + len(self._inbox[0].examples) <= _MOST):
            order = self._inbox.popleft()
            if order.gone:
                continue
            if now > order.deadline:
                _later(order, ApiError("its time was over before its turn", status=504, code="timeout"))
                continue
            out.append(order)
            count += len(order.examples)
        return out

    def _answer(self, orders: Sequence[_Order]) -> None:
        examples = [example for order in orders for example in order.examples]
        if not examples:
            for order in orders:
                _later(order, [])
            return
        try:
            objective = self.predictor.objective
            most = max((o.top_k for o in orders if o.top_k is not None), default=None)
            with listing(objective, None if most is None else max(most, usual(objective) or 0)):
                answers = self.predictor.answers(examples)
            at = 0
            for order in orders:
                mine = answers[at : at + len(order.examples)]
                at += len(order.examples)
                with listing(objective, order.top_k):
                    found = [self.predictor.decode(a, n) for n, a in enumerate(mine, 1)]
                tokens = sum(len(item["tokens"]) for a in mine for item in a.items)  # type: ignore[arg-type]
                kept = [trimmed(prediction, objective, order.top_k) for prediction in found]
                _later(order, Predictions(kept, tokens))
        except Exception as error:  # whatever it was: the server goes on
            if len(orders) > 1:
                for order in orders:
                    self._answer([order])
                return
            self.failures += 1
            self.broke = time.monotonic()
            log.warn(f"{self.name}: the model failed: {error!r:.500}")
            _later(orders[0], ApiError("the model failed at this request", status=500, code="engine_failed"))
            return
        self.answered = time.monotonic()
        self._rate += 0.1 * (len(examples) / max(1e-4, self.answered - self.began) - self._rate)


def _later(order: _Order, result: list[dict[str, Any]] | ApiError) -> None:
    """Hand a result to the reader, in its loop."""

    def settle() -> None:
        if order.done.done():
            return
        if isinstance(result, ApiError):
            order.done.set_exception(result)
        else:
            order.done.set_result(result)

    try:
        order.loop.call_soon_threadsafe(settle)
    except RuntimeError:  # the loop is closed: nobody reads
        order.gone = True
