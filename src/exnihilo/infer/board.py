"""What the engine knows of each slot, in arrays that a decode step reads and writes without Python.

Row s is slot s of the cache. `ids_SN[s, :made_S[s]]` is what was drawn there so far; the last of it,
`last_S`, has not been read by the model yet and belongs at position `place_S`.

Key: S slots, N tokens that a completion may have
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exnihilo.infer.penalties import penalise
from exnihilo.infer.request import Request
from exnihilo.infer.sampling import Draw, Sampling, sample, uniforms


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
        self.stops_S = np.zeros(slots, np.uint64)  # address of a mask over the vocabulary, or 0
        self.sampling: list[Sampling] = [Sampling()] * slots
        self.stops: list[frozenset[int]] = [frozenset()] * slots
        self.prompts: list[Sequence[int]] = [()] * slots
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
        self.plain_S[slot] = sampling.plain
        self.sampling[slot], self.stops[slot], self.prompts[slot] = sampling, stops, request.ids
        if not sampling.greedy:
            self.uniforms_SN[slot, :limit] = uniforms(request.seed, request.number + index, limit)
        if stops not in self._masks:
            mask = np.zeros(self.vocabulary, np.uint8)
            mask[[i for i in stops if 0 <= i < self.vocabulary]] = 1
            self._masks[stops] = mask
        self.stops_S[slot] = self._masks[stops].ctypes.data if stops else 0

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
        stopped = [int(i) in self.stops[s] for s, i in zip(live.tolist(), self.last_S[live], strict=True)]
        return done | np.asarray(stopped, np.bool_)


def draw(board: Board, slots: Sequence[int], logits_WV: Tensor, rows: Sequence[int]) -> None:
    """Draw the next token of each slot from row `rows[i]` of the logits; any sampling, by torch."""
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
        found = sample(changed_BV, sampling, column)
        ids_B = found.ids_B.to(logits_BV.device)
        raw_B = found.logprobs_B if changed_BV is logits_BV else _logprob(logits_BV, ids_B)
        t = sampling.temperature
        warm_B = raw_B if t in (0, 1) else _logprob(logits_BV / t, ids_B)
        board.write(at, Draw(ids_B, raw_B, found.processed_B), warm_B)


def _logprob(logits_BV: Tensor, ids_B: Tensor) -> Tensor:
    return logits_BV.gather(1, ids_B[:, None])[:, 0] - logits_BV.logsumexp(-1)
