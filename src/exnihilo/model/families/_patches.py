"""What encoders of patches have in common in Transformers' folders: ViT's names, which AST took over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exnihilo.config import ModelConfig
from exnihilo.errors import ModelError
from exnihilo.model.family import Rename

_BLOCK = {
    "layernorm_before": "attention_norm",
    "attention.attention.query": "attention.q",
    "attention.attention.key": "attention.k",
    "attention.attention.value": "attention.v",
    "attention.output.dense": "attention.o",
    "layernorm_after": "mlp_norm",
    "intermediate.dense": "mlp.up",
    "output.dense": "mlp.down",
}
KEYS = {
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "intermediate_size": "mlp_width",
    "layer_norm_eps": "norm_eps",
}
_DROPS = ("hidden_dropout_prob", "attention_probs_dropout_prob")


def both(theirs: str, ours: str) -> tuple[Rename, ...]:
    """Weight and bias."""
    return tuple(Rename(f"{theirs}.{part}", (f"{ours}.{part}",)) for part in ("weight", "bias"))


def renames(prefix: str, held: str) -> tuple[Rename, ...]:
    """Of the trunk and of what is before it.

    Args:
        prefix: their name of the whole, with its dot.
        held: ours of what a position holds.
    """
    blocks = [
        rename
        for theirs, ours in _BLOCK.items()
        for rename in both(f"{prefix}encoder.layer.{{i}}.{theirs}", f"trunk.blocks.{{i}}.{ours}")
    ]
    return (
        *both(f"{prefix}layernorm", "trunk.norm"),
        Rename(f"{prefix}embeddings.tokens.weight", ("front.tokens.weight",)),
        Rename(f"{prefix}embeddings.positions.weight", ("front.positions.weight",)),
        *both(f"{prefix}embeddings.patch_embeddings.projection", f"front.inputs.{held}.dense"),
        *blocks,
    )


def sizes(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Heads and dropout of a config.json.

    Raises:
        ModelError: dropout rates that differ, for which there is one here.
    """
    drops = {key: theirs.get(key, 0.0) for key in _DROPS}
    if len(set(drops.values())) > 1:
        raise ModelError(f"dropout rates that differ: {drops}", expected="one rate for both")
    heads = theirs["num_attention_heads"]
    return {"kv_heads": heads, "head_dim": theirs["hidden_size"] // heads, "dropout": drops[_DROPS[0]]}


def dropouts(config: ModelConfig) -> dict[str, Any]:
    """The same rate in a config.json."""
    return dict.fromkeys(_DROPS, config.dropout)
