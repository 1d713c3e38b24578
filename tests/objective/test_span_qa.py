"""Answers to tokens and back, the loss against the padded computation, windows, thresholds, odd rows."""

from __future__ import annotations

import math
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
from exnihilo.metrics import squad
from exnihilo.model import build
from exnihilo.objective import _answers, registry
from exnihilo.objective.pieces import IGNORE
from exnihilo.objective.span_qa import SpanQA, segment_nll

TEXTS = ["Where is the red fox? Mia saw the fox in Basel, near New York. Café 漢字 🦊 e\u0301 1,024.\n"] * 3
PIECES = [
    "fox",
    "Mia",
    "E\u0301te\u0301",
    "漢字",
    "🦊",
    "👩\u200d👧",
    "\r\n",
    "  ",
    "\t",
    ".",
    ", ",
    "New York",
    "İ",
    "\ud83d\ude00",
]
QA = {"question": "Who saw it?", "context": "Mia saw the red fox.", "answers": [{"text": "Mia", "start": 0}]}


@pytest.fixture(scope="module")
def made() -> dict[str, Codec]:
    out = {}
    for kind in ("bpe", "bytes", "chars", "wordpiece"):
        config = CodecConfig(kind=kind, vocab_size=400, lowercase=kind == "wordpiece")  # type: ignore[arg-type]
        out[kind] = codecs.train(config, TEXTS)
    return out


def asker(examples=None, length: int | None = 96, facts: dict | None = None, **options: Any) -> SpanQA:
    objective = registry.create("span_qa", options, length=length)
    facts = facts if facts is not None else objective.survey(examples or [QA])
    again = registry.create("span_qa", options, length=length, facts=facts)
    assert isinstance(again, SpanQA)
    return again


def perfect(objective: SpanQA, example: dict, codec: Codec) -> dict[str, Any]:
    """What a model that knows the labels of its training items would answer."""
    gold, asked = objective.encode(example, codec), objective.query(example, codec)
    outputs = []
    for known, blank in zip(gold, asked, strict=True):
        assert np.array_equal(known["tokens"], blank["tokens"])
        assert (np.asarray(blank["start"]) == IGNORE).all() and len(
            np.asarray(known["tokens"])
        ) <= objective.limit
        logits = np.random.default_rng(0).normal(size=(len(np.asarray(known["tokens"])), 2))
        for i, name in enumerate(("start", "end")):
            (at,) = np.flatnonzero(np.asarray(known[name]) == 1)
            logits[at, i] += 20.0
        outputs.append({"span": logits})
    return objective.decode({k: v for k, v in example.items() if k != "answers"}, asked, outputs)


@pytest.mark.parametrize("kind", ["bpe", "bytes", "chars", "wordpiece"])
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_an_answer_comes_back_from_tokens_whatever_the_text(made, kind: str, data):
    codec = made[kind]
    parts = data.draw(st.lists(st.sampled_from(PIECES), min_size=1, max_size=25))
    first = data.draw(st.integers(0, len(parts) - 1))
    last = data.draw(st.integers(first, min(first + 2, len(parts) - 1)))
    context = "".join(f" {p}" if kind == "wordpiece" and p.strip() else p for p in parts)
    begin = sum(len(p) + bool(kind == "wordpiece" and p.strip()) for p in parts[:first])
    end = begin + sum(len(p) + bool(kind == "wordpiece" and p.strip()) for p in parts[first : last + 1])
    answer = context[begin:end]
    objective = asker(max_answer=60, facts={}, length=data.draw(st.sampled_from([90, 200])), max_question=8)
    example = {"question": "Who?", "context": context, "answers": [{"text": answer, "start": begin}]}
    items = objective.encode(example, codec)
    if not answer.strip():  # an answer of white space is none
        assert all((np.asarray(i["start"])[0]) == 1 for i in items)
        return
    if not items:  # nothing of the answer is left by the tokenizer
        assert not codec.encode(answer)
        return
    if not any(np.asarray(i["start"])[0] != 1 for i in items):  # longer than the overlap, and cut by windows
        assert len(items) > 1
        return
    got = perfect(objective, example, codec)
    assert context[got["start"] : got["end"]] == got["answer"]
    lead = len(answer) - len(answer.lstrip())
    assert got["answer"] in (
        answer.strip(),
        answer.strip() + context[begin + len(answer.strip()) + lead : end],
    )


def test_the_answer_at_character_0_and_at_the_end(made):
    for kind, codec in made.items():
        for text, start in (("Mia", 0), ("fox.", 16)):
            example = {**QA, "answers": [{"text": text, "start": start}]}
            got = perfect(asker(), example, codec)
            assert (got["answer"], got["start"]) == (text, start), kind


def test_nfd_emoji_cjk_and_carriage_returns(made):
    context = "Le cafe\u0301\r\nde 漢字 🦊 e\u0301te\u0301."
    for codec in made.values():
        for text in ("cafe\u0301", "漢字", "🦊", "e\u0301te\u0301"):
            example = {
                "question": "?",
                "context": context,
                "answers": [{"text": text, "start": context.index(text)}],
            }
            got = perfect(asker(), example, codec)
            assert got["answer"] == text and context[got["start"] : got["end"]] == text


def test_an_item_is_cls_question_sep_context_sep_with_segments(made):
    codec = made["wordpiece"]
    (item,) = asker().encode(QA, codec)
    question, context = codec.encode(QA["question"]), codec.encode(QA["context"])
    want = [codec.cls_id, *question, codec.sep_id, *context, codec.sep_id]
    assert np.asarray(item["tokens"]).tolist() == want
    n = len(question) + 2
    assert np.asarray(item["segment"]).tolist() == [0] * n + [1] * (len(context) + 1)
    start, end = np.asarray(item["start"]).tolist(), np.asarray(item["end"]).tolist()
    outside = [IGNORE] * (n - 1)
    mia = len(codec.encode("Mia"))
    assert start == [0, *outside, 1, *[0] * (len(context) - 1), IGNORE]
    assert end == [0, *outside, *[0] * (mia - 1), 1, *[0] * (len(context) - mia), IGNORE]


def test_questions_are_cut_and_counted_and_windows_overlap_by_stride(made):
    codec = made["bytes"]
    objective = asker(length=40, max_question=5, stride=10)
    example = {"question": "abcdefgh", "context": "".join(chr(97 + i % 26) for i in range(90)), "answers": []}
    items = objective.query(example, codec)
    room = 40 - 3 - 5
    assert all(int(i["cut"]) == 3 for i in items)
    assert [int(i["offset"]) for i in items] == [0, room - 10, 2 * (room - 10), 3 * (room - 10)]
    starts = [s for i in items for s in np.asarray(i["char_start"]).tolist() if s >= 0]
    assert sorted(set(starts)) == list(range(90)) and len(starts) == 90 + 3 * 10


def test_an_answer_across_the_windows_is_learnt_in_the_one_that_holds_it(made):
    codec = made["bytes"]
    objective = asker(length=40, max_question=5, stride=10)
    context = "x" * 33 + "answer" + "y" * 20
    example = {"question": "?", "context": context, "answers": [{"text": "answer", "start": 33}]}
    items = objective.encode(example, codec)
    held = [int(np.asarray(i["start"])[0] != 1) for i in items]
    assert held == [0, 1]  # windows of 36 tokens, 10 of them shared: 0 to 36 and 26 to 59
    assert perfect(objective, example, codec)["answer"] == "answer"


def test_a_start_counts_only_in_the_window_with_most_context(made):
    codec = made["bytes"]
    objective = asker(length=40, max_question=1, stride=18)
    example = {"question": "?", "context": "".join(chr(97 + i % 26) for i in range(54))}
    items = objective.query(example, codec)
    assert len(items) == 2 and int(items[1]["offset"]) == 18
    outputs = [{"span": np.zeros((len(np.asarray(i["tokens"])), 2))} for i in items]
    outputs[0]["span"][3 + 33, :] = 9.0  # context token 33: two tokens from this window's edge ...
    outputs[1]["span"][3 + 15 + 5, :] = 5.0
    got = objective.decode(example, items, outputs)
    assert got["start"] == 18 + 20 and got["nbest"][0]["start"] == 38  # ... and well inside the other one


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 5))
def test_n_best_is_what_listing_every_span_gives(seed: int, max_answer: int, n_best: int):
    rng = np.random.default_rng(seed)
    objective = asker(length=None, max_answer=max_answer, n_best=n_best, facts={"unanswerable": 1})
    context = "abcdefghijkl"
    logits = rng.normal(size=(16, 2))
    place = np.array([-1, -1, -1, *range(12), -1], np.int32)
    item: dict[str, Any] = {
        "char_start": place,
        "char_end": place + (place >= 0),
        "offset": 0,
        "tokens": place,
    }
    got = objective.decode({"context": context}, [item], [{"span": logits}])
    every = sorted(
        (
            (logits[3 + a, 0] + logits[3 + b, 1], a, b + 1)
            for a in range(12)
            for b in range(a, min(12, a + max_answer))
        ),
        key=lambda s: (-s[0], s[1:]),
    )[:n_best]
    assert [(n["start"], n["end"]) for n in got["nbest"]] == [s[1:] for s in every]
    null = logits[0].sum()
    assert got["null_difference"] == pytest.approx(null - every[0][0])
    assert (got["answer"] == "") == (null > every[0][0])
    total = sum(math.exp(s[0]) for s in every) + math.exp(null)
    assert got["no_answer_probability"] == pytest.approx(math.exp(null) / total, abs=1e-5)
    assert sum(n["probability"] for n in got["nbest"]) + got["no_answer_probability"] == pytest.approx(
        1, abs=1e-4
    )


def test_no_answer_only_where_training_had_some_and_by_the_threshold(made):
    (item,) = asker().query(QA, made["wordpiece"])
    logits = np.zeros((len(np.asarray(item["tokens"])), 2))
    logits[0] = 5.0
    at = int(np.flatnonzero(np.asarray(item["char_start"]) == 0)[0])
    logits[at : at + 3, :] = 1.0
    cases: list[tuple[dict, dict[str, Any], bool]] = [
        ({}, {}, True),
        ({"unanswerable": 3}, {}, False),
        ({"unanswerable": 3, "null_threshold": 9.0}, {}, True),
        ({"unanswerable": 3, "null_threshold": 9.0}, {"null_threshold": 2.0}, False),
    ]
    for facts, options, answered in cases:
        got = asker(facts=facts, **options).decode(QA, [item], [{"span": logits}])
        assert bool(got["answer"]) == answered and (got["start"] is not None) == answered
        assert got["nbest"] and got["null_difference"] > 0


def test_empty_contexts_have_no_answer(made):
    for context in ("", "  \n"):
        objective = asker([QA, {**QA, "answers": []}])
        example = {"question": "Who?", "context": context, "answers": []}
        (item,) = objective.encode(example, made["wordpiece"])
        assert np.asarray(item["start"])[0] == np.asarray(item["end"])[0] == 1
        (asked,) = objective.query(example, made["wordpiece"])
        got = objective.decode(example, [asked], [{"span": np.zeros((len(np.asarray(asked["tokens"])), 2))}])
        assert (
            got["answer"] == "" and got["start"] is None and got["nbest"] == [] and got["probability"] == 1.0
        )
        assert objective.score([got], [example])["exact_match"] == 100.0


# gold answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "want"),
    [
        ([{"text": "Mia", "start": 0}], [("Mia", 0)]),
        ([{"text": "Mia", "answer_start": 3}], [("Mia", 3)]),
        ({"text": ["Mia", "fox"], "answer_start": [0, 4]}, [("Mia", 0), ("fox", 4)]),
        ({"text": [], "answer_start": []}, []),
        (["Mia"], [("Mia", None)]),
        ("Mia", [("Mia", None)]),
        ([{"text": "Mia", "start": -1}], [("Mia", None)]),
        ([{"text": " ", "start": 0}], []),
        (None, []),
        ("", []),
    ],
)
def test_the_forms_of_answers(answers, want):
    assert _answers.golds({"answers": answers}) == want


def test_no_role_is_no_label_and_nonsense_is_an_error(made):
    assert _answers.golds({}) is None
    (item,) = asker().encode({k: v for k, v in QA.items() if k != "answers"}, made["bpe"])
    assert (np.asarray(item["start"]) == IGNORE).all()
    for bad in (3, [3], [{"start": 1}], [{"text": "a", "start": "x"}], {"text": ["a"], "start": [1, 2]}):
        with pytest.raises(DataError):
            _answers.golds({"answers": bad})
    with pytest.raises(DataError, match="no 'context'"):
        asker().query({"question": "?"}, made["bpe"])


def test_answers_off_their_offset_are_found_nearby():
    context = "the fox and  the\r\nred fox, cafe\u0301"
    for text, start, found in (
        ("fox", 23, "fox"),
        ("fox", 4, "fox"),
        ("fox", 20, "fox"),
        ("and the", 8, "and  the"),
        ("the red", 12, "the\r\nred"),
        ("café", 27, "cafe\u0301"),
        (" fox ", 3, "fox"),
    ):
        placed = _answers.place(context, [(text, start)])
        assert context[placed.start : placed.end] == found, text
    assert _answers.place(context, [("fox", 20)]).start == 22  # the nearer one
    assert _answers.place(context, [("dog", 0), ("red", 99)]).how == "moved"  # the first that can be placed
    assert _answers.place(context, [("dog", 0)]).how == "lost"
    assert _answers.place(context, [("fox", 4)]) == (4, 7, "exact")


def test_questions_without_a_place_for_their_answer_are_counted_named_and_skipped(made):
    lost = {**QA, "answers": [{"text": "Bob", "start": 0}], "id": "q7"}
    moved = {**QA, "answers": [{"text": "fox", "start": 0}], "id": "q8"}
    none = {**QA, "answers": []}
    bad = {**QA, "answers": [7], "_index": 11}
    objective = asker([QA, lost, moved, none, none, bad])
    facts = objective.facts
    assert (facts["questions"], facts["unanswerable"], facts["moved_answers"], facts["skipped_rows"]) == (
        6,
        2,
        1,
        2,
    )
    assert facts["majority_answer"] == ""
    said = " | ".join(facts["notes"])
    assert "'q7': 'Bob'" in said and "'q8': 'fox'" in said and "row 12" in said
    assert [len(items) for items in objective.encode_many([QA, lost, moved], made["bpe"])] == [1, 0, 1]
    with pytest.raises(DataError, match="no question with a usable answer in 1"):
        asker([lost])


def test_options_are_obeyed_or_refused():
    with pytest.raises(ConfigError, match="max_question=100"):
        asker(length=64, max_question=100)
    with pytest.raises(ConfigError, match="stride=60"):
        asker(length=64, stride=60)
    assert asker(length=512).overlap == 128 and asker(length=512).max_question == 64
    assert asker(length=64).overlap < 64


# loss -----------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_segment_softmax_equals_the_padded_one(seed: int, lengths: list[int]):
    g = torch.Generator().manual_seed(seed)
    N = sum(lengths)
    score = (30 * torch.randn(N, generator=g, dtype=torch.float64)).requires_grad_()
    piece = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    inside = torch.rand(N, generator=g) < 0.7
    right = torch.zeros(N, dtype=torch.bool)
    padded = torch.full((len(lengths), max(lengths)), -torch.inf, dtype=torch.float64)
    at, want = 0, torch.zeros((), dtype=torch.float64)
    for p, n in enumerate(lengths):
        choice = torch.nonzero(inside[at : at + n])[:, 0]
        if len(choice):
            gold = int(choice[int(torch.randint(len(choice), (1,), generator=g))])
            right[at + gold] = True
            row = padded[p].clone()
            row[choice] = score[at : at + n][choice]
            want = want + torch.nn.functional.cross_entropy(row[None], torch.tensor([gold]))
        at += n
    got = segment_nll(score, piece, inside, right)
    torch.testing.assert_close(got, want)
    if want.requires_grad:
        for a, b in zip(torch.autograd.grad(got, score), torch.autograd.grad(want, score), strict=True):
            torch.testing.assert_close(a, b)


def columns(items) -> list[dict[str, torch.Tensor]]:
    out = []
    for item in items:
        one = {k: np.asarray(v)[None].astype(np.int64) for k, v in item.items() if isinstance(v, np.ndarray)}
        n = one["tokens"].shape[1]
        one |= {"doc": np.zeros((1, n), np.int64), "pos": np.arange(n)[None]}
        out.append({k: torch.from_numpy(v) for k, v in one.items()})
    return out


def test_packed_rows_give_the_loss_of_each_item_alone_and_gradients_too(made):
    codec = made["wordpiece"]
    objective = asker(length=48)
    long = {
        **QA,
        "context": "The fox was seen. " * 6 + QA["context"],
        "answers": [{"text": "Mia", "start": 108}],
    }
    parts = columns([i for e in (QA, long, {**QA, "answers": []}) for i in objective.encode(e, codec)])
    whole = {k: torch.cat([p[k] for p in parts], 1) for k in parts[0]}
    whole["doc"] = torch.cat([torch.full_like(p["doc"], i) for i, p in enumerate(parts)], 1)
    whole = {k: torch.cat([v, torch.full((1, 5), -1 if k == "doc" else 0)], 1) for k, v in whole.items()}
    config = ModelConfig(family="bert", depth=1, width=32, heads=2, context=512, vocab_size=codec.vocab_size)
    model = build(config, heads=("span",), seed=0)
    got = objective.sums(model, whole)
    counts = objective.counts(whole)
    assert counts["start"].item() == counts["end"].item() == len(parts) > 3
    want = {"start": torch.zeros(()), "end": torch.zeros(())}
    for part in parts:
        logits = model.heads["span"].logits(model(objective.inputs(part), objective.attention))[0]
        for i, name in enumerate(want):
            label = part[name][0]
            row = logits[:, i].masked_fill(label == IGNORE, -torch.inf)
            want[name] = want[name] + torch.nn.functional.cross_entropy(row[None], (label == 1).nonzero()[0])
    params = [p for p in model.parameters()]
    for name in want:
        torch.testing.assert_close(got[name], want[name], atol=1e-4, rtol=1e-5)
        a = torch.autograd.grad(got[name], params, allow_unused=True, retain_graph=True)
        b = torch.autograd.grad(want[name], params, allow_unused=True, retain_graph=True)
        for x, y in zip(a, b, strict=True):
            if x is not None and y is not None:
                torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-3)
    # without doc and pos each row is one piece; without labels there is no loss
    (alone,) = [{k: v for k, v in p.items() if k not in ("doc", "pos")} for p in parts[:1]]
    torch.testing.assert_close(
        objective.sums(model, alone)["start"], objective.sums(model, parts[0])["start"]
    )
    blind = {
        **whole,
        "start": torch.full_like(whole["start"], IGNORE),
        "end": torch.full_like(whole["end"], IGNORE),
    }
    assert objective.counts(blind)["start"] == 0 and objective.sums(model, blind)["start"] == 0
    # half of each, as in BERT
    assert objective.weights == {"start": 0.5, "end": 0.5}


# figures --------------------------------------------------------------------------------------------------


def predictions_of(rows) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    predictions, examples = [], []
    for text, difference, threshold, golds in rows:
        silent = difference > threshold
        predictions.append(
            {"answer": "" if silent else text, "null_difference": difference, "nbest": [{"text": text}]}
        )
        examples.append({"answers": [{"text": g, "start": 0} for g in golds]})
    return predictions, examples


def test_scores_are_the_scripts_and_all_golds_count():
    predictions, examples = predictions_of([("fox", -1, 0, ["dog", "the fox"]), ("red fox", -1, 0, ["fox"])])
    got = asker().score(predictions, examples)
    assert got == squad.evaluate(["fox", "red fox"], [["dog", "the fox"], ["fox"]], version="1.1")
    assert set(got) == {"exact_match", "f1", "total"}
    rows = [("fox", 2.0, 0, ["fox"]), ("x", 3.0, 0, []), ("y", -1.0, 0, [])]
    predictions, examples = predictions_of(rows)
    got = asker().score(predictions, [*examples])
    want = squad.evaluate(["", "", "y"], [["fox"], [], []], version="2.0")
    assert {k: got[k] for k in want} == want
    # answering below a difference of 2, and of these "y" wrongly: 2 of 3; never answering: 2 of 3
    assert got["best_f1"] == pytest.approx(200 / 3)
    with pytest.raises(DataError, match="none with answers"):
        asker().score(predictions, [{}] * 3)


def test_the_majority_baseline_is_the_commonest_answer():
    objective = asker([QA, QA, {**QA, "answers": []}])
    assert objective.facts["majority_answer"] == "Mia"
    got = objective.majority([QA, {**QA, "answers": []}])
    assert got["exact_match"] == 50.0 and got["HasAns_exact"] == 100.0


def test_the_null_threshold_is_tuned_where_some_questions_have_no_answer(made):
    codec = made["wordpiece"]
    rng = np.random.default_rng(0)
    objective = asker([QA, {**QA, "answers": []}])
    examples, items, outputs = [], [], []
    for n in range(60):
        example = {**QA, "answers": [{"text": "Mia", "start": 0}] if n % 2 else []}
        (item,) = objective.query(example, codec)
        logits = np.full((len(np.asarray(item["tokens"])), 2), -9.0)
        mia = np.flatnonzero(np.asarray(item["char_start"]) >= 0)[: len(codec.encode("Mia"))]
        logits[mia[0], 0] = logits[mia[-1], 1] = 2.0
        # the null score is 3 too high everywhere: only a tuned threshold separates the two kinds
        logits[0] = (4.0 + 3.0 + (-2.0 if n % 2 else 2.0) + rng.normal(0, 0.1)) / 2
        examples.append(example)
        items.append([item])
        outputs.append([{"span": logits}])

    def f1(o: SpanQA) -> float:
        made_ = [o.decode(e, i, x) for e, i, x in zip(examples, items, outputs, strict=True)]
        return o.score(made_, examples)["f1"]

    new = objective.calibrate(examples, items, outputs)
    assert 1.5 < new["null_threshold"] < 4.5
    tuned = asker(facts={**objective.facts, **new})
    assert (
        f1(objective) == 50.0
        and f1(tuned)
        == 100.0
        == tuned.score(
            [tuned.decode(e, i, x) for e, i, x in zip(examples, items, outputs, strict=True)], examples
        )["best_f1"]
    )
    assert new["ece_after"] <= new["ece_before"] + 1e-9 and new["calibrated_on"] == 60
    # all answerable: no threshold; set by hand: not tuned
    odd = [s[1::2] for s in (examples, items, outputs)]
    assert "null_threshold" not in objective.calibrate(*odd)
    assert "null_threshold" not in asker(null_threshold=1.0).calibrate(examples, items, outputs)


def test_a_context_of_a_megabyte(made):
    context = ("The fox was seen near Basel, and then it was gone. " * 20_000)[:1_000_000] + " Mia"
    example = {**QA, "context": context, "answers": [{"text": "Mia", "start": len(context) - 3}]}
    got = perfect(asker(length=384, n_best=1), example, made["bpe"])
    assert got["answer"] == "Mia" and got["start"] == len(context) - 3
