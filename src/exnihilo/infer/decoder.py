"""One batch of texts, one token a step: prefill, then decode with a cache.

Used by `generate` and `stream`; knows ids only. A step is a forward, a draw, and nothing else::

    decoder = Decoder(model, [[1, 5, 9], [1, 7]], Sampling(temperature=0), [(0, 0), (0, 1)], steps=16)
    draw = decoder.step()            # prefill; draw.ids_B is each row's first new token
    draw = decoder.step()            # decode
    decoder.keep([1])                # row 0 is finished

Prompts of unequal length are padded on the right and read in one forward; causal attention keeps pads out
of every row's own positions, so a row's result does not depend on its neighbours.

Key: B rows, T positions, D model width, V vocabulary
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from exnihilo.infer.cache import StaticCache
from exnihilo.infer.sampling import Draw, Sampling, sample, uniforms

if TYPE_CHECKING:
    from exnihilo.model.model import Model


class Frozen:
    """Evaluation mode for a block, then each module as it was; cheap enough for every token."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._modules = list(model.modules())

    @contextmanager
    def __call__(self) -> Iterator[None]:
        training = [m for m in self._modules if m.training]
        for m in training:
            m.training = False
        try:
            # no_grad, not inference mode: tables that a module keeps (angles) must stay usable in training
            with torch.no_grad():
                yield
        finally:
            for m in training:
                m.training = True


class Decoder:
    """State of one batch.

    Args:
        model: a decoder.
        prompts: ids of each row, at least one, fewer than the model's context.
        sampling: how tokens are chosen.
        keys: (seed, request) of each row: its random numbers follow from them alone.
        steps: at most this many steps will be asked for.
    """

    def __init__(
        self,
        model: Model,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        keys: Sequence[tuple[int, int]],
        steps: int,
    ) -> None:
        self._model, self._sampling = model, sampling
        self._head: Any = model.heads["tokens"]
        self._frozen = Frozen(model)
        self._device = next(model.parameters()).device
        self._cache = StaticCache.of(model, rows=len(prompts))
        self._prompts = prompts
        self._lengths = [len(p) for p in prompts]
        self._uniforms_BS: Tensor | None = None
        if not sampling.greedy:
            self._uniforms_BS = torch.from_numpy(np.stack([uniforms(*key, steps) for key in keys]))
        self._step = 0
        self._last_B1: Tensor | None = None

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row so far, drawn ones included."""
        return self._lengths

    def step(self) -> Draw:
        """The next token of every row."""
        with self._frozen():
            logits_BV = self._prefill() if self._last_B1 is None else self._decode(self._last_B1)
            column = None if self._uniforms_BS is None else self._uniforms_BS[:, self._step]
            draw = sample(logits_BV, self._sampling, column)
        self._last_B1 = draw.ids_B[:, None].to(self._device)
        self._step += 1
        self._lengths = [n + 1 for n in self._lengths]
        return draw

    def keep(self, rows: Sequence[int]) -> None:
        """The batch becomes these rows; the others' memory is freed."""
        assert self._last_B1 is not None, "keep() comes after a step"
        index = torch.tensor(rows)
        self._cache.keep(rows)
        self._lengths = [self._lengths[r] for r in rows]
        self._last_B1 = self._last_B1[index.to(self._device)]
        if self._uniforms_BS is not None:
            self._uniforms_BS = self._uniforms_BS[index]

    def _prefill(self) -> Tensor:
        longest = max(self._lengths)
        padded = [[*p, *[0] * (longest - len(p))] for p in self._prompts]
        tokens_BT = torch.tensor(padded, device=self._device)
        pos_BT = torch.arange(longest, device=self._device).expand(len(padded), -1)
        hidden_BTD = self._model({"tokens": tokens_BT, "pos": pos_BT}, cache=self._cache)
        rows = torch.arange(len(padded), device=self._device)
        ends = torch.tensor(self._lengths, device=self._device) - 1
        return self._head.logits(hidden_BTD[rows, ends][:, None])[:, 0]

    def _decode(self, tokens_B1: Tensor) -> Tensor:
        pos_B1 = torch.tensor(self._lengths, device=self._device)[:, None] - 1
        hidden_B1D = self._model({"tokens": tokens_B1, "pos": pos_B1}, cache=self._cache)
        return self._head.logits(hidden_B1D)[:, 0]
