"""Llama (Touvron et al. 2023, arXiv 2302.13971): RMSNorm, rotary positions, grouped heads, SwiGLU. Tensor
names: transformers' `LlamaForCausalLM`."""

from __future__ import annotations

from exnihilo.model.family import Architecture, Family, Rename
from exnihilo.model.rotary_hf import DEFAULTS, FIXED, KEYS, OPTIONAL, more, read, trunk_renames

FAMILY = Family(
    name="llama",
    norm="rms",
    positions="rotary",
    qk_norm=False,
    mlp="swiglu",
    bias=False,
    mlp_ratio=8 / 3,
    mlp_multiple=64,
    grouped=True,
    free_head_dim=True,
    model_type="llama",
    architecture="LlamaForCausalLM",
    scorer=Architecture(
        "LlamaForSequenceClassification", ("value",), (Rename("score.weight", ("heads.value.dense.weight",)),)
    ),
    renames=trunk_renames(qk_norm=False),
    head="lm_head.weight",
    keys=KEYS,
    defaults={**DEFAULTS, "max_position_embeddings": 2048},
    fixed={**FIXED, "mlp_bias": False},
    ignored=("rotary_emb.inv_freq",),
    optional=OPTIONAL,
    more=more,
    read=read,
)
