"""A model: front end, trunk, heads::

    config = resolve(ModelConfig(depth=4), vocab_size=4096)
    model = build(config, seed=0)
    hidden_BTD = model({"tokens": tokens_BT})
    logits_BTV = model.heads["tokens"].logits(hidden_BTD)

It is drawn from pure randomness (init.py). A forward returns hidden states, always; what a loss makes of
them is the objective's business.

Key: B batch, T positions, D model width
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from exnihilo.config import ModelConfig
from exnihilo.model import heads as head_room
from exnihilo.model.family import find
from exnihilo.model.front import Tokens
from exnihilo.model.init import initialise
from exnihilo.model.sizes import resolve
from exnihilo.model.trunk import Trunk
from exnihilo.nn.block import Shape
from exnihilo.nn.cache import KVCache
from exnihilo.nn.layout import Attention
from exnihilo.nn.rotary import Rotary


class Model(nn.Module):
    """Any model here. Made by `build`, which also draws its weights.

    Attributes:
        config: the resolved configuration.
        front, trunk, heads: the three parts; ``heads["tokens"]`` is a head by name.
    """

    def __init__(self, config: ModelConfig, heads: tuple[str, ...] = ("tokens",)) -> None:
        super().__init__()
        self.config = config = resolve(config)
        family = find(config.family)
        shape = shape_of(config)
        learned = config.context if family.positions == "learned" else None
        assert config.vocab_size is not None and config.head_dim is not None
        rotary = None if learned else Rotary(config.head_dim, config.rope_theta, config.context)
        self.front = Tokens(config.vocab_size, shape.width, positions=learned, dropout=config.dropout)
        self.trunk = Trunk(shape, config.depth, rotary)
        self.heads = head_room.Heads(
            {name: head_room.create(name, config, self.front.tokens) for name in heads}
        )

    def forward(
        self, raw: Mapping[str, Tensor], attention: Attention = Attention.CAUSAL, cache: KVCache | None = None
    ) -> Tensor:
        """Hidden states after the final norm.

        Args:
            raw: columns: ``tokens`` (B, T) int64; optional ``pos`` (B, T) positions, default 0 .. T-1 a row;
                optional ``doc`` (B, T) document of each token, -1 = padding, default one document a row.
            attention: CAUSAL or FULL.
            cache: keys and values read before; then ``pos`` says where the new tokens stand.

        Returns:
            hidden_BTD. At padding its values are finite and mean nothing.
        """
        if cache is not None and raw.get("pos") is None:
            tokens_BT = raw["tokens"]
            pos_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device).expand_as(tokens_BT)
            raw = {**raw, "pos": pos_BT}
        return self.trunk(self.front(raw, attention), cache)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Model:
        super()._apply(fn, recurse)
        for head in self.heads.values():  # `to_empty` makes two of a shared parameter: make them one again
            if getattr(head, "tied", False):
                head.weight = self.front.tokens.weight
        return self

    def init_weights(self, seed: int = 0) -> None:
        """Draw all weights again, in place. For models built on "meta": ``to_empty(device=...)`` first."""
        assert self.config.width is not None
        initialise(self, self.config.width, self.config.depth, seed)


def shape_of(config: ModelConfig) -> Shape:
    """What the blocks of a resolved configuration are made of."""
    family = find(config.family)
    sizes: dict[str, Any] = {
        key: getattr(config, key)
        for key in ("width", "heads", "kv_heads", "head_dim", "mlp_width", "norm_eps", "dropout")
    }
    return Shape(**sizes, norm=family.norm, qk_norm=family.qk_norm, mlp=family.mlp, bias=family.bias)


def build(
    config: ModelConfig,
    *,
    heads: tuple[str, ...] = ("tokens",),
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Model:
    """A model with freshly drawn weights.

    Args:
        config: need not be resolved, but must know its vocabulary.
        heads: names in model/heads.py.
        seed: of the weights; the same seed gives the same bits on every device.
        device: "meta" gives a model without memory, for sharding: ``fully_shard(...)``,
            ``model.to_empty(device=...)``, ``model.init_weights(seed)``.
    """
    with torch.device("meta"):
        model = Model(config, heads)
    if str(device) != "meta":
        model.to_empty(device=device)
        model.init_weights(seed)
    return model
