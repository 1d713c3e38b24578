"""Labels in config.json: how many outputs a classifier has, what they are called, and what its loss is.

words(config, architecture, objective)   # {"id2label": {...}, "label2id": {...}, "problem_type": ...}
fields(config_json, architecture)        # {"labels": 3, ...} for `ModelConfig`
objective(config_json)                   # what a folder of transformers was trained for, as objective.json
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from exnihilo.config import ModelConfig
from exnihilo.errors import ModelError
from exnihilo.model.family import Architecture, find, names

LABELLED = frozenset({"classes", "tags"})
SCORE = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "problem_type": "regression"}
_PROBLEMS = {
    "binary": "single_label_classification",
    "multiclass": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
}
_KINDS = {
    "single_label_classification": "multiclass",
    "multi_label_classification": "multilabel",
    "regression": "regression",
}


def words(
    config: ModelConfig, architecture: Architecture | None, objective: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Keys of config.json that name the outputs of a classifier; nothing for other models."""
    if architecture is not None and architecture.outputs == ("value",):
        return dict(SCORE)
    if architecture is None or not LABELLED & set(architecture.outputs) or config.labels is None:
        return {}
    facts = (objective or {}).get("facts") or {}
    options = (objective or {}).get("options") or {}
    named = facts.get("labels")
    if not isinstance(named, (list, tuple)) or len(named) != config.labels:
        named = [f"LABEL_{i}" for i in range(config.labels)]
    out: dict[str, Any] = {
        "id2label": {str(i): str(name) for i, name in enumerate(named)},
        "label2id": {str(name): i for i, name in enumerate(named)},
    }
    if "classes" in architecture.outputs:
        kind = facts.get("kind", options.get("kind"))
        if kind is None and (objective or {}).get("objective") == "rerank":
            kind = "regression" if config.labels == 1 else "multiclass"
        if kind in _PROBLEMS:
            out["problem_type"] = _PROBLEMS[kind]
    return out


def fields(theirs: Mapping[str, Any], architecture: Architecture | None) -> dict[str, Any]:
    """Heads, labels and CRF of a config.json; what this project wrote itself comes first."""
    own = theirs.get("exnihilo") or {}
    if architecture is None:
        return {"outputs": own["outputs"]} if own.get("outputs") else {}
    if architecture.outputs == ("value",) and _number(theirs) != 1:
        raise ModelError(
            f"config.json: {_number(theirs)} labels of a decoder",
            expected="one: a score",
            next="use an encoder",
        )
    out: dict[str, Any] = {"outputs": own.get("outputs") or architecture.outputs}
    if own.get("labels") is not None:
        out["labels"] = own["labels"]
    elif LABELLED & set(architecture.outputs):
        out["labels"] = _number(theirs)
    if own.get("crf"):
        out["crf"] = True
    if own.get("compares"):
        out["compares"] = True
    if own.get("straight"):
        out["straight"] = own["straight"]
    return out


def _number(theirs: Mapping[str, Any]) -> int:
    named, number = theirs.get("id2label"), theirs.get("num_labels")
    count = len(named) if isinstance(named, Mapping) else 2 if number is None else number
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ModelError(f"config.json: num_labels is {number!r}", expected="a whole number from 1")
    if isinstance(named, Mapping) and number is not None and number != count:
        raise ModelError(
            f"config.json: num_labels is {number}, id2label names {count}", expected="the same number"
        )
    return count


def names_of(theirs: Mapping[str, Any]) -> list[str] | None:
    """The names of the outputs in their order; None where config.json does not name them all."""
    named = theirs.get("id2label")
    if not isinstance(named, Mapping):
        return None
    found = [named.get(str(i), named.get(i)) for i in range(len(named))]
    return None if None in found else [str(name) for name in found]


def objective(theirs: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a folder without objective.json was trained for, by its class; None where that does not say it.

    A classifier of transformers reads texts and pairs alike: it becomes a `sentence_classification`.
    """
    listed = (theirs.get("architectures") or [""])[0]
    families = list(map(find, names()))
    length = theirs.get("max_position_embeddings", theirs.get("n_positions"))
    if any(f.scorer is not None and f.scorer.name == listed and not f.architectures for f in families):
        return {"objective": "reward_model", "options": {}, "length": length, "facts": {}}
    found = [a for f in families for a in f.architectures if a.name == listed]
    if not found:
        return None
    made: dict[str, Any] = {"options": {}, "length": length, "facts": {}}
    outputs = found[0].outputs
    task = next((f.task for f in families if f.task and found[0] in f.architectures), None)
    if task is not None:
        told = task(theirs)
        kind = _KINDS.get(str(theirs.get("problem_type")), "multiclass")
        known = {"kind": kind, "labels": names_of(theirs)}
        return {**made, **told, "options": {**told["options"], "kind": kind}, "facts": known}
    if outputs == ("classes",):
        kind = _KINDS.get(
            str(theirs.get("problem_type")), "regression" if _number(theirs) == 1 else "multiclass"
        )
        facts = {"kind": kind} if kind == "regression" else {"kind": kind, "labels": names_of(theirs)}
        return {"objective": "sentence_classification", **made, "options": {"kind": kind}, "facts": facts}
    if outputs == ("tags",):
        return {"objective": "token_tagging", **made, "facts": {"labels": names_of(theirs)}}
    if outputs == ("span",):
        return {"objective": "span_qa", **made}
    if "mlm" in outputs:
        return {"objective": "masked_lm", **made}
    return None


def listed(items: Iterable[str]) -> str:
    """Some names, and how many more there are."""
    found = sorted(items)
    return ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")
