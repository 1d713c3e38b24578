"""Qwen3 (Qwen team 2025, arXiv 2505.09388): RMSNorm, rotary positions, grouped heads, norms on queries and
keys, SwiGLU. The default decoder. Tensor names: transformers' `Qwen3ForCausalLM`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exnihilo.errors import ModelError
from exnihilo.model.family import Architecture, Family, Rename
from exnihilo.model.rotary_hf import (
    DEFAULTS,
    FIXED,
    KEYS,
    OPTIONAL,
    SINKS,
    layer_types,
    more,
    read,
    trunk_renames,
    windows,
)


def _read(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """As Llama's heirs; layers are local from ``max_window_layers`` on, or as ``layer_types`` says."""
    types, depth = theirs.get("layer_types"), theirs["num_hidden_layers"]
    if not theirs.get("use_sliding_window"):
        if "sliding_attention" in (types or ()):
            raise ModelError(
                "layer_types has sliding_attention, but use_sliding_window is false",
                expected="both, or neither",
            )
        return read(theirs)
    if types is None:
        first = theirs.get("max_window_layers", 28)
        types = [("full_attention", "sliding_attention")[i >= first] for i in range(depth)]
    return read(theirs) | windows(theirs, types)


FAMILY = Family(
    name="qwen3",
    norm="rms",
    positions="rotary",
    qk_norm=True,
    mlp="swiglu",
    bias=False,
    mlp_ratio=8 / 3,
    mlp_multiple=64,
    grouped=True,
    free_head_dim=True,
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    scorer=Architecture(
        "Qwen3ForSequenceClassification", ("value",), (Rename("score.weight", ("heads.value.dense.weight",)),)
    ),
    renames=trunk_renames(qk_norm=True),
    head="lm_head.weight",
    keys=KEYS,
    defaults={**DEFAULTS, "max_position_embeddings": 32768, "head_dim": 128},
    fixed=FIXED,
    ignored=("rotary_emb.inv_freq",),
    optional=OPTIONAL,
    more=lambda config: {
        **more(config),
        "use_sliding_window": config.window is not None,
        "max_window_layers": config.depth if config.window is None else 0,
        "sliding_window": config.window,
        "layer_types": layer_types(config),
    },
    read=_read,
    options=frozenset({"window", "yarn", "sinks"}),
    sinks=SINKS,
)
