"""Llama (Touvron et al. 2023, arXiv 2302.13971): RMSNorm, rotary positions, grouped heads, SwiGLU. Tensor
names: transformers' `LlamaForCausalLM`. With local layers it is the family `ministral`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exnihilo.errors import ModelError
from exnihilo.model.family import Architecture, Family, Rename
from exnihilo.model.rotary_hf import DEFAULTS, FIXED, KEYS, OPTIONAL, SINKS, more, read, trunk_renames


def _read(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """As its heirs; it has no local layers."""
    local = set(theirs.get("layer_types") or []) - {"full_attention"}
    if local:
        raise ModelError(f"layer_types has {', '.join(sorted(local))}", expected="full_attention only")
    return read(theirs)


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
    read=_read,
    options=frozenset({"yarn", "sinks"}),
    sinks=SINKS,
)
