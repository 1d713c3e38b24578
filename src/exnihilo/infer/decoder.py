"""The state in which a model is read: no gradients, no dropout, and afterwards as it was.

::

    with Frozen(model)():
        model({"tokens": tokens_BT})
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
