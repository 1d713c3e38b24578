"""GPT-2 (Radford et al. 2019): LayerNorm, learned positions, GELU, biases. Tensor names: transformers'
`GPT2LMHeadModel`, whose matrices are [in, out] and whose q, k, v are one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exnihilo.errors import ModelError
from exnihilo.model.family import Architecture, Family, Rename

_PAIRS: dict[str, tuple[str, ...]] = {
    "attn.c_attn": ("attention.q", "attention.k", "attention.v"),
    "attn.c_proj": ("attention.o",),
    "mlp.c_fc": ("mlp.up",),
    "mlp.c_proj": ("mlp.down",),
}
_NORMS = {"ln_1": "attention_norm", "ln_2": "mlp_norm"}
_BLOCK, _THEIRS = "trunk.blocks.{i}.", "transformer.h.{i}."


def _renames() -> tuple[Rename, ...]:
    out = [
        Rename("transformer.wte.weight", ("front.tokens.weight",)),
        Rename("transformer.wpe.weight", ("front.positions.weight",)),
    ]
    for part in ("weight", "bias"):
        out.append(Rename(f"transformer.ln_f.{part}", (f"trunk.norm.{part}",)))
        for theirs, ours in _NORMS.items():
            out.append(Rename(f"{_THEIRS}{theirs}.{part}", (f"{_BLOCK}{ours}.{part}",)))
        for theirs, several in _PAIRS.items():
            names = tuple(f"{_BLOCK}{ours}.{part}" for ours in several)
            out.append(Rename(f"{_THEIRS}{theirs}.{part}", names, transposed=part == "weight"))
    return tuple(out)


def _read(theirs: Mapping[str, Any]) -> dict[str, Any]:
    drops = {key: theirs.get(key, 0.1) for key in ("attn_pdrop", "embd_pdrop", "resid_pdrop")}
    if len(set(drops.values())) > 1:
        raise ModelError(f"three dropout rates that differ: {drops}", expected="one rate for all three")
    heads, width = theirs["n_head"], theirs["n_embd"]
    return {
        "kv_heads": heads,
        "head_dim": width // heads,
        "mlp_width": theirs.get("n_inner") or 4 * width,
        "dropout": drops["attn_pdrop"],
    }


FAMILY = Family(
    name="gpt2",
    norm="layer",
    positions="learned",
    qk_norm=False,
    mlp="gelu_new",
    bias=True,
    mlp_ratio=4,
    mlp_multiple=1,
    grouped=False,
    free_head_dim=False,
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    scorer=Architecture(
        "GPT2ForSequenceClassification", ("value",), (Rename("score.weight", ("heads.value.dense.weight",)),)
    ),
    renames=_renames(),
    head="lm_head.weight",
    keys={
        "n_embd": "width",
        "n_layer": "depth",
        "n_head": "heads",
        "n_inner": "mlp_width",
        "n_positions": "context",
        "vocab_size": "vocab_size",
        "tie_word_embeddings": "tied",
        "layer_norm_epsilon": "norm_eps",
    },
    defaults={
        "n_positions": 1024,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
    },
    fixed={
        "activation_function": "gelu_new",
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
    },
    optional=frozenset({"n_inner"}),
    prefix="transformer.",
    ignored=(".attn.bias", ".attn.masked_bias"),
    more=lambda config: {
        "n_ctx": config.context,
        "attn_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
    },
    read=_read,
)
