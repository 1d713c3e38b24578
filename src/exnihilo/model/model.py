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
from exnihilo.model.sizes import local_layers, reach, resolve
from exnihilo.model.trunk import Trunk
from exnihilo.nn.block import Shape
from exnihilo.nn.cache import KVCache
from exnihilo.nn.layout import Attention
from exnihilo.nn.norms import LayerNorm
from exnihilo.nn.rotary import Rotary, Yarn


class Model(nn.Module):
    """Any model here. Made by `build`, which also draws its weights.

    Attributes:
        config: the resolved configuration; its `outputs` are the names of the heads.
        attention: what a forward does unless told otherwise.
        front, trunk, pooler, heads: the parts; ``heads["tokens"]`` is a head by name. `pooler` is None where
            no head reads from one.
    """

    def __init__(self, config: ModelConfig, heads: tuple[str, ...] | None = None) -> None:
        super().__init__()
        if heads is not None:
            config = config.model_copy(update={"outputs": tuple(heads)})
        self.config = config = resolve(config)
        family = find(config.family)
        self.attention = Attention.FULL if family.encoder else Attention.CAUSAL
        shape = shape_of(config)
        learned = config.context if family.positions == "learned" else None
        assert config.vocab_size is not None
        self.front = Tokens(
            config.vocab_size,
            shape.width,
            positions=learned,
            dropout=config.dropout,
            segments=config.segments or 0,
            norm=LayerNorm(shape.width, shape.norm_eps, family.norm_bias) if family.embedding_norm else None,
            inputs=config.inputs,
        )
        self.trunk = trunk_of(config)
        self.pooler = head_room.pooler(config)
        self.heads = head_room.Heads(
            {name: head_room.create(name, config, self.front, self.pooler) for name in config.outputs}
        )

    def forward(
        self,
        raw: Mapping[str, Tensor],
        attention: Attention | None = None,
        cache: KVCache | None = None,
        *,
        through: str | None = None,
    ) -> Tensor:
        """Hidden states after the final norm.

        Args:
            raw: columns: ``tokens`` (B, T) int64; optional ``pos`` (B, T) positions, default 0 .. T-1 a row;
                optional ``doc`` (B, T) document of each token, -1 = padding, default one document a row;
                optional ``branch`` (B, T): 0 the stem of a document, n > 0 a continuation of it that no other
                continuation sees (then ``pos`` must say where each continues);
                optional ``segment`` (B, T), default all 0; families without segments do not read it;
                of a model with ``inputs``: ``kind`` (B, T), 0 a token, n the n-th input, whose numbers are a
                column of its name (B, T, numbers); ``place`` (B, T, K), coordinates for rotary positions;
                ``group`` (B, T), n > 0 = a block that sees itself both ways;
                optional ``needed`` (B, T) bool: states that are read afterwards, others may come as zeros.
            attention: CAUSAL or FULL; default: FULL for encoders, CAUSAL for decoders.
            cache: keys and values read before; then ``pos`` says where the new tokens stand.
            through: a head with a trunk of its own (``generator``), which then reads the columns in the
                place of the model's trunk. A sharded model gathers its weights only when it is called itself.

        Returns:
            hidden_BTD. At padding its values are finite and mean nothing.
        """
        attention = attention or self.attention
        if through is not None:
            return self.heads[through](raw, attention)
        if cache is not None and raw.get("pos") is None:
            tokens_BT = raw["tokens"]
            pos_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device).expand_as(tokens_BT)
            raw = {**raw, "pos": pos_BT}
        return self.trunk(self.front(raw, attention), cache)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Model:
        super()._apply(fn, recurse)
        for head in self.heads.modules():  # `to_empty` makes two of a shared parameter: make them one again
            tie = getattr(head, "tie", None)
            if tie is not None:
                tie()
        return self

    def init_weights(self, seed: int = 0) -> None:
        """Draw all weights again, in place. For models built on "meta": ``to_empty(device=...)`` first."""
        assert self.config.width is not None
        initialise(self, self.config.width, self.config.depth, seed)


def fill_ties(model: Model, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in which a shared parameter is stored under one of its names, under all of them."""
    slots, out = model.state_dict(keep_vars=True), dict(state)
    stored = {id(slot): out[name] for name, slot in slots.items() if name in out}
    for name, slot in slots.items():
        if id(slot) in stored:
            out.setdefault(name, stored[id(slot)])
    return out


def shape_of(config: ModelConfig) -> Shape:
    """What the blocks of a resolved configuration are made of."""
    family = find(config.family)
    sizes: dict[str, Any] = {
        key: getattr(config, key)
        for key in ("width", "heads", "kv_heads", "head_dim", "mlp_width", "norm_eps", "dropout", "sinks")
    }
    kinds: dict[str, Any] = {
        key: getattr(family, key) for key in ("norm", "qk_norm", "mlp", "bias", "norm_bias", "first_norm")
    }
    return Shape(**sizes, **kinds)


def trunk_of(config: ModelConfig) -> Trunk:
    """The trunk of a resolved configuration, without values."""
    family = find(config.family)
    assert config.head_dim is not None

    yarn = None if config.yarn is None else Yarn(**config.yarn.model_dump())

    def turns(theta: float | None) -> Rotary | None:
        if family.positions == "learned" or theta is None:
            return None
        assert config.head_dim is not None
        return Rotary(config.head_dim, theta, config.context, yarn)

    return Trunk(
        shape_of(config),
        config.depth,
        turns(config.rope_theta),
        post_norm=family.post_norm,
        window=reach(config),
        local=local_layers(config),
        local_rotary=turns(config.local_theta) if config.local_theta is not None else None,
    )


def build(
    config: ModelConfig,
    *,
    heads: tuple[str, ...] | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Model:
    """A model with freshly drawn weights.

    Args:
        config: need not be resolved, but must know its vocabulary.
        heads: names in model/heads.py; default: ``config.outputs``.
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
