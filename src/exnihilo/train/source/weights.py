"""The weights that completions are drawn with: those being trained, or a frozen copy of them.

::

    weights = Weights(model, config.model, heads=objective.heads, scale=None)
    weights.newest()      # a plain, whole model with the weights of now; the trained one itself where it is
    weights.frozen()      # a copy that training does not change, for a thread

A plain model has neither adapters nor shares of tensors: adapters are merged, what is sharded over workers is
gathered. All workers must call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from exnihilo.config import ModelConfig
from exnihilo.interop.adapters import adapted, merge
from exnihilo.model import build
from exnihilo.train import saving

if TYPE_CHECKING:
    import torch

    from exnihilo.model.model import Model


class Weights:
    """Plain models with the weights of one that is trained.

    Args:
        model: the trained one, on its device, perhaps with adapters or sharded.
        shape: its resolved configuration.
        heads: of the objective.
        scale: alpha / rank of its adapters; None: it has none.
        device: where copies go.
    """

    def __init__(
        self,
        model: Model,
        shape: ModelConfig,
        *,
        heads: Sequence[str],
        scale: float | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.model, self.shape, self.heads, self.scale, self.device = model, shape, heads, scale, device
        names = dict(model.named_parameters())
        sharded = any(hasattr(p, "full_tensor") for p in names.values())
        self.plain = not (sharded or adapted(names))
        self._copy: Model | None = None

    def newest(self) -> Model:
        """The weights of now; to be used before the next update only."""
        if self.plain:
            return self.model
        if self._copy is None:
            self._copy = self._made()
        return self._put(self._copy)

    def frozen(self) -> Model:
        """A copy of the weights of now, nobody else's."""
        return self._put(self._made())

    def _made(self) -> Model:
        made = build(self.shape, heads=tuple(self.heads), device=self.device)
        return made.requires_grad_(False).eval()

    def _put(self, into: Model) -> Model:
        tensors = saving.weights(self.model)
        if self.scale is not None:
            tensors = merge(tensors, self.scale)
        saving.put_weights(into, {**saving.weights(into), **tensors}, "the model that is trained")
        return into
