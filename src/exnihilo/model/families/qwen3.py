"""Qwen3 (Qwen team 2025, arXiv 2505.09388): RMSNorm, rotary positions, grouped heads, norms on queries and
keys, SwiGLU. The default decoder. Tensor names: transformers' `Qwen3ForCausalLM`."""

from __future__ import annotations

from exnihilo.model.family import Architecture, Family, Rename
from exnihilo.model.rotary_hf import DEFAULTS, FIXED, KEYS, OPTIONAL, more, read, trunk_renames

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
    fixed={**FIXED, "use_sliding_window": False},
    ignored=("rotary_emb.inv_freq",),
    optional=OPTIONAL,
    more=lambda config: {
        **more(config),
        "max_window_layers": config.depth,
        "sliding_window": None,
        "layer_types": ["full_attention"] * config.depth,
    },
    read=read,
)
