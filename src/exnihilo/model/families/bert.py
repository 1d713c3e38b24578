"""BERT (Devlin et al. 2018, arXiv 1810.04805): token, position and segment embeddings, all learned, then a
norm; blocks that end in norms; a pooler; heads for masked tokens and next sentences. Tensor names:
transformers' `BertForPreTraining` and its kin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exnihilo.errors import ModelError
from exnihilo.model.family import Architecture, Family, Rename

_BLOCK, _THEIRS = "trunk.blocks.{i}.", "bert.encoder.layer.{i}."
_PAIRS = {
    "attention.self.query": "attention.q",
    "attention.self.key": "attention.k",
    "attention.self.value": "attention.v",
    "attention.output.dense": "attention.o",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "mlp.up",
    "output.dense": "mlp.down",
    "output.LayerNorm": "mlp_norm",
}
_PREDICT = "cls.predictions."


def _both(theirs: str, ours: str) -> tuple[Rename, ...]:
    return tuple(Rename(f"{theirs}.{part}", (f"{ours}.{part}",)) for part in ("weight", "bias"))


_TRUNK = (
    Rename("bert.embeddings.word_embeddings.weight", ("front.tokens.weight",)),
    Rename("bert.embeddings.position_embeddings.weight", ("front.positions.weight",)),
    Rename("bert.embeddings.token_type_embeddings.weight", ("front.segments.weight",)),
    *_both("bert.embeddings.LayerNorm", "front.norm"),
    *(rename for a, b in _PAIRS.items() for rename in _both(f"{_THEIRS}{a}", f"{_BLOCK}{b}")),
)
_POOLER = _both("bert.pooler.dense", "pooler.dense")
_MLM = (
    *_both(f"{_PREDICT}transform.dense", "heads.mlm.own.dense"),
    *_both(f"{_PREDICT}transform.LayerNorm", "heads.mlm.own.norm"),
    Rename(f"{_PREDICT}bias", ("heads.mlm.bias",)),
    Rename(f"{_PREDICT}decoder.weight", ("heads.mlm.weight",)),
    Rename(f"{_PREDICT}decoder.bias", ("heads.mlm.bias",), twin=True),
)
_NEXT = _both("cls.seq_relationship", "heads.next.dense")


def _read(theirs: Mapping[str, Any]) -> dict[str, Any]:
    drops = {key: theirs.get(key, 0.1) for key in ("hidden_dropout_prob", "attention_probs_dropout_prob")}
    own = theirs.get("classifier_dropout")
    if own is not None:
        drops["classifier_dropout"] = own
    if len(set(drops.values())) > 1:
        raise ModelError(f"dropout rates that differ: {drops}", expected="one rate for all")
    heads, width = theirs["num_attention_heads"], theirs["hidden_size"]
    return {"kv_heads": heads, "head_dim": width // heads, "dropout": drops["hidden_dropout_prob"]}


FAMILY = Family(
    name="bert",
    norm="layer",
    positions="learned",
    qk_norm=False,
    mlp="gelu",
    bias=True,
    mlp_ratio=4,
    mlp_multiple=1,
    grouped=False,
    free_head_dim=False,
    encoder=True,
    post_norm=True,
    embedding_norm=True,
    pooler="tanh",
    segments=2,
    norm_eps=1e-12,
    model_type="bert",
    architecture="BertForPreTraining",
    architectures=(
        Architecture("BertForPreTraining", ("mlm", "next"), (*_POOLER, *_MLM, *_NEXT)),
        Architecture("BertForMaskedLM", ("mlm",), _MLM),
        Architecture("BertForNextSentencePrediction", ("next",), (*_POOLER, *_NEXT)),
        Architecture(
            "BertForSequenceClassification",
            ("classes",),
            (*_POOLER, *_both("classifier", "heads.classes.dense")),
        ),
        Architecture("BertForTokenClassification", ("tags",), _both("classifier", "heads.tags.dense")),
        Architecture("BertForQuestionAnswering", ("span",), _both("qa_outputs", "heads.span.dense")),
        Architecture("BertModel", ("embedding",), _POOLER, bare=True),
    ),
    scorer=Architecture(
        "BertForSequenceClassification", ("value",), (*_POOLER, *_both("classifier", "heads.value.dense"))
    ),
    renames=_TRUNK,
    head=f"{_PREDICT}decoder.weight",
    keys={
        "hidden_size": "width",
        "num_hidden_layers": "depth",
        "num_attention_heads": "heads",
        "intermediate_size": "mlp_width",
        "vocab_size": "vocab_size",
        "max_position_embeddings": "context",
        "type_vocab_size": "segments",
        "layer_norm_eps": "norm_eps",
        "tie_word_embeddings": "tied",
    },
    defaults={
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "tie_word_embeddings": True,
    },
    fixed={
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
    },
    prefix="bert.",
    old={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
    ignored=("embeddings.position_ids",),
    more=lambda config: {
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
        "classifier_dropout": None,
    },
    read=_read,
)
