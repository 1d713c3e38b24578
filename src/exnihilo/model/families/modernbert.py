"""ModernBERT (Warner et al. 2024, arXiv 2412.13663): rotary positions, pre-norm without biases, GeGLU, one
global layer in three and local ones between; one transform before all heads. No segments. Tensor names:
transformers' `ModernBertForMaskedLM` and its kin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exnihilo.config import ModelConfig
from exnihilo.errors import ModelError
from exnihilo.model.family import Architecture, Family, Rename

_BLOCK, _THEIRS = "trunk.blocks.{i}.", "model.layers.{i}."
_TRUNK = (
    Rename("model.embeddings.tok_embeddings.weight", ("front.tokens.weight",)),
    Rename("model.embeddings.norm.weight", ("front.norm.weight",)),
    Rename(f"{_THEIRS}attn_norm.weight", (f"{_BLOCK}attention_norm.weight",), first=1),
    Rename(f"{_THEIRS}attn.Wqkv.weight", tuple(f"{_BLOCK}attention.{x}.weight" for x in "qkv")),
    Rename(f"{_THEIRS}attn.Wo.weight", (f"{_BLOCK}attention.o.weight",)),
    Rename(f"{_THEIRS}mlp_norm.weight", (f"{_BLOCK}mlp_norm.weight",)),
    Rename(f"{_THEIRS}mlp.Wi.weight", (f"{_BLOCK}mlp.gate.weight", f"{_BLOCK}mlp.up.weight")),
    Rename(f"{_THEIRS}mlp.Wo.weight", (f"{_BLOCK}mlp.down.weight",)),
    Rename("model.final_norm.weight", ("trunk.norm.weight",)),
)
_HEAD = (
    Rename("head.dense.weight", ("pooler.dense.weight",)),
    Rename("head.norm.weight", ("pooler.norm.weight",)),
)
_DROPS = ("attention_dropout", "embedding_dropout", "mlp_dropout", "classifier_dropout")
_KINDS = ("sliding_attention", "full_attention")


def _classifier(name: str, output: str) -> Architecture:
    pairs = (Rename(f"classifier.{x}", (f"heads.{output}.dense.{x}",)) for x in ("weight", "bias"))
    return Architecture(name, (output,), (*_HEAD, *pairs))


def _layers(config: ModelConfig) -> list[str]:
    every = config.global_every or 1
    return [_KINDS[i % every == 0] for i in range(config.depth)]


def _more(config: ModelConfig) -> dict[str, Any]:
    """Local attention and rotary bases in the words of transformers 4 and 5 both."""
    thetas = {"full_attention": config.rope_theta, "sliding_attention": config.local_theta}
    return {
        **dict.fromkeys(_DROPS, config.dropout),
        "global_attn_every_n_layers": config.global_every,
        "global_rope_theta": config.rope_theta,
        "local_rope_theta": config.local_theta,
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()
        },
        "layer_types": _layers(config),
        "initializer_cutoff_factor": 2.0,
    }


def _read(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Layers in a pattern, rotary bases from either form, one rate of dropout; the rest is refused."""
    heads, width, depth = (theirs[k] for k in ("num_attention_heads", "hidden_size", "num_hidden_layers"))
    drops = {key: theirs.get(key) or 0.0 for key in _DROPS}
    if len(set(drops.values())) > 1 and "dropout" not in (theirs.get("exnihilo") or {}):
        raise ModelError(f"dropout rates that differ: {drops}", expected="one rate for all")
    types = theirs.get("layer_types")
    every = theirs.get("global_attn_every_n_layers", 3)
    if types is not None:
        unknown = sorted({str(kind) for kind in types} - set(_KINDS))
        if unknown:
            raise ModelError(f"layer_types has {', '.join(unknown)}", expected=" or ".join(_KINDS))
        further = [i for i, kind in enumerate(types) if kind == "full_attention" and i]
        said = theirs.get("global_attn_every_n_layers")
        told = [said] if isinstance(said, int) and said > 0 else []
        steps = [*told, further[0] if further else max(len(types), 1)]
        fits = [n for n in steps if list(types) == [_KINDS[i % n == 0] for i in range(depth)]]
        every = fits[0] if fits else None
        if every is None:
            raise ModelError(
                f"layer_types is {', '.join(types)}",
                expected=f"{depth} layers, a global one first and at equal distances",
            )
    given = theirs.get("rope_parameters") or {}
    thetas = {}
    for kind, old, default in (
        ("full_attention", "global_rope_theta", 160_000.0),
        ("sliding_attention", "local_rope_theta", 10_000.0),
    ):
        one = given.get(kind) or {}
        if not isinstance(one, Mapping):
            raise ModelError(f"rope_parameters: {kind} is {one!r:.60}", expected="a JSON object")
        if one.get("rope_type", "default") != "default":
            raise ModelError(
                f"rope_parameters: {kind}: rope_type is {one['rope_type']!r}",
                expected="rope_type 'default' (no scaling)",
            )
        thetas[kind] = one.get("rope_theta") or theirs.get(old) or default
    if theirs.get("rope_scaling"):
        raise ModelError(f"rope_scaling is {theirs['rope_scaling']}", expected="none (no scaling)")
    return {
        "kv_heads": heads,
        "head_dim": width // heads,
        "dropout": drops["attention_dropout"],
        "global_every": every,
        "rope_theta": thetas["full_attention"],
        "local_theta": thetas["sliding_attention"],
    }


FAMILY = Family(
    name="modernbert",
    norm="layer",
    positions="rotary",
    qk_norm=False,
    mlp="geglu",
    bias=False,
    mlp_ratio=1.5,
    mlp_multiple=64,
    grouped=False,
    free_head_dim=False,
    encoder=True,
    norm_bias=False,
    first_norm=False,
    embedding_norm=True,
    pooler="transform",
    norm_eps=1e-5,
    rope_theta=160_000.0,
    window=128,
    global_every=3,
    local_theta=10_000.0,
    model_type="modernbert",
    architecture="ModernBertForMaskedLM",
    architectures=(
        Architecture(
            "ModernBertForMaskedLM",
            ("mlm",),
            (
                *_HEAD,
                Rename("decoder.bias", ("heads.mlm.bias",)),
                Rename("decoder.weight", ("heads.mlm.weight",)),
            ),
        ),
        _classifier("ModernBertForSequenceClassification", "classes"),
        _classifier("ModernBertForTokenClassification", "tags"),
        _classifier("ModernBertForQuestionAnswering", "span"),
        Architecture("ModernBertModel", ("embedding",), bare=True),
    ),
    scorer=_classifier("ModernBertForSequenceClassification", "value"),
    renames=_TRUNK,
    head="decoder.weight",
    keys={
        "hidden_size": "width",
        "num_hidden_layers": "depth",
        "num_attention_heads": "heads",
        "intermediate_size": "mlp_width",
        "vocab_size": "vocab_size",
        "max_position_embeddings": "context",
        "local_attention": "window",
        "norm_eps": "norm_eps",
        "tie_word_embeddings": "tied",
    },
    defaults={
        "max_position_embeddings": 8192,
        "local_attention": 128,
        "norm_eps": 1e-5,
        "tie_word_embeddings": True,
    },
    fixed={
        "hidden_activation": "gelu",
        "attention_bias": False,
        "mlp_bias": False,
        "norm_bias": False,
        "decoder_bias": True,
        "classifier_pooling": "cls",
        "classifier_bias": False,
        "classifier_activation": "gelu",
        "sparse_prediction": False,
    },
    prefix="model.",
    ignored=("rotary_emb.inv_freq",),
    more=_more,
    read=_read,
)
