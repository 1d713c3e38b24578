"""Batches that a model makes, now or ahead of time.

::

    drawn = Ahead(draw, weights, lag=0)    # draw(model, number, version) -> batch, with the weights of now
    drawn = Ahead(draw, weights, lag=1)    # a thread draws the next from a frozen copy, meanwhile
    batch = drawn.get(number)              # numbers 0, 1, 2, ... one after the other

With a lag of n, batch b is drawn from the weights as they were when batch b - n was asked for: staleness is
bounded by n, and *exactly* n after the first n batches, whatever the machine's speed: so two runs are equal
however fast their threads are. The copy is made when a batch is asked for, in the loop's thread; the thread
reads nothing that the loop changes.

What is stale is corrected where it is learnt from: `is_weights` are truncated importance weights
min(cap, p_trainer / p_sampler) (Ionides 2008, "Truncated importance sampling"; for language models Yao et al.
2025). The lag-n pipeline is that of Noukhovitch et al. 2024, arXiv:2410.18252 (n = 1), with its staleness
bound as in AReaL (Fu et al. 2025, arXiv:2505.24298).

Key: any shape
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    from exnihilo.model.model import Model
    from exnihilo.train.source.weights import Weights

T = TypeVar("T")
CLAMP = 20.0  # of a log-ratio: e^20 is far beyond any cap


class Ahead(Generic[T]):
    """Draws batches with a lag.

    Args:
        draw: (model, batch number, policy version) -> batch. With a lag it runs in another thread, on a copy
            of the model: it must touch nothing else that the loop changes. The version is the number of
            the batch that the loop had reached when these weights were taken.
        weights: of the model that is trained (`weights.Weights`).
        lag: batches drawn ahead; 0: none, `draw` runs in `get`.
        known: batch number -> a batch that is on disk, or None: after a cut, what was drawn from weights
            that are gone.
    """

    def __init__(
        self,
        draw: Callable[[Model, int, int], T],
        weights: Weights,
        *,
        lag: int = 0,
        known: Callable[[int], T | None] | None = None,
    ) -> None:
        self.draw, self.weights, self.lag = draw, weights, lag
        self.known = known
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="rollouts") if lag else None
        self._waiting: dict[int, Future[T]] = {}
        self._last: tuple[int, T] | None = None

    def get(self, number: int) -> T:
        """The batch of a number; the same again where it was the last one asked for."""
        if self._last is not None and self._last[0] == number:
            return self._last[1]
        found = self.known(number) if self.known is not None else None
        if self._pool is None:
            batch = found if found is not None else self.draw(self.weights.newest(), number, number)
        else:
            batch = self._ahead(number, found)
        self._last = (number, batch)
        return batch

    def _ahead(self, number: int, found: T | None) -> T:
        for old in [n for n in self._waiting if n < number or n > number + self.lag]:
            self._waiting.pop(old).cancel()
        wanted = [n for n in range(number, number + self.lag + 1) if n not in self._waiting]
        # on all workers alike, whatever each of them has on disk: gathering weights is a joint act
        frozen = self.weights.frozen() if wanted else None
        for n in wanted:
            ready = found if n == number else (self.known(n) if self.known is not None else None)
            if ready is not None:
                done: Future[T] = Future()
                done.set_result(ready)
                self._waiting[n] = done
                continue
            assert self._pool is not None and frozen is not None
            self._waiting[n] = self._pool.submit(self.draw, frozen, n, number)
        return self._waiting.pop(number).result()

    def settle(self) -> None:
        """Wait until all that was begun is drawn (and written, where `draw` writes)."""
        for future in list(self._waiting.values()):
            future.result()

    def forget(self) -> None:
        """The weights went back: nothing drawn is of use any more."""
        for future in self._waiting.values():
            future.cancel()
        self._waiting.clear()
        self._last = None

    def close(self) -> None:
        """End the thread; what is half drawn is given up."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._waiting.clear()


def is_weights(trainer_logp: np.ndarray, sampler_logp: np.ndarray, cap: float) -> np.ndarray:
    """min(cap, p_trainer / p_sampler) of each token, float32; constants, no gradient passes.

    Args:
        trainer_logp: under the weights that are about to be trained, at the sampler's temperature, nats.
        sampler_logp: as the sampler said when it drew, nats.
        cap: `rollout.truncate`.

    >>> is_weights(np.log([0.5, 0.9]), np.log([0.5, 0.1]), 2.0).tolist()
    [1.0, 2.0]
    """
    ratio = np.exp(np.clip(np.asarray(trainer_logp, np.float64) - sampler_logp, -CLAMP, CLAMP))
    return np.minimum(ratio, cap).astype(np.float32)


def drift(trainer_logp: np.ndarray, sampler_logp: np.ndarray, mask: np.ndarray) -> float:
    """Mean |Δ log p| over the tokens that were drawn, nats; 0 where there are none.

    >>> drift(np.array([-1.0, -2.0, 0.0]), np.array([-1.5, -2.0, -9.0]), np.array([1, 1, 0]))
    0.25
    """
    kept = np.asarray(mask) > 0
    if not kept.any():
        return 0.0
    return float(np.abs(np.asarray(trainer_logp, np.float64) - sampler_logp)[kept].mean())
