"""What the engine knows of each slot, in arrays that a decode step reads and writes without Python.

Row s is slot s of the cache. `ids_SN[s, :made_S[s]]` is what was drawn there so far; the last of it,
`last_S`, has not been read by the model yet and belongs at position `place_S`.

Key: S slots, N tokens that a completion may have
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from exnihilo.infer.penalties import penalise
from exnihilo.infer.request import Reason, Request
from exnihilo.infer.sampling import Draw, Sampling, sample, uniforms

if TYPE_CHECKING:
    from exnihilo.infer.structure import State


class Board:
    """State of the slots.

    Args:
        slots: how many.
        vocabulary: ids that logits have.
    """

    def __init__(self, slots: int, vocabulary: int) -> None:
        self.slots, self.vocabulary = slots, vocabulary
        self.last_S = np.zeros(slots, np.int32)
        self.place_S = np.zeros(slots, np.int32)
        self.made_S = np.zeros(slots, np.int32)
        self.limit_S = np.zeros(slots, np.int32)
        self.length_S = np.zeros(slots, np.int32)  # of the prompt
        self.temperature_S = np.ones(slots, np.float32)
        self.plain_S = np.ones(slots, np.bool_)  # drawn from the softmax at a temperature, or greedily
        self.watched_S = np.zeros(slots, np.bool_)  # somebody looks at the logits of each step
        self.stops_S = np.zeros(slots, np.uint64)  # address of a mask over the vocabulary, or 0
        self.sampling: list[Sampling] = [Sampling()] * slots
        self.stops: list[frozenset[int]] = [frozenset()] * slots
        self.prompts: list[Sequence[int]] = [()] * slots
        self.states: list[State | None] = [None] * slots
        self.allowed: dict[int, np.ndarray] = {}  # of slots with a state: the ids that may come next, bool V
        self.top = [0] * slots
        self.tops: list[list[tuple[tuple[int, float], ...]]] = [[] for _ in range(slots)]
        self._masks: dict[frozenset[int], np.ndarray] = {}
        self._room(32)

    def _room(self, tokens: int) -> None:
        """Make N at least so large."""
        old = getattr(self, "ids_SN", None)
        shape = (self.slots, tokens)
        news: dict[str, np.ndarray[Any, Any]] = {
            "uniforms_SN": np.zeros(shape, np.float64),
            "ids_SN": np.zeros(shape, np.int32),
            **{name: np.zeros(shape, np.float32) for name in ("raw_SN", "warm_SN", "processed_SN")},
        }
        for name, new in news.items():
            if old is not None:
                new[:, : old.shape[1]] = getattr(self, name)
            setattr(self, name, new)
        self.length = tokens

    uniforms_SN: np.ndarray
    ids_SN: np.ndarray
    raw_SN: np.ndarray  # log-probabilities at temperature 1
    warm_SN: np.ndarray  # at the row's temperature
    processed_SN: np.ndarray  # under what was drawn from

    def seat(self, slot: int, request: Request, index: int, limit: int, stops: frozenset[int]) -> None:
        """A completion takes a slot."""
        if limit > self.length:
            self._room(1 << (limit - 1).bit_length())
        sampling = request.sampling
        self.made_S[slot], self.limit_S[slot], self.length_S[slot] = 0, limit, len(request.ids)
        self.temperature_S[slot] = sampling.temperature
        state = None if request.constraint is None else request.constraint.start()
        self.plain_S[slot] = sampling.plain and state is None
        self.watched_S[slot] = state is not None or request.top > 0
        self.states[slot], self.top[slot], self.tops[slot] = state, request.top, []
        self.sampling[slot], self.stops[slot], self.prompts[slot] = sampling, stops, request.ids
        if not sampling.greedy:
            self.uniforms_SN[slot, :limit] = uniforms(request.seed, request.number + index, limit)
        if stops not in self._masks:
            mask = np.zeros(self.vocabulary, np.uint8)
            mask[[i for i in stops if 0 <= i < self.vocabulary]] = 1
            self._masks[stops] = mask
        self.stops_S[slot] = self._masks[stops].ctypes.data if stops else 0
        if state is not None:
            self._permit(slot, state)

    def _permit(self, slot: int, state: State) -> None:
        """What the slot's text may go on with: a stop id where it may end, and only there."""
        allowed_V = self.allowed.setdefault(slot, np.zeros(self.vocabulary, np.bool_))
        may_V = state.allowed()
        allowed_V[: len(may_V)] = may_V
        allowed_V[list(self.stops[slot])] = state.accepting
        if state.failed is None and not allowed_V.any() and not state.done:
            state.failed = "only ids that end a text may follow, and it may not end here"

    def follow(self, slots: Sequence[int], logits_WV: Tensor, rows: Sequence[int]) -> None:
        """After a draw: note the likeliest ids, and move constraints on."""
        if not self.watched_S[slots].any():
            return
        for slot, row in zip(slots, rows, strict=True):
            if self.top[slot]:
                logits_V = logits_WV[row].float()
                best = logits_V.topk(self.top[slot])
                chances = (best.values - logits_V.logsumexp(-1)).tolist()
                self.tops[slot].append(tuple(zip(best.indices.tolist(), chances, strict=True)))
            state, last = self.states[slot], int(self.last_S[slot])
            if state is not None and last not in self.stops[slot]:
                state.take(last)
                self._permit(slot, state)

    def write(self, slots: Sequence[int], draw: Draw, warm: Tensor) -> None:
        """Add one token to each of these slots, and move on by a position."""
        at = np.asarray(slots)
        made = self.made_S[at]
        ids = draw.ids_B.cpu().numpy()
        self.ids_SN[at, made] = self.last_S[at] = ids
        self.raw_SN[at, made] = draw.logprobs_B.cpu().numpy()
        self.warm_SN[at, made] = warm.cpu().numpy()
        self.processed_SN[at, made] = draw.processed_B.cpu().numpy()
        self.place_S[at] = self.length_S[at] + made
        self.made_S[at] = made + 1

    def ended(self, live: np.ndarray) -> np.ndarray:
        """Which of these slots are done after their last token, as booleans."""
        done = self.made_S[live] >= self.limit_S[live]
        stopped = [
            int(i) in self.stops[s] or self._finished(s)
            for s, i in zip(live.tolist(), self.last_S[live], strict=True)
        ]
        return done | np.asarray(stopped, np.bool_)

    def _finished(self, slot: int) -> bool:
        """Whether a constraint ends the slot's text: it broke, or nothing can follow, not even a stop id."""
        state = self.states[slot]
        return state is not None and (state.failed is not None or (state.done and not self.stops[slot]))

    def reason(self, slot: int) -> Reason:
        """Why a text that is over has ended."""
        state = self.states[slot]
        if state is not None and state.failed is not None:
            return "failed"
        over = int(self.last_S[slot]) in self.stops[slot] or (state is not None and state.done)
        return "eos" if over else "length"


def draw(board: Board, slots: Sequence[int], logits_WV: Tensor, rows: Sequence[int]) -> None:
    """Draw the next token of each slot from row `rows[i]` of the logits, and follow it; any sampling, by
    torch."""
    kinds: dict[Sampling, list[int]] = {}
    for i, slot in enumerate(slots):
        kinds.setdefault(board.sampling[slot], []).append(i)
    for sampling, members in kinds.items():
        at = [slots[i] for i in members]
        logits_BV = logits_WV[[rows[i] for i in members]].float()
        made = board.made_S[at]
        column = None if sampling.greedy else torch.from_numpy(board.uniforms_SN[at, made])
        changed_BV = logits_BV
        if sampling.penalised:
            said = [board.ids_SN[s, :m].tolist() for s, m in zip(at, made, strict=True)]
            changed_BV = penalise(logits_BV, sampling, [board.prompts[s] for s in at], said)
        if any(board.states[s] is not None for s in at):
            changed_BV = _allow(changed_BV, board, at)
        found = sample(changed_BV, sampling, column)
        ids_B = found.ids_B.to(logits_BV.device)
        raw_B = found.logprobs_B if changed_BV is logits_BV else _logprob(logits_BV, ids_B)
        t = sampling.temperature
        warm_B = raw_B if t in (0, 1) else _logprob(logits_BV / t, ids_B)
        board.write(at, Draw(ids_B, raw_B, found.processed_B), warm_B)
    board.follow(slots, logits_WV, rows)


def _allow(logits_BV: Tensor, board: Board, slots: Sequence[int]) -> Tensor:
    """What constraints forbid is impossible."""
    rows = [
        np.ones(board.vocabulary, np.bool_) if board.states[s] is None else board.allowed[s] for s in slots
    ]
    may_BV = torch.from_numpy(np.stack(rows)).to(logits_BV.device)
    return logits_BV.masked_fill(~may_BV, -torch.inf)


def _logprob(logits_BV: Tensor, ids_B: Tensor) -> Tensor:
    return logits_BV.gather(1, ids_B[:, None])[:, 0] - logits_BV.logsumexp(-1)
