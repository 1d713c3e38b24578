"""How the engine's forwards are computed: the protocol, and the form that runs any model on any device.

A forward is a list of (token, slot, place), in any mixture: single tokens of texts that are being continued,
chunks of prompts that are being read. `ModelStep` calls the model itself. `native.NativeStep` does the same
in one call without Python or dispatch inside, for decoders in float32 on a CPU; `choose` takes the fastest
one that applies.

Key: R tokens of a forward, W rows of logits, V vocabulary, B rows, T positions, D model width
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from exnihilo.errors import UsageError
from exnihilo.infer.board import Board, draw
from exnihilo.infer.cache import StaticCache
from exnihilo.infer.decoder import Frozen

if TYPE_CHECKING:
    from exnihilo.model.model import Model


class Step(Protocol):
    """What the engine asks of an implementation.

    Attributes:
        name: said to the user.
        exact: a token's numbers do not depend on what shares its forward, to the last bit.
    """

    name: str
    exact: bool

    def forward(
        self, tokens: Sequence[int], slots: Sequence[int], places: Sequence[int], wanted: Sequence[int]
    ) -> Tensor:
        """Read tokens (R) into their slots at their places; logits (W, V) after those whose index is wanted.
        A slot's tokens come in ascending places. The result is valid until the next call."""
        ...

    def draw(self, board: Board, slots: Sequence[int], logits_WV: Tensor, rows: Sequence[int]) -> None:
        """The next token of each slot, from row `rows[i]` of the logits, onto the board, which then follows
        it (`Board.follow`)."""
        ...

    def decode(self, board: Board, live: Sequence[int], most: int) -> int:
        """Read each live slot's last token and draw the next, up to `most` times, less if a text ends: how
        many times."""
        ...

    def copy(self, source: int, targets: Sequence[int], length: int) -> None:
        """Give other slots the first `length` places of one."""
        ...

    def refresh(self) -> None:
        """Read the model's weights again."""
        ...


class OneByOne(ABC):
    """Draws on the host, one token a call: an implementation of `Step` has `forward` left to say."""

    @abstractmethod
    def forward(
        self, tokens: Sequence[int], slots: Sequence[int], places: Sequence[int], wanted: Sequence[int]
    ) -> Tensor:
        """See `Step`."""

    def draw(self, board: Board, slots: Sequence[int], logits_WV: Tensor, rows: Sequence[int]) -> None:
        """See `Step`."""
        with torch.no_grad():
            draw(board, slots, logits_WV, rows)

    def decode(self, board: Board, live: Sequence[int], most: int) -> int:
        """See `Step`; one step a call."""
        at = np.asarray(live)
        everyone = range(len(live))
        logits_BV = self.forward(board.last_S[at].tolist(), live, board.place_S[at].tolist(), everyone)
        self.draw(board, live, logits_BV, everyone)
        return 1


class ModelStep(OneByOne):
    """Calls the model: any module that takes ``({"tokens", "pos"}, cache=...)``, any device and dtype."""

    exact = False

    def __init__(self, model: Model, slots: int) -> None:
        self.name = "torch"
        self._model = model
        self._head: Any = model.heads["tokens"]
        self._frozen = Frozen(model)
        self._device = next(model.parameters()).device
        self._cache = StaticCache.of(model, rows=slots)

    def forward(
        self, tokens: Sequence[int], slots: Sequence[int], places: Sequence[int], wanted: Sequence[int]
    ) -> Tensor:
        """See `Step`: texts that give one token are read together, chunks of prompts together."""
        spans: dict[int, list[int]] = {}
        for r, slot in enumerate(slots):
            spans.setdefault(slot, []).append(r)
        groups = (
            [rows for rows in spans.values() if len(rows) == 1],
            [rows for rows in spans.values() if len(rows) > 1],
        )
        found: dict[int, Tensor] = {}
        with self._frozen():
            for group in groups:
                if group:
                    self._read(group, tokens, slots, places, frozenset(wanted), found)
            return torch.stack([found[r] for r in wanted]) if wanted else torch.empty(0, 0)

    def _read(
        self,
        group: list[list[int]],
        tokens: Sequence[int],
        slots: Sequence[int],
        places: Sequence[int],
        wanted: frozenset[int],
        found: dict[int, Tensor],
    ) -> None:
        """One forward of rows padded on the right; pads write behind what is read (see cache.py)."""
        group = sorted(group, key=lambda rows: slots[rows[0]])
        longest = max(map(len, group))
        last = self._cache.limit - 1
        token_rows = [[*(tokens[r] for r in rows), *[0] * (longest - len(rows))] for rows in group]
        place_rows = [
            [
                *(places[r] for r in rows),
                *(min(places[rows[-1]] + i + 1, last) for i in range(longest - len(rows))),
            ]
            for rows in group
        ]
        self._cache.choose([slots[rows[0]] for rows in group])
        hidden_BTD = self._model(
            {
                "tokens": torch.tensor(token_rows, device=self._device),
                "pos": torch.tensor(place_rows, device=self._device),
            },
            cache=self._cache,
        )
        ends = [(b, t, r) for b, rows in enumerate(group) for t, r in enumerate(rows) if r in wanted]
        if ends:
            b, t, numbers = zip(*ends, strict=True)
            logits_NV = self._head.logits(hidden_BTD[list(b), list(t)][:, None])[:, 0]
            found.update(zip(numbers, logits_NV, strict=True))

    def copy(self, source: int, targets: Sequence[int], length: int) -> None:
        """See `Step`."""
        with torch.no_grad():
            self._cache.copy(source, targets, length)

    def refresh(self) -> None:
        """The model is read at every forward: nothing to do."""


def choose(model: Model, slots: int, threads: int | None, weights: str, path: str) -> Step:
    """The fastest form that applies to this model, or the one that was asked for.

    Raises:
        UsageError: "native" or int8 weights where they cannot be used, with the reason.
    """
    from exnihilo.infer import native, tune

    if path == "torch" and weights == "float32":
        return ModelStep(model, slots)
    why = "path='torch' was asked for" if path == "torch" else native.unfit(model)
    if why is None and isinstance(found := native.library(), str):
        why = found
    if why is None:
        step = native.NativeStep(model, slots, threads, weights == "int8")
        if path == "auto" and threads is None and weights == "float32" and tune.slower(step, model):
            return ModelStep(model, slots)
        return step
    if path == "native" or weights == "int8":
        raise UsageError(
            f"{'int8 weights' if weights == 'int8' else 'the native step'} cannot be used: {why}",
            expected="a plain decoder in float32 on a CPU, and a C compiler",
            next="weights='float32', path='auto'",
        )
    return ModelStep(model, slots)
