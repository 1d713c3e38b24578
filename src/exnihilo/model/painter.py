"""The painter of masked-patch pretraining: a small trunk that says what stood at the positions an encoder was
not given.

The encoder reads the visible positions alone; the painter puts its states back to their places, [hidden]
elsewhere, and reads all of them once more::

    states_BVD = model(visible, Attention.FULL)                          # a quarter of the positions
    raw = {"states": states_BVD, "at": at_BV, "length": T, "place": place_BTK, "doc": doc_BT}
    painted_BTW = model(raw, Attention.FULL, through="painter")
    numbers_NF = model.heads["painter"].logits(painted_BTW[hidden_BT])

Half the encoder's width, and a layer for each four of its. It is of use in pretraining only, and is not
exported.

Source: He et al. 2021 (MAE, arXiv 2111.06377), section 3: an asymmetric encoder and decoder; a decoder of one
block fine-tunes as well as one of eight.

Key: B batch, V visible positions, T positions, D model width, W width of the painter, F numbers a position
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from exnihilo.config import ModelConfig
from exnihilo.errors import ConfigError
from exnihilo.model.family import find
from exnihilo.nn.layout import Attention, Seq

SHARE = 2  # the model's width is so many times the painter's
LAYERS = 4  # and its depth so many times


def narrow(config: ModelConfig) -> ModelConfig:
    """The painter's configuration: half the heads, at least one, with their width.

    >>> from exnihilo.model.sizes import resolve
    >>> small = narrow(resolve(ModelConfig(family="vit", depth=6, width=128, heads=4, vocab_size=6)))
    >>> small.width, small.heads, small.depth
    (64, 2, 1)
    """
    assert config.heads is not None and config.head_dim is not None and config.width is not None
    assert config.mlp_width is not None
    heads = max(1, config.heads // SHARE)
    width = heads * config.head_dim
    sizes = {
        "width": width,
        "heads": heads,
        "kv_heads": heads,
        "depth": max(1, config.depth // LAYERS),
        "mlp_width": max(8, config.mlp_width * width // config.width),
        "preset": None,
        "outputs": (),
        "dropout": 0.0,
    }
    return config.model_copy(update=sizes)


class Painter(nn.Module):
    """A narrow trunk over an encoder's states and what stands for hidden positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        from exnihilo.model.model import trunk_of  # which imports the room of heads

        if len(config.inputs) != 1:
            raise ConfigError(
                f"the head 'painter' of a model with inputs {list(config.inputs) or 'none'}",
                expected="one input: what a position holds",
            )
        small = narrow(config)
        assert small.width is not None and config.width is not None
        self.project = nn.Linear(config.width, small.width)
        self.hidden = nn.Embedding(1, small.width)  # what stands at a position that was hidden
        learned = find(config.family).positions == "learned"
        self.positions = nn.Embedding(config.context, small.width) if learned else None
        self.trunk = trunk_of(small)
        self.dense = nn.Linear(small.width, math.prod(next(iter(config.inputs.values()))))

    def forward(self, raw: Mapping[str, Tensor], attention: Attention = Attention.FULL) -> Tensor:
        """Hidden states (B, T, W).

        Args:
            raw: ``states`` (B, V, D) of visible positions, ``at`` (B, V) int64, where in the row each stands,
                T for padding; ``tokens`` (B, T), for its shape; optional ``pos``, ``place`` and ``doc`` as a
                model's forward takes them.
            attention: FULL.
        """
        states_BVD, at_BV = raw["states"], raw["at"]
        (B, _, _), T = states_BVD.shape, raw["tokens"].shape[1]
        known_BVW = self.project(states_BVD)
        x_BTW = self.hidden.weight.expand(B, T + 1, -1).to(known_BVW.dtype)
        x_BTW = x_BTW.scatter(1, at_BV.unsqueeze(-1).expand_as(known_BVW), known_BVW)[:, :T]
        pos_BT, pos_BTK = raw.get("pos"), raw.get("place")
        if self.positions is not None:
            at_T = torch.arange(T, device=x_BTW.device) if pos_BT is None else pos_BT
            x_BTW = x_BTW + self.positions(at_T).to(x_BTW.dtype)
        if pos_BTK is None and pos_BT is not None:
            pos_BTK = pos_BT.unsqueeze(-1)
        return self.trunk(Seq(x_BTW, pos_BTK, attention.group, raw.get("doc")))

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., W) -> (..., F): the numbers of a position."""
        return self.dense(hidden)
