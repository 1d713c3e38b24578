"""What the configurations and tensor names of Llama's heirs share in Hugging Face folders."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from exnihilo.config import ModelConfig
from exnihilo.errors import ModelError
from exnihilo.model.family import Rename
from exnihilo.model.sizes import local_layers

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


SINKS = Rename("model.layers.{i}.self_attn.sinks", ("trunk.blocks.{i}.attention.sinks",))
"""As gpt-oss names them."""
_KINDS = ("full_attention", "sliding_attention")


def more(config: ModelConfig) -> dict[str, Any]:
    """Rotary options in the words of transformers 4 and 5 both, and the one kind of dropout known there."""
    yarn, scaling = config.yarn, None
    parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if yarn is not None:
        scaling = {
            "rope_type": "yarn",
            "factor": yarn.factor,
            "original_max_position_embeddings": yarn.original,
            "beta_fast": yarn.beta_fast,
            "beta_slow": yarn.beta_slow,
            "attention_factor": yarn.attention,
        }
        parameters |= scaling
    return {
        "rope_theta": config.rope_theta,
        "rope_parameters": parameters,
        "rope_scaling": scaling,
        "attention_dropout": config.dropout,
    }


def layer_types(config: ModelConfig) -> list[str]:
    """What each layer sees, in their words."""
    return [_KINDS[local] for local in local_layers(config)]


def windows(theirs: Mapping[str, Any], types: list[str] | None) -> dict[str, Any]:
    """``window`` and ``global_every`` of layers in a pattern: every n-th sees everything, or none does.

    Args:
        types: of each layer; None: none is said.
    """
    if types is None or "sliding_attention" not in types:
        return {}
    window, depth = theirs.get("sliding_window"), theirs["num_hidden_layers"]
    if isinstance(window, bool) or not isinstance(window, int) or window < 2:
        raise ModelError(f"sliding_window is {window!r}", expected="a whole number, 2 or above")
    for every in (None, *range(1, depth + 1)):
        if types == [_KINDS[every is None or (i + 1) % every > 0] for i in range(depth)]:
            return {"window": window, "global_every": every}
    raise ModelError(
        f"layer_types is {', '.join(map(str, types))}",
        expected=f"{depth} layers: all sliding, or every n-th of them full (the n-th, 2n-th, ...)",
    )


def read(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary base and YaRN from either form; other scalings and partial forms are refused by name."""
    if theirs.get("attention_dropout"):  # ours also drops from the residual stream: not the same thing
        raise ModelError(f"attention_dropout is {theirs['attention_dropout']}", expected="0.0")
    parameters: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        given = theirs.get(key) or {}
        kind = given.get("rope_type", given.get("type", "default"))
        if kind not in ("default", "yarn"):
            raise ModelError(
                f"{key}: rope_type is {kind!r}", expected="rope_type 'default' (no scaling) or 'yarn'"
            )
        parameters |= given
    partial = parameters.get("partial_rotary_factor", theirs.get("partial_rotary_factor")) or 1.0
    if partial != 1.0:
        raise ModelError(f"partial_rotary_factor is {partial}", expected="1.0 (all of a head is turned)")
    fields: dict[str, Any] = {"rope_theta": parameters.get("rope_theta", theirs.get("rope_theta", 10_000.0))}
    if parameters.get("rope_type", parameters.get("type")) == "yarn":
        fields["yarn"] = _yarn(parameters, theirs.get("max_position_embeddings"))
    if theirs.get("head_dim") is None:
        fields["head_dim"] = theirs["hidden_size"] // theirs["num_attention_heads"]
    if theirs.get("num_key_value_heads") is None:
        fields["kv_heads"] = theirs["num_attention_heads"]
    return fields


def _yarn(parameters: Mapping[str, Any], context: Any) -> dict[str, Any]:
    """The fields of `YarnConfig`."""
    if parameters.get("truncate") is False:
        raise ModelError("rope_parameters: truncate is false", expected="true (a range of whole frequencies)")
    original = parameters.get("original_max_position_embeddings") or context
    factor, attention = parameters.get("factor"), parameters.get("attention_factor")
    if factor is None and isinstance(context, int) and isinstance(original, int):
        factor = context / original
    scales = parameters.get("mscale"), parameters.get("mscale_all_dim")
    if attention is None and all(scales) and isinstance(factor, (int, float)):
        top, bottom = (0.1 * float(scale or 0) * math.log(factor) + 1 for scale in scales)
        attention = top / bottom
    return {
        "factor": factor,
        "original": original,
        "beta_fast": parameters.get("beta_fast") or 32.0,
        "beta_slow": parameters.get("beta_slow") or 1.0,
        "attention": attention,
    }
