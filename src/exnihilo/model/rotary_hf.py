"""What the configurations and tensor names of Llama's heirs share in Hugging Face folders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exnihilo.config import ModelConfig
from exnihilo.errors import ModelError
from exnihilo.model.family import Rename

KEYS = {
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "head_dim": "head_dim",
    "intermediate_size": "mlp_width",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "context",
    "tie_word_embeddings": "tied",
    "rms_norm_eps": "norm_eps",
}
DEFAULTS = {"rms_norm_eps": 1e-6, "tie_word_embeddings": False}

OPTIONAL = frozenset({"head_dim", "num_key_value_heads"})
FIXED = {"hidden_act": "silu", "attention_bias": False}


def trunk_renames(*, qk_norm: bool) -> tuple[Rename, ...]:
    """Tensor names of `LlamaForCausalLM`, with Qwen3's two norms if asked."""
    block, theirs = "trunk.blocks.{i}.", "model.layers.{i}."
    pairs = {
        "input_layernorm": "attention_norm",
        "self_attn.q_proj": "attention.q",
        "self_attn.k_proj": "attention.k",
        "self_attn.v_proj": "attention.v",
        "self_attn.o_proj": "attention.o",
        "post_attention_layernorm": "mlp_norm",
        "mlp.gate_proj": "mlp.gate",
        "mlp.up_proj": "mlp.up",
        "mlp.down_proj": "mlp.down",
    }
    if qk_norm:
        pairs |= {"self_attn.q_norm": "attention.q_norm", "self_attn.k_norm": "attention.k_norm"}
    return (
        Rename("model.embed_tokens.weight", ("front.tokens.weight",)),
        *(Rename(f"{theirs}{a}.weight", (f"{block}{b}.weight",)) for a, b in pairs.items()),
        Rename("model.norm.weight", ("trunk.norm.weight",)),
    )


def more(config: ModelConfig) -> dict[str, Any]:
    """Rotary options in the words of transformers 4 and 5 both, and the one kind of dropout known there."""
    return {
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rope_scaling": None,
        "attention_dropout": config.dropout,
    }


def read(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary base from either form; scaled, partial and windowed forms are refused by name."""
    if theirs.get("attention_dropout"):  # ours also drops from the residual stream: not the same thing
        raise ModelError(f"attention_dropout is {theirs['attention_dropout']}", expected="0.0")
    parameters: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        given = theirs.get(key) or {}
        kind = given.get("rope_type", given.get("type", "default"))
        if kind != "default":
            raise ModelError(f"{key}: rope_type is {kind!r}", expected="rope_type 'default' (no scaling)")
        parameters |= given
    partial = parameters.get("partial_rotary_factor", theirs.get("partial_rotary_factor")) or 1.0
    if partial != 1.0:
        raise ModelError(f"partial_rotary_factor is {partial}", expected="1.0 (all of a head is turned)")
    windows = set(theirs.get("layer_types") or []) - {"full_attention"}
    if windows:
        raise ModelError(f"layer_types has {', '.join(sorted(windows))}", expected="full_attention only")
    fields: dict[str, Any] = {"rope_theta": parameters.get("rope_theta", theirs.get("rope_theta", 10_000.0))}
    if theirs.get("head_dim") is None:
        fields["head_dim"] = theirs["hidden_size"] // theirs["num_attention_heads"]
    if theirs.get("num_key_value_heads") is None:
        fields["kv_heads"] = theirs["num_attention_heads"]
    return fields
