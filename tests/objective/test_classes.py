"""Sentence and pair classification: labels, encoding, losses against torch, predictions, bad input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from exnihilo.codec import train as train_codec
from exnihilo.codec.base import Codec
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.data import collate
from exnihilo.errors import ConfigError, DataError, UsageError
from exnihilo.metrics import calibration as cal
from exnihilo.model import build
from exnihilo.model.model import Model
from exnihilo.objective import _labels, registry
from exnihilo.objective._calibrate import tuned
from exnihilo.objective._classes import Classes
from exnihilo.objective._layout import keep
from exnihilo.objective.base import Example, Item

TEXTS = ("a good day", "it was bad", "so so", "the cat sat on the mat", "very good indeed", "bad bad bad")
CLASSES = [
    {"text": t, "label": y} for t, y in zip(TEXTS, ("pos", "neg", "mid", "mid", "pos", "neg"), strict=True)
]


@pytest.fixture(scope="module")
def codec() -> Codec:
    return train_codec(CodecConfig(kind="wordpiece", vocab_size=120), [*TEXTS, "x y z"] * 3)


def ready(examples: Sequence[Example], *, pair: bool = False, length: int = 32, **options: Any) -> Classes:
    """An objective that has surveyed these examples."""
    name = "pair_classification" if pair else "sentence_classification"
    objective = registry.create(name, options, length=length)
    objective.facts = objective.survey(examples)
    assert isinstance(objective, Classes)
    return objective


def rows(items: Sequence[Item], codec: Codec, row: int, per_row: int = 1) -> dict[str, Tensor]:
    lengths = [len(np.asarray(i["tokens"])) for i in items]
    pieces = [
        [(i, 0, lengths[i]) for i in range(at, min(at + per_row, len(items)))]
        for at in range(0, len(items), per_row)
    ]
    found = collate.of_items(pieces, items, row=row, pad_id=codec.pad_id)
    return {k: torch.from_numpy(v) for k, v in found.items()}


def model_for(objective: Any, codec: Codec) -> Model:
    config = ModelConfig(
        family="bert",
        depth=2,
        width=32,
        heads=2,
        context=64,
        vocab_size=codec.vocab_size,
        labels=objective.labels,
    )
    return build(config, heads=objective.heads, seed=0).double()


def items_of(objective: Any, examples: Sequence[Example], codec: Codec) -> list[Item]:
    return [item for items in objective.encode_many(examples, codec) for item in items]


def through(objective: Any, model: Model, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    with torch.no_grad():
        hidden = model(objective.inputs(batch), objective.attention)
        return hidden, objective.outputs(model, hidden, batch)


def perfect(objective: Classes, gold: str | None, sure: float = 5.0) -> dict[str, np.ndarray]:
    return {"logits": np.array([sure if name == gold else 0.0 for name in objective.names])}


# labels -------------------------------------------------------------------------------------------


def test_names_of_labels_have_one_spelling_and_a_fixed_order():
    values = [1, 1.0, "1", "1.0", True, "true", np.int64(1), np.float32(1), " 1 "]
    assert [_labels.name_of(v) for v in values] == ["1", "1", "1", "1", "true", "true", "1", "1", "1"]
    assert _labels.order(["10", "9", "-1"]) == ["-1", "9", "10"]
    assert _labels.order(["b", "a", "10"]) == ["10", "a", "b"]


@settings(deadline=None)
@given(st.permutations(["b", "a", "c", "10", "9"]))
def test_order_of_the_rows_does_not_matter(values):
    assert _labels.survey([{"text": "x", "label": v} for v in values], "multiclass", roles=("text",))[
        "labels"
    ] == ["10", "9", "a", "b", "c"]


@settings(deadline=None)
@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.text())))
def test_any_value_is_read_or_refused(value):
    for kind in ("binary", "multiclass", "multilabel", "regression"):
        try:
            found = _labels.parse(value, kind, ",")
        except _labels.Unfit:
            continue
        if kind == "multilabel":
            assert found is None or (isinstance(found, tuple) and "" not in found)
        elif kind == "regression":
            assert found is None or math.isfinite(found)  # type: ignore[arg-type]
        else:
            assert found is None or isinstance(found, str)


def test_survey_counts_labels_and_names_what_is_skipped():
    examples = [*CLASSES, {"text": " ", "label": "pos"}, {"text": "x", "label": None}, {"label": "pos"}]
    facts = ready(examples).facts
    assert facts["labels"] == ["mid", "neg", "pos"] and facts["counts"] == {"mid": 2, "neg": 2, "pos": 2}
    assert facts["skipped"] == {"empty text": 1, "no label": 1, "no text": 1} and facts["examples"] == 6


def test_three_rows_are_enough():
    objective = ready(CLASSES[:3])
    assert objective.labels == 3 and ready(CLASSES[:3], kind="multilabel").labels == 3


def test_declared_labels_set_the_order_and_refuse_others():
    objective = ready(CLASSES, labels=["pos", "neg", "mid", "never"])
    assert objective.names == ["pos", "neg", "mid", "never"] and objective.facts["counts"]["never"] == 0
    with pytest.raises(DataError, match="row 3.*'mid' is not in options.labels"):
        ready(CLASSES, labels=["pos", "neg"])


@pytest.mark.parametrize(
    "options,label,message",
    [
        ({}, "2.75", "row 7.*kind=regression"),
        ({}, ["pos"], "row 7.*kind=multilabel"),
        ({"kind": "binary"}, "x", "4 classes.*says two"),
        ({"kind": "regression"}, "pos", "6 labels do not fit.*row 1.*and 1 more|7 labels do not fit"),
        ({"kind": "multilabel"}, [["a"]], "row 7"),
    ],
)
def test_labels_that_do_not_fit_the_declared_kind_are_refused_with_their_rows(options, label, message):
    with pytest.raises(DataError, match=message):
        ready([*CLASSES, {"text": "x", "label": label}], **options)


def test_one_class_only_and_nothing_of_use_are_clear_errors():
    same = [{"text": t, "label": "1"} for t in TEXTS]
    for kind in ("multiclass", "binary", "multilabel", "regression"):
        with pytest.raises(DataError, match="same label|every label"):
            ready(same, kind=kind)
        with pytest.raises(DataError, match="no training row has a text and a label.*empty text: 6"):
            ready([{"text": "", "label": "1"}] * 6, kind=kind)


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "regression", "label_smoothing": 0.1},
        {"kind": "regression", "class_weights": "balanced"},
        {"kind": "multiclass", "threshold": "f1"},
        {"kind": "multiclass", "positive": "a"},
        {"kind": "binary", "separator": ","},
        {"kind": "binary", "labels": ["a", "b", "c"]},
        {"labels": ["a", "a"]},
        {"class_weights": {"a": -1.0}},
        {"kind": "guess"},
    ],
)
def test_options_without_a_meaning_are_refused(options):
    with pytest.raises(ConfigError):
        registry.create("sentence_classification", options)


def test_options_that_name_no_label_are_refused():
    with pytest.raises(ConfigError, match="did you mean 'pos'"):
        ready(CLASSES, class_weights={"poss": 2.0})
    objective = ready(CLASSES[:2], kind="binary", positive="good")
    with pytest.raises(ConfigError, match="positive='good'"):
        objective.score([{"label": "pos", "probabilities": {"pos": 1.0, "neg": 0.0}}], CLASSES[:1])


def test_labels_are_not_used_before_they_are_known(codec: Codec):
    for options in ({}, {"kind": "regression"}):
        with pytest.raises(UsageError, match="survey"):
            registry.create("sentence_classification", options).encode({"text": "x", "label": "1"}, codec)


# encoding -----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 24))
def test_the_longer_text_is_cut_first_token_by_token(a, b, room):
    left, right = a, b
    while left + right > room:
        left, right = (left - 1, right) if left > right else (left, right - 1)
    assert keep([a, b], room) == [left, right]
    assert keep([a], room) == [min(a, room)] and keep([a, b], None) == [a, b]


def test_encoding_has_special_tokens_segments_label_and_cut(codec: Codec):
    example = {"a": "the cat sat on the mat", "b": "bad", "label": "x"}
    objective = ready([example, {**example, "label": "y"}], pair=True, length=8)
    item = items_of(objective, [example], codec)[0]
    a, b = codec.encode(example["a"]), codec.encode("bad")
    tokens = [codec.cls_id, *a[: 5 - len(b)], codec.sep_id, *b, codec.sep_id]
    assert np.asarray(item["tokens"]).tolist() == tokens and len(tokens) == 8
    assert item["cut"] == len(a) - (5 - len(b)) > 0
    assert np.asarray(item["segment"]).tolist() == [0] * (7 - len(b)) + [1] * (len(b) + 1)
    assert np.asarray(item["label"]).tolist() == [0] + [-100] * 7


def test_encoding_equals_the_tokenizers_own(codec: Codec):
    pair = {"a": "the cat sat", "b": "it was very bad"}
    objective = ready([{**pair, "label": "x"}, {**pair, "label": "y"}], pair=True)
    item = items_of(objective, [pair], codec)[0]
    want = codec.tokenizer.encode(pair["a"], pair["b"])
    assert np.asarray(item["tokens"]).tolist() == want.ids
    assert np.asarray(item["segment"]).tolist() == want.type_ids and item["cut"] == 0
    alone = items_of(ready(CLASSES), [{"text": pair["b"]}], codec)[0]
    assert np.asarray(alone["tokens"]).tolist() == codec.tokenizer.encode(pair["b"]).ids
    assert "segment" not in alone


def test_nfd_emoji_and_mixed_line_ends_are_encoded(codec: Codec):
    examples = [
        {"text": t, "label": "pos"} for t in ("cafe\u0301 \U0001f98a", "a\r\nb\rc\n", "\ud800 x", "\u6f22")
    ]
    items = items_of(ready(CLASSES), examples, codec)
    assert len(items) == 4 and all(len(np.asarray(i["tokens"])) > 2 for i in items)


def test_without_a_label_the_column_is_empty_and_bad_rows_give_no_item(codec: Codec):
    objective = ready(CLASSES)
    found = objective.encode_many(
        [{"text": "x"}, {"text": "x", "label": None}, {"text": "", "label": "pos"},
         {"text": "x", "label": "new"}, {"text": "x" * 10, "label": "pos", "_begin": False}],
        codec,
    )  # fmt: skip
    assert [len(f) for f in found] == [1, 0, 0, 1, 0]
    assert all((np.asarray(f[0]["label"]) == -100).all() for f in (found[0], found[3]))


def test_a_bad_label_outside_training_is_named(codec: Codec):
    objective = ready([{"text": "x", "label": i} for i in range(3)], kind="regression")
    with pytest.raises(DataError, match="row 5.*no number"):
        objective.encode_many([{"text": "x", "label": "good", "_index": 4}], codec)


def test_a_text_of_a_megabyte_is_cut_and_counted(codec: Codec):
    objective = ready(CLASSES)
    item = items_of(objective, [{"text": "the cat " * (1 << 17), "label": "mid"}], codec)[0]
    assert len(np.asarray(item["tokens"])) == 32 and int(item["cut"]) > 200_000


def test_a_row_too_short_for_text_is_refused():
    with pytest.raises(ConfigError, match="5 or more"):
        registry.create("pair_classification", length=4)


# losses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["none", "balanced", {"pos": 3.0}])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_equals_torchs_mean(codec: Codec, weights, smoothing):
    examples = CLASSES[:5]  # pos 2, neg 1, mid 2
    objective = ready(examples, class_weights=weights, label_smoothing=smoothing)
    model = model_for(objective, codec)
    batch = rows(items_of(objective, examples, codec), codec, 32, per_row=2)
    _, outputs = through(objective, model, batch)
    gold = torch.tensor([objective.names.index(str(e["label"])) for e in examples])
    weight = {
        "none": None,
        "balanced": torch.tensor([5 / 6, 5 / 3, 5 / 6]),
    }.get(str(weights), torch.tensor([1.0, 1.0, 3.0]))
    want = F.cross_entropy(
        outputs["logits"], gold, None if weight is None else weight.double(), label_smoothing=smoothing
    )
    found = objective.sums(model, batch)["ce"] / objective.counts(batch)["ce"]
    torch.testing.assert_close(found, want)


def test_balanced_weights_equal_scikit_learns():
    utils = pytest.importorskip("sklearn.utils.class_weight", reason="scikit-learn is not installed")
    objective = ready(CLASSES[:5], class_weights="balanced")
    gold = [e["label"] for e in CLASSES[:5]]
    want = utils.compute_class_weight("balanced", classes=np.array(objective.names), y=gold)
    assert objective._weights(torch.device("cpu"), torch.float64).numpy() == pytest.approx(want)


@pytest.mark.parametrize("labels", [3, 31, 32, 130])
def test_binary_cross_entropy_equals_torchs_mean_for_any_number_of_labels(codec: Codec, labels):
    rng = np.random.default_rng(labels)
    names = [f"L{i:03}" for i in range(labels)]
    held = rng.random((6, labels)) < 0.3
    held[0], held[1] = True, False  # all, none
    examples = [
        {"text": t, "label": [n for n, h in zip(names, row, strict=True) if h]}
        for t, row in zip(TEXTS, held, strict=True)
    ]
    objective = ready(examples, kind="multilabel", label_smoothing=0.1)
    model = model_for(objective, codec)
    batch = rows(items_of(objective, examples, codec), codec, 32, per_row=3)
    assert objective.columns >= set(batch) - {"cut"}
    _, outputs = through(objective, model, batch)
    target = torch.from_numpy(held).double() * 0.9 + 0.05
    want = F.binary_cross_entropy_with_logits(outputs["logits"], target)
    torch.testing.assert_close(objective.sums(model, batch)["bce"] / objective.counts(batch)["bce"], want)


def test_squared_error_is_of_standardised_numbers(codec: Codec):
    numbers = [0.0, 2.5, 5.0, 3.0, 1.0, 4.5]
    examples = [{"a": t, "b": "x y", "label": str(v)} for t, v in zip(TEXTS, numbers, strict=True)]
    objective = ready(examples, pair=True, kind="regression")
    model = model_for(objective, codec)
    batch = rows(items_of(objective, examples, codec), codec, 32)
    _, outputs = through(objective, model, batch)
    z = (np.array(numbers) - np.mean(numbers)) / np.std(numbers)
    want = F.mse_loss(outputs["logits"][:, 0], torch.from_numpy(z))
    torch.testing.assert_close(
        objective.sums(model, batch)["mse"] / objective.counts(batch)["mse"], want, rtol=1e-6, atol=1e-6
    )
    predictions = [
        objective.decode(e, [], [{"logits": v}]) for e, v in zip(examples, z[:, None], strict=True)
    ]
    assert [p["score"] for p in predictions] == pytest.approx(numbers)
    found = objective.score(predictions, examples)
    assert found["pearson"] == pytest.approx(1.0) and found["mse"] == pytest.approx(0.0)
    assert objective.majority(examples)["pearson"] == 0.0
    assert objective.majority(examples)["mse"] == pytest.approx(np.var(numbers))


def test_a_target_of_minus_100_deviations_is_kept(codec: Codec):
    objective = ready([{"text": "x", "label": i} for i in (-1, 1)], kind="regression")
    item = items_of(objective, [{"text": "x", "label": -100}], codec)[0]
    assert -100 < np.asarray(item["label"])[0] < -99.99


def test_unseen_labels_and_padding_give_no_gradient(codec: Codec):
    objective = ready(CLASSES)
    model = model_for(objective, codec)
    seen = items_of(objective, CLASSES, codec)
    unseen = items_of(objective, [{"text": "so", "label": "new"}], codec)
    losses = [
        objective.sums(model, rows(items, codec, 32, n))["ce"]
        for items, n in ((seen, 1), ([*seen, *unseen], 4))
    ]
    torch.testing.assert_close(losses[0], losses[1])
    nothing = objective.sums(model, rows(unseen, codec, 32))["ce"]
    nothing.backward()
    assert nothing.item() == 0 and all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_alone_packed_and_reordered_outputs_are_the_same_and_segments_matter(codec: Codec):
    examples = [
        {"a": t, "b": u, "label": str(i)} for i, (t, u) in enumerate(zip(TEXTS, TEXTS[::-1], strict=True))
    ]
    objective = ready(examples, pair=True)
    model = model_for(objective, codec)
    items = items_of(objective, examples, codec)
    want = through(objective, model, rows(items, codec, 32))[1]["logits"]
    for order, row, per_row in (([0, 1, 2, 3, 4, 5], 64, 3), ([4, 2, 0, 1, 5, 3], 64, 2)):
        found = through(objective, model, rows([items[i] for i in order], codec, row, per_row))[1]["logits"]
        torch.testing.assert_close(found, want[order], atol=1e-10, rtol=1e-8)
    batch = rows(items, codec, 32)
    swapped = {**batch, "segment": 1 - batch["segment"]}
    assert (through(objective, model, swapped)[1]["logits"] - want).abs().max() > 1e-4


# predictions --------------------------------------------------------------------------------------


def test_decode_score_and_majority_of_classes():
    objective = ready([*CLASSES, {"text": "x", "label": "mid"}])
    predictions = [objective.decode(e, [], [perfect(objective, str(e["label"]))]) for e in CLASSES]
    assert predictions[0]["label"] == "pos" and sum(
        predictions[0]["probabilities"].values()
    ) == pytest.approx(1)
    found = objective.score(predictions, CLASSES)
    assert found["accuracy"] == found["macro_f1"] == found["mcc"] == 1.0
    base = objective.majority(CLASSES)
    assert base.keys() == found.keys() and base["accuracy"] == pytest.approx(1 / 3) and base["mcc"] == 0.0
    assert (objective.confusion(predictions, CLASSES) == 2 * np.eye(3)).all()


def test_unseen_labels_are_mistakes_counted_and_named(capsys: pytest.CaptureFixture[str]):
    objective = ready(CLASSES)
    examples = [
        *CLASSES,
        {"text": "x", "label": "new"},
        {"text": "y", "label": "new"},
        {"text": "z", "label": None},
    ]
    predictions = [objective.decode(e, [], [perfect(objective, str(e["label"]))]) for e in examples]
    capsys.readouterr()
    found = objective.score(predictions, examples)
    assert found["accuracy"] == pytest.approx(6 / 8) and found["unseen"] == 2 and found["unlabelled"] == 1
    assert "'new' (2)" in capsys.readouterr().err
    several = ready(CLASSES, kind="multilabel")
    said = [
        several.decode(e, [], [{"logits": perfect(several, str(e["label"]))["logits"] - 2}]) for e in examples
    ]
    found = several.score(said, examples)
    assert found["exact_match"] == pytest.approx(6 / 8) and found["unseen"] == 2
    with pytest.raises(DataError, match="nothing to score"):
        objective.score(predictions[:1], [{"text": "x"}])


def test_several_labels_by_their_own_thresholds():
    objective = ready(CLASSES, kind="multilabel", separator=",")
    objective.facts["thresholds"] = {"mid": 0.9, "neg": 0.1, "pos": 0.5}
    z = {"logits": np.array([1.0, -1.0, 0.0])}
    assert objective.decode({}, [], [z])["labels"] == ["neg", "pos"]
    assert objective.majority([{"text": "x", "label": "pos,mid"}])["micro_f1"] == 0.0
    assert _labels.parse("pos, mid,", "multilabel", ",") == ("mid", "pos")
    assert _labels.parse("", "multilabel") == () and _labels.parse([], "multilabel") == ()


def test_an_example_without_a_text_is_a_named_error():
    with pytest.raises(DataError, match="without a text"):
        ready(CLASSES).decode({}, [], [])


def test_binary_threshold_moves_the_label_and_its_figures_are_of_the_positive_class():
    examples = [{"text": t, "label": y} for t, y in zip(TEXTS, "010111", strict=True)]
    objective = ready(examples, kind="binary")
    z = {"logits": np.array([0.0, 0.0])}
    objective.facts["threshold"] = 0.6
    assert objective.decode({}, [], [z])["label"] == "0"
    objective.facts["threshold"] = 0.4
    assert objective.decode({}, [], [z])["label"] == "1"
    other = ready(examples, kind="binary", positive=0)
    assert other.positive == 0
    base = objective.majority(examples)
    assert base["recall"] == 1.0 and base["precision"] == pytest.approx(4 / 6) and base["auc"] == 0.5
    assert other.majority(examples)["recall"] == 0.0


@pytest.mark.parametrize("kind", ["multiclass", "binary", "multilabel"])
def test_calibration_lowers_the_calibration_error_and_never_the_ranking(kind):
    rng = np.random.default_rng(0)
    names = ["a", "b"] if kind == "binary" else ["a", "b", "c"]
    z = rng.normal(0, 2, (600, len(names)))
    p = cal.sigmoid(z) if kind == "multilabel" else cal.softmax(z)
    if kind == "multilabel":
        gold: list[Any] = [
            [n for n, h in zip(names, row, strict=True) if h] for row in rng.random(z.shape) < p
        ]
    else:
        gold = [names[rng.choice(len(names), p=row)] for row in p]
    examples = [{"text": "x", "label": g} for g in gold]
    objective = ready(examples, kind=kind)
    outputs = [[{"logits": row * 4}] for row in z]  # four times too sure
    facts = objective.calibrate(examples, [[{}]] * 600, outputs)
    assert facts["temperature"] == pytest.approx(4.0, rel=0.15)
    assert facts["ece_after"] < facts["ece_before"] / 3 and facts["calibrated_on"] == 600

    def scored() -> dict[str, float]:
        said = [objective.decode(e, [], o) for e, o in zip(examples, outputs, strict=True)]
        return objective.score(said, examples)

    before = scored()
    objective.facts |= facts
    after = scored()
    assert after["ece"] == pytest.approx(facts["ece_after"]) and before["ece"] == pytest.approx(
        facts["ece_before"]
    )
    assert after[objective.main_metric] >= before[objective.main_metric]


def test_few_examples_calibrate_nothing():
    objective = ready(CLASSES)
    facts = objective.calibrate(CLASSES, [[{}]] * 6, [[perfect(objective, str(e["label"]))] for e in CLASSES])
    assert facts["temperature"] == 1.0
    assert objective.calibrate([{"text": "x"}], [[{}]], [[perfect(objective, None)]]) == {}


def test_a_threshold_is_kept_only_where_it_helps_on_the_other_half():
    rng = np.random.default_rng(0)
    gold = rng.random(400) < 0.5
    assert tuned(rng.random(400), gold, "accuracy") == 0.5  # noise: a tuned cut would not hold
    shifted = np.clip(0.2 + 0.1 * gold + rng.normal(0, 0.02, 400), 0, 1)
    assert 0.2 < tuned(shifted, gold, "f1") < 0.3
    assert tuned(shifted, gold, None) == tuned(shifted[:10], gold[:10], "f1") == 0.5
