"""Tags to tokens and back without loss, the loss against plain cross-entropy and the chain, odd rows."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo import codec as codecs
from exnihilo.codec.base import Codec
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.errors import ConfigError, DataError
from exnihilo.metrics import spans as metrics
from exnihilo.model import build
from exnihilo.objective import _tag_path, _tags, registry
from exnihilo.objective.pieces import IGNORE
from exnihilo.objective.token_tagging import TokenTagging

TEXTS = ["The red fox of New York saw Mia in Basel, and Mia saw the fox. Café 漢字 🦊 e\u0301.\n"] * 3
WORDS = [
    "fox",
    "Mia",
    "New",
    "York",
    "e\u0301te\u0301",
    "漢字",
    "🦊",
    "antidisestablishment",
    ".",
    "\u200b",
    "İ",
    "10 000",
]
BIO = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
TRAIN = [
    {"words": ["Mia", "saw", "New", "York", "."], "tags": ["B-PER", "O", "B-LOC", "I-LOC", "O"]},
    {"words": ["The", "fox", "saw", "Mia"], "tags": ["O", "O", "O", "B-PER"]},
    {"words": ["Mia", "saw"], "tags": ["B-PER", "O"]},
]


@pytest.fixture(scope="module")
def made() -> dict[str, Codec]:
    out = {}
    for kind in ("bpe", "bytes", "chars", "wordpiece"):
        config = CodecConfig(kind=kind, vocab_size=400, lowercase=kind == "wordpiece")  # type: ignore[arg-type]
        out[kind] = codecs.train(config, TEXTS)
    return out


def tagger(examples=TRAIN, length: int | None = 64, **options: Any) -> TokenTagging:
    objective = registry.create("token_tagging", options, length=length)
    again = registry.create("token_tagging", options, length=length, facts=objective.survey(examples))
    assert isinstance(again, TokenTagging)
    return again


def perfect(objective: TokenTagging, example: dict, codec: Codec) -> dict[str, Any]:
    """What a model that knows the labels of its training items would lead to."""
    C = objective.labels or 0
    gold, asked = objective.encode(example, codec), objective.query(example, codec)
    outputs = []
    for known, blank in zip(gold, asked, strict=True):
        assert np.array_equal(known["tokens"], blank["tokens"]) and (np.asarray(blank["tag"]) == IGNORE).all()
        tag = np.asarray(known["tag"])
        logits = np.random.default_rng(0).normal(size=(len(tag), C))
        at = np.flatnonzero(tag != IGNORE)
        logits[at] = 0.0
        logits[at, tag[at]] = 9.0
        outputs.append({"tags": logits.astype(np.float32)})
        if objective.config.crf:
            outputs[-1]["chain"] = np.zeros((C + 2, C), np.float32)
    return objective.decode({k: v for k, v in example.items() if k not in ("tags", "spans")}, asked, outputs)


def random_spans(draw, n: int) -> list[tuple[str, int, int]]:
    cuts = sorted(draw(st.sets(st.integers(0, n), max_size=8)))
    kinds = draw(st.lists(st.sampled_from(["PER", "LOC", "_", ""]), min_size=len(cuts), max_size=len(cuts)))
    return [(k, a, b) for (a, b), k in zip(itertools.pairwise(cuts), kinds, strict=False) if k]


@pytest.mark.parametrize("kind", ["bpe", "bytes", "chars", "wordpiece"])
@settings(max_examples=40, deadline=None)
@given(data=st.data(), scheme=st.sampled_from(["bio", "bioes"]), subwords=st.sampled_from(["first", "all"]))
def test_gold_tags_come_back_from_tokens_under_windows_and_cuts(made, kind, data, scheme, subwords):
    words = data.draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=30))
    spans = random_spans(data.draw, len(words))
    example = {"words": words, "tags": _tags.spell(spans, len(words), scheme)}
    length = data.draw(st.sampled_from([3, 5, 12, 20, 200]))
    stride = data.draw(st.sampled_from([0, None]))
    all_tags = {name: n for n, name in enumerate(_tags.labels(example["tags"], scheme))}
    facts = {"scheme": scheme, "written": scheme, "labels": list(all_tags)}
    objective = TokenTagging(
        TokenTagging.Config(subwords=subwords, stride=stride), length=length, facts=facts
    )
    for item in objective.encode(example, made[kind]):
        assert len(np.asarray(item["tokens"])) <= length
    got = perfect(objective, example, made[kind])
    assert got["tags"] == example["tags"] and got["words"] == words
    assert [(s["label"], s["first"], s["last"]) for s in got["spans"]] == spans
    text = " ".join(words)
    assert all(text[s["start"] : s["end"]] == " ".join(words[s["first"] : s["last"]]) for s in got["spans"])


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
@settings(max_examples=40, deadline=None)
@given(data=st.data(), scheme=st.sampled_from(["bio", "bioes"]))
def test_character_spans_of_a_text_come_back(made, kind, data, scheme):
    text = data.draw(
        st.lists(st.sampled_from([*WORDS, " ", "  ", "\r\n", ", ", "-", "\ud800 "]), max_size=30).map("".join)
    )
    from exnihilo.objective import _offsets

    starts, ends = _offsets.words(text)
    spans = random_spans(data.draw, len(starts))
    want = [{"start": int(starts[a]), "end": int(ends[b - 1]), "label": k} for k, a, b in spans]
    names = _tags.labels(_tags.spell(spans, len(starts), scheme), scheme)
    facts = {"scheme": scheme, "written": scheme, "labels": names}
    objective = TokenTagging(None, length=data.draw(st.sampled_from([8, 64])), facts=facts)
    got = perfect(objective, {"text": text, "spans": want}, made[kind])
    assert [{k: s[k] for k in ("start", "end", "label")} for s in got["spans"]] == want
    assert all(text[s["start"] : s["end"]] == s["text"] for s in got["spans"])
    if want:
        assert objective.score([got], [{"text": text, "spans": want}])["f1_strict"] == 1.0


def test_every_word_has_one_label_once_whatever_the_windows(made):
    codec = made["wordpiece"]
    example = {"words": ["fox", "Mia", "antidisestablishment"] * 40, "tags": ["O", "B-PER", "O"] * 40}
    objective = tagger(length=32)
    items = objective.encode(example, codec)
    assert len(items) > 3
    assert sum(int((np.asarray(i["tag"]) != IGNORE).sum()) for i in items) == 120
    words = [w for i in objective.query(example, codec) for w in np.asarray(i["word"]) if w >= 0]
    assert sorted(words) == list(range(120))
    edges = [int(np.asarray(i["edge"])[0]) for i in items]
    assert edges[0] == 1 and edges[-1] == 2 and set(edges[1:-1]) <= {0}


# survey ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        (["B-X", "I-X", "O"], "bio"),
        (["B-X", "E-X", "O"], "bioes"),
        (["U-X", "B-X", "L-X"], "bioes"),
        (["B-X", "M-X", "E-X", "S-X"], "bioes"),
        (["NOUN", "VERB", "O"], "none"),
        (["O", "O"], "none"),
        (["B", "I", "O"], "bio"),
        (["I-X", "I-Y"], "bio"),
    ],
)
def test_the_scheme_is_found_and_said_and_can_be_set(tags: list[str], scheme: str):
    example = {"words": ["w"] * len(tags), "tags": tags}
    facts = tagger([example]).facts
    assert facts["scheme"] == scheme and f"scheme {scheme}, found" in facts["notes"][0]
    if scheme != "none":
        assert tagger([example], scheme="none").scheme == "none"
    else:
        assert "as set" in tagger([example], scheme="none").facts["notes"][0]


def test_broken_tags_are_counted_repaired_and_said():
    example = {"words": ["a", "b", "c", "d"], "tags": ["I-PER", "I-PER", "B-LOC", "I-PER"], "id": "s1"}
    facts = tagger([*TRAIN, example]).facts
    assert facts["repaired_tags"] == 2
    assert any("2 tags" in note and "'s1'" in note for note in facts["notes"])
    assert _tags.repair(example["tags"], "bio") == ["B-PER", "I-PER", "B-LOC", "B-PER"]
    got = tagger(TRAIN).score([{"tags": ["B-PER", "I-PER", "B-LOC", "B-PER"]}], [example])
    assert got["f1"] == 1.0 and got["repaired_tags"] == 2


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from([*BIO, "B", "I"]), max_size=10), st.sampled_from(["bio", "bioes"]))
def test_repairing_keeps_the_lenient_spans_and_spells_the_scheme(tags: list[str], scheme):
    fixed = _tags.repair(tags, scheme)
    assert metrics.entities(fixed) == metrics.strict_entities(fixed, scheme) == metrics.entities(tags)
    assert _tags.repair(fixed, scheme) == fixed
    names = _tags.labels(fixed, scheme)
    follow, begin, end = _tags.allowed(names, scheme)
    ids = [names.index(tag) for tag in fixed]
    if ids:
        assert begin[ids[0]] and end[ids[-1]] and all(follow[a, b] for a, b in itertools.pairwise(ids))


@pytest.mark.parametrize("scheme", ["bio", "bioes"])
def test_what_is_allowed_is_exactly_what_needs_no_repair(scheme):
    names = _tags.labels(["B-X", "B-Y"], scheme)
    follow, begin, end = _tags.allowed(names, scheme)
    for ids in itertools.product(range(len(names)), repeat=3):
        fine = begin[ids[0]] and end[ids[-1]] and all(follow[a, b] for a, b in itertools.pairwise(ids))
        tags = [names[i] for i in ids]
        assert fine == (_tags.repair(tags, scheme) == tags), tags


def test_rows_whose_tags_do_not_match_are_named_and_skipped_with_a_count(made):
    bad = {"words": ["a", "b"], "tags": ["O"], "_index": 3}
    objective = tagger([*TRAIN, bad, {"words": ["a"], "tags": [None]}])
    assert objective.facts["skipped_rows"] == 2 and objective.facts["rows"] == 3
    assert "row 4: 1 tags for 2 words" in objective.facts["skipped_first"][0]
    assert objective.encode_many([TRAIN[0], bad, TRAIN[1]], made["bpe"])[1] == []
    got = objective.score([{"tags": TRAIN[0]["tags"]}, {"tags": ["O", "O"]}], [TRAIN[0], bad])
    assert got["f1"] == 1.0 and got["skipped_rows"] == 1
    with pytest.raises(DataError, match="2 words"):
        tagger([bad])
    with pytest.raises(DataError, match="no labels"):
        TokenTagging().encode(TRAIN[0], made["bpe"])
    with pytest.raises(DataError, match="neither 'words' nor 'text'"):
        objective.encode({"question": "?"}, made["bpe"])


def test_unseen_tags_are_ignored_in_training_and_counted_in_scoring(made):
    objective = tagger()
    new = {"words": ["Mia", "x"], "tags": ["B-PER", "B-NEW"]}
    (item,) = objective.encode(new, made["bpe"])
    assert int((np.asarray(item["tag"]) != IGNORE).sum()) == 1
    got = objective.score([{"tags": ["B-PER", "O"]}], [new])
    assert got["unseen_tags"] == 1 and got["recall"] == 0.5 and got["precision"] == 1.0


def test_spans_off_the_words_are_widened_overlapping_ones_left_out_and_counted():
    text = "New York is big"
    spans = [
        {"start": 0, "end": 6, "label": "LOC"},  # ends inside "York"
        {"start": 4, "end": 8, "label": "LOC"},  # overlaps the longer one
        {"start": 90, "end": 95, "label": "LOC"},
    ]
    facts = tagger([{"text": text, "spans": spans}]).facts
    assert facts["moved_spans"] == 3 and facts["scheme"] == "bio"
    said = _tags.sentence({"text": text, "spans": spans}, "bio")
    assert said.tags == ["B-LOC", "I-LOC", "O", "O"]
    with pytest.raises(DataError, match="a span"):
        _tags.sentence({"text": text, "spans": [{"start": 0}]}, "bio")


def test_options_are_obeyed_or_refused():
    with pytest.raises(ConfigError, match="stride=70"):
        tagger(stride=70)
    with pytest.raises(ConfigError, match="crf=true"):
        tagger(crf=True, subwords="all")
    with pytest.raises(DataError, match="options.scheme=bio"):
        tagger([{"words": ["a"], "tags": ["NOUN"]}], scheme="bio")
    with pytest.raises(ConfigError, match="at least 3"):
        TokenTagging(length=2)
    # tags of one scheme, trained in another
    single = {"words": ["a", "b", "c"], "tags": ["S-X", "B-X", "E-X"]}
    objective = tagger([single], scheme="bio")
    assert objective.facts["labels"] == ["O", "B-X", "I-X"]
    assert any("written in bioes: converted" in n for n in objective.facts["notes"])
    assert objective.score([{"tags": ["B-X", "B-X", "I-X"]}], [single])["f1_strict"] == 1.0


def test_majority_is_the_commonest_tag_of_a_word_else_of_all():
    objective = tagger()
    test = [{"words": ["Mia", "and", "York"], "tags": ["B-PER", "O", "B-LOC"]}]
    assert objective.facts["majority"] == {
        "tag": "O",
        "words": {"Mia": "B-PER", "New": "B-LOC", "York": "I-LOC"},
    }
    got = objective.majority(test)  # B-PER, O, I-LOC: a lenient span at York, no strict one
    assert (
        got["f1"] == 1.0
        and got["f1_strict"] == pytest.approx(2 / 3)
        and got["accuracy"] == pytest.approx(2 / 3)
    )
    plain = tagger([{"words": ["a", "b", "a"], "tags": ["X", "Y", "X"]}])
    assert plain.majority([{"words": ["a", "b", "z"], "tags": ["X", "Y", "Y"]}]) == {"accuracy": 2 / 3}
    assert plain.main_metric == "accuracy" and objective.main_metric == "f1"


# training and decoding with models ------------------------------------------------------------------------


def batches(objective: TokenTagging, codec: Codec, examples) -> list[dict[str, torch.Tensor]]:
    items = [item for e in examples for item in objective.encode(e, codec)]
    out = []
    for item in items:
        columns = {
            k: np.asarray(v)[None].astype(np.int64) for k, v in item.items() if isinstance(v, np.ndarray)
        }
        n = columns["tokens"].shape[1]
        columns |= {"doc": np.zeros((1, n), np.int64), "pos": np.arange(n)[None]}
        out.append({k: torch.from_numpy(v) for k, v in columns.items()})
    return out


def packed(parts: list[dict[str, torch.Tensor]], extra: int = 3) -> dict[str, torch.Tensor]:
    out = {k: torch.cat([p[k] for p in parts], 1) for k in parts[0]}
    out["doc"] = torch.cat([torch.full_like(p["doc"], i) for i, p in enumerate(parts)], 1)
    fill = {k: torch.full((1, extra), -1 if k == "doc" else 0) for k in out}
    return {k: torch.cat([out[k], fill[k]], 1) for k in out}


@pytest.mark.parametrize("chained", [False, True])
def test_the_loss_is_that_of_each_piece_alone_and_of_a_plain_computation(made, chained: bool):
    codec = made["wordpiece"]
    objective = tagger(length=24, crf=chained)
    long = {"words": ["Mia", "saw", "New", "York"] * 8, "tags": ["B-PER", "O", "B-LOC", "I-LOC"] * 8}
    parts = batches(objective, codec, [*TRAIN, long])
    config = ModelConfig(
        family="bert", depth=1, width=32, heads=2, context=256, vocab_size=codec.vocab_size,
        labels=objective.labels, crf=chained,
    )  # fmt: skip
    model = build(config, heads=("tags",), seed=0).double()
    if chained:
        for p in (model.heads["tags"].transitions, model.heads["tags"].start, model.heads["tags"].stop):
            torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(1))
    whole = packed(parts)
    params = list(model.parameters())
    got = objective.sums(model, whole)["nll"]
    want = torch.zeros((), dtype=torch.float64)
    for part in parts:
        scores = model.heads["tags"].logits(model(objective.inputs(part), objective.attention))[0]
        at = torch.nonzero(part["tag"][0] != IGNORE)[:, 0]
        tags = part["tag"][0][at]
        if not chained:
            want = want - scores[at].log_softmax(1)[torch.arange(len(at)), tags].sum()
            continue
        head = model.heads["tags"]
        edge = int(part["edge"][0, 0])
        start, stop = head.start * (edge & 1), head.stop * (edge // 2)
        path = start[tags[0]] + stop[tags[-1]] + scores[at, tags].sum()
        path = path + head.transitions[tags[:-1], tags[1:]].sum()
        alpha = start + scores[at[0]]
        for i in at[1:].tolist():
            alpha = (alpha[:, None] + head.transitions).logsumexp(0) + scores[i]
        want = want + (alpha + stop).logsumexp(0) - path
    assert got.item() == pytest.approx(want.item())
    for a, b in zip(
        torch.autograd.grad(got, params, allow_unused=True, retain_graph=True),
        torch.autograd.grad(want, params, allow_unused=True),
        strict=True,
    ):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-7)
    counted = objective.counts(whole)["nll"].item()
    assert counted == sum(len(e["words"]) for e in (*TRAIN, long))
    assert objective.sums(model, {**whole, "tag": torch.full_like(whole["tag"], IGNORE)})["nll"].item() == 0
    wrong = tagger(length=24, crf=not chained)
    with pytest.raises(ConfigError, match="model.crf"):
        wrong.sums(model, whole)


def test_chain_outputs_are_one_row_a_piece_and_decoding_obeys_scheme_and_chain(made):
    codec = made["wordpiece"]
    objective = tagger(crf=True)
    config = ModelConfig(
        family="bert", depth=1, width=32, heads=2, context=64, vocab_size=codec.vocab_size,
        labels=objective.labels, crf=True,
    )  # fmt: skip
    model = build(config, heads=("tags",), seed=0)
    batch = packed(batches(objective, codec, TRAIN))
    outputs = objective.outputs(model, model(objective.inputs(batch), objective.attention), batch)
    C = objective.labels or 0
    assert outputs["chain"].shape == (3, C + 2, C) and outputs["tags"].shape[-1] == C
    assert objective.per_item == {"chain"}
    # against listing every path
    rng = np.random.default_rng(0)
    example = {"words": ["a", "b", "c", "d"]}
    (item,) = objective.query(example, codec)
    names = objective.names
    for seed in range(5):
        chain = rng.normal(size=(C + 2, C))
        logits = rng.normal(size=(len(np.asarray(item["tokens"])), C))
        got = objective.decode(example, [item], [{"tags": logits, "chain": chain}])
        at = np.flatnonzero(np.asarray(item["word"]) >= 0)
        best: tuple[float, list[str]] = (-np.inf, [])
        total: dict[int, float] = {}
        for path in itertools.product(range(C), repeat=4):
            tags = [names[i] for i in path]
            if _tags.repair(tags, "bio") != tags:
                continue
            value = chain[C, path[0]] + chain[C + 1, path[-1]] + sum(logits[at, path])
            value += sum(chain[a, b] for a, b in itertools.pairwise(path))
            best = max(best, (value, tags))
            total[path[0]] = total.get(path[0], 0.0) + np.exp(value)
        assert got["tags"] == best[1], seed
        share = total[names.index(got["tags"][0])] / sum(total.values())
        assert got["probabilities"][0] == pytest.approx(share, abs=1e-5)


def test_without_a_chain_the_best_allowed_path_is_given_and_constrain_false_gives_the_raw_one(made):
    example = {"words": ["a", "b"]}
    for constrain, want in ((True, ["B-PER", "I-PER"]), (False, ["O", "I-PER"])):
        objective = tagger(constrain=constrain)
        (item,) = objective.query(example, made["bpe"])
        names = objective.names
        logits = np.full((len(np.asarray(item["tokens"])), len(names)), -5.0)
        a, b = np.flatnonzero(np.asarray(item["word"]) >= 0)
        logits[a, names.index("O")], logits[a, names.index("B-PER")] = 1.0, 0.9
        logits[b, names.index("I-PER")] = 3.0
        got = objective.decode(example, [item], [{"tags": logits}])
        assert got["tags"] == want


@pytest.mark.parametrize("chained", [False, True])
def test_long_texts_are_decoded_in_blocks_to_the_same_tags(monkeypatch, chained: bool):
    rng = np.random.default_rng(0)
    names = _tags.labels(["B-X", "B-Y"], "bioes")
    scores = rng.normal(size=(700, len(names)))
    chain = rng.normal(size=(len(names) + 2, len(names))) if chained else None
    may = _tags.allowed(names, "bioes")
    want, sure = _tag_path.best_path(scores, chain, may)
    monkeypatch.setattr(_tag_path, "LONG", 200)
    monkeypatch.setattr(_tag_path, "EDGE", 50)
    got, also = _tag_path.best_path(scores, chain, may)
    assert np.array_equal(got, want)
    np.testing.assert_allclose(also, sure, atol=1e-6)
    tags = [names[i] for i in got]
    assert _tags.repair(tags, "bioes") == tags


def test_calibration_finds_the_temperature_that_made_the_logits(made):
    objective = tagger(TRAIN * 40)
    rng = np.random.default_rng(0)
    examples, items, outputs = [], [], []
    names = objective.names
    for _ in range(150):
        true = rng.normal(size=(5, len(names)))
        p = np.exp(true) / np.exp(true).sum(1, keepdims=True)
        tags = [names[rng.choice(len(names), p=row)] for row in p]
        if _tags.repair(tags, "bio") != tags:
            continue
        example = {"words": ["a", "b", "c", "d", "e"], "tags": tags}
        (item,) = objective.query(example, made["bpe"])
        logits = np.zeros((len(np.asarray(item["tokens"])), len(names)))
        logits[np.asarray(item["word"]) >= 0] = 3.0 * true
        examples.append(example)
        items.append([item])
        outputs.append([{"tags": logits}])
    new = objective.calibrate(examples, items, outputs)
    assert new["temperature"] > 1.5 and new["ece_after"] < new["ece_before"]
    # the temperature changes probabilities, not tags
    warm = TokenTagging(objective.config, length=64, facts={**objective.facts, **new})
    a, b = (o.decode(examples[0], items[0], outputs[0]) for o in (objective, warm))
    assert a["tags"] == b["tags"] and a["probabilities"] != b["probabilities"]
    assert tagger(crf=True).calibrate(examples, items, outputs) == {}


def test_scores_equal_the_metrics_on_random_predictions():
    objective = tagger()
    rng = random.Random(0)
    golds = [[rng.choice(BIO) for _ in range(6)] for _ in range(20)]
    mine = [_tags.repair([rng.choice(BIO) for _ in range(6)], "bio") for _ in range(20)]
    got = objective.score([{"tags": t} for t in mine], [{"words": ["w"] * 6, "tags": g} for g in golds])
    want = metrics.score(golds, mine, "bio")
    assert {k: got[k] for k in want} == want


def test_a_megabyte_of_text_and_one_giant_word(made):
    objective = tagger(length=128)
    text = ("Mia saw New York. " * 57_000)[:1_000_000]
    items = objective.query({"text": text}, made["wordpiece"])
    assert max(len(np.asarray(i["tokens"])) for i in items) <= 128
    outputs = [
        {"tags": np.zeros((len(np.asarray(i["tokens"])), objective.labels or 0), np.float32)} for i in items
    ]
    got = objective.decode({"text": text}, items, outputs)
    assert text[got["starts"][-1] : got["ends"][-1]] == got["words"][-1] and len(got["tags"]) == len(
        got["words"]
    )
    (item,) = objective.query({"words": ["x" * 1_000_000, "Mia"]}, made["bytes"])[:1]
    assert int(item["cut"]) > 0 and len(np.asarray(item["tokens"])) <= 128


def test_empty_inputs(made):
    objective = tagger()
    for example in ({"words": []}, {"text": ""}, {"text": " \n"}):
        items = objective.query(example, made["wordpiece"])
        got = objective.decode(example, items, [{"tags": np.zeros((2, objective.labels or 0))}] * len(items))
        assert got["tags"] == [] and got["spans"] == []


def test_a_model_made_elsewhere_has_labels_alone(made):
    objective = TokenTagging(facts={"labels": ["O", "B-PER", "I-PER"]})
    assert objective.scheme == "bio"
    assert perfect(objective, {"words": ["Mia"], "tags": ["B-PER"]}, made["bpe"])["tags"] == ["B-PER"]
    assert objective.majority([{"words": ["Mia"], "tags": ["B-PER"]}])["accuracy"] == 0.0
