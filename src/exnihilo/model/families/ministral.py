"""Ministral (Mistral AI 2024): Llama with local layers (sliding windows, Beltagy et al. 2020, arXiv
2004.05150, section 3.1), all of them or all but every n-th. Tensor names: transformers'
`MinistralForCausalLM`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from exnihilo.model.families.llama import FAMILY as LLAMA
from exnihilo.model.family import Architecture
from exnihilo.model.rotary_hf import DEFAULTS, FIXED, layer_types, more, read, windows


def _read(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """As Llama's heirs; all layers are local unless ``layer_types`` says otherwise."""
    depth = theirs["num_hidden_layers"]
    local = ["sliding_attention"] * depth
    found = windows({"sliding_window": 4096, **theirs}, theirs.get("layer_types") or local)
    none = {"window": theirs.get("sliding_window", 4096), "global_every": 1}
    return read(theirs) | (found or none)


assert LLAMA.scorer is not None
FAMILY = replace(
    LLAMA,
    name="ministral",
    model_type="ministral",
    architecture="MinistralForCausalLM",
    scorer=Architecture("MinistralForSequenceClassification", ("value",), LLAMA.scorer.renames),
    defaults={**DEFAULTS, "max_position_embeddings": 131_072},
    fixed={key: value for key, value in FIXED.items() if key != "attention_bias"},
    more=lambda config: {
        **more(config),
        "sliding_window": config.window,
        "layer_types": layer_types(config),
    },
    read=_read,
    window=512,
    options=frozenset({"yarn", "sinks"}),
)
