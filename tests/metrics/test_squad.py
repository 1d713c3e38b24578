"""Against an independent transcription of the official scripts' rules, and cases worked by hand."""

from __future__ import annotations

import collections
import math
import random
import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo.metrics import squad

# -- what the scripts do, written down step by step ------------------------------------------------------


def ref_normalize(s):
    s = s.lower()
    s = "".join(ch for ch in s if ch not in set(string.punctuation))
    s = re.sub(re.compile(r"\b(a|an|the)\b", re.UNICODE), " ", s)
    return " ".join(s.split())


def ref_f1_v1(prediction, truth):
    p, t = ref_normalize(prediction).split(), ref_normalize(truth).split()
    same = sum((collections.Counter(p) & collections.Counter(t)).values())
    if same == 0:
        return 0
    precision, recall = 1.0 * same / len(p), 1.0 * same / len(t)
    return (2 * precision * recall) / (precision + recall)


def ref_v1(predictions, golds):
    f1 = exact = 0.0
    for p, g in zip(predictions, golds, strict=True):
        exact += max(float(ref_normalize(p) == ref_normalize(t)) for t in g)
        f1 += max(ref_f1_v1(p, t) for t in g)
    return {"exact_match": 100.0 * exact / len(golds), "f1": 100.0 * f1 / len(golds)}


def ref_tokens(s):
    return ref_normalize(s).split() if s else []


def ref_f1_v2(gold, pred):
    g, p = ref_tokens(gold), ref_tokens(pred)
    same = sum((collections.Counter(g) & collections.Counter(p)).values())
    if len(g) == 0 or len(p) == 0:
        return int(g == p)
    if same == 0:
        return 0
    precision, recall = 1.0 * same / len(p), 1.0 * same / len(g)
    return (2 * precision * recall) / (precision + recall)


def ref_v2(preds, golds, na_probs, threshold=1.0):
    exact_scores, f1_scores, has = {}, {}, {}
    for q, (pred, gold) in enumerate(zip(preds, golds, strict=True)):
        has[q] = bool(gold)
        answers = [a for a in gold if ref_normalize(a)]
        if not answers:
            answers = [""]
        exact_scores[q] = max(int(ref_normalize(a) == ref_normalize(pred)) for a in answers)
        f1_scores[q] = max(ref_f1_v2(a, pred) for a in answers)

    def apply(scores):
        return {q: float(not has[q]) if na_probs[q] > threshold else s for q, s in scores.items()}

    def mean(scores, keys):
        return 100.0 * sum(scores[k] for k in keys) / len(keys)

    def best(scores):
        current = best_score = sum(1 for q in has if not has[q])
        best_at = 0.0
        for q in sorted(range(len(na_probs)), key=lambda k: na_probs[k]):
            if has[q]:
                diff = scores[q]
            elif preds[q]:
                diff = -1
            else:
                diff = 0
            current += diff
            if current > best_score:
                best_score, best_at = current, na_probs[q]
        return 100.0 * best_score / len(scores), best_at

    out = {}
    exact, f1 = apply(exact_scores), apply(f1_scores)
    out["exact_match"], out["f1"], out["total"] = mean(exact, list(has)), mean(f1, list(has)), len(has)
    for name, keys in (("HasAns", [q for q in has if has[q]]), ("NoAns", [q for q in has if not has[q]])):
        if keys and len(keys) < len(has):
            out[f"{name}_exact"], out[f"{name}_f1"] = mean(exact, keys), mean(f1, keys)
            out[f"{name}_total"] = len(keys)
    out["best_exact"], out["best_exact_thresh"] = best(exact_scores)
    out["best_f1"], out["best_f1_thresh"] = best(f1_scores)
    return out


# -- tests -------------------------------------------------------------------------------------------------

WORDS = ["the", "a", "fox", "red", "U.S.", "an", "1,000", "Étoile", "«x»", "don't", "", "The", "漢字", "-"]
TEXT = st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join)
ANY = st.one_of(TEXT, st.text(max_size=12))


def test_cases_worked_by_hand():
    # articles, punctuation, case and white space are gone; an ASCII apostrophe too
    assert squad.normalize("  The U.S.A.,\tan  Apple-pie! ") == "usa applepie"
    assert squad.normalize("theory of a kind") == "theory of kind"  # only whole words are articles
    assert squad.exact("Don't", "dont") == 1
    # prediction {red, fox}, gold {fox}: precision 1/2, recall 1, F1 2/3
    assert squad.f1("the red fox", "fox") == pytest.approx(2 / 3)
    # words count as often as they occur: {x, x} and {x, x, y}: 2/2, 2/3 -> 4/5
    assert squad.f1("x x", "x x y") == pytest.approx(0.8)
    # the best gold counts
    assert squad.answer_scores("red fox", ["dog", "a red fox"]) == (1, 1.0)
    assert squad.answer_scores("", [], "2.0") == (1, 1.0) and squad.answer_scores("x", [], "2.0") == (0, 0.0)
    # two questions: one right, one with F1 2/3 and no exact match
    got = squad.evaluate(["Paris", "red fox"], [["Paris"], ["fox"]])
    assert got == {"exact_match": 50.0, "f1": pytest.approx(100 * (1 + 2 / 3) / 2), "total": 2.0}
    # SQuAD 2.0: of two without an answer one is seen, of two with one neither is quite right
    got = squad.evaluate(["", "x", "red fox", ""], [[], [], ["fox"], ["dog"]])
    want = {"exact_match": 25.0, "f1": 100 * (1 + 2 / 3) / 4, "HasAns_exact": 0.0, "HasAns_f1": 100 / 3}
    want |= {"NoAns_exact": 50.0, "NoAns_f1": 50.0, "HasAns_total": 2, "NoAns_total": 2, "total": 4}
    assert got == pytest.approx(want)


def test_the_two_versions_differ_where_nothing_is_left():
    assert squad.f1("the", "a", "1.1") == ref_f1_v1("the", "a") == 0
    assert squad.f1("the", "a", "2.0") == ref_f1_v2("a", "the") == 1
    assert squad.answer_scores("", ["the"], "2.0") == (1, 1.0)


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=30))
def test_normalisation(text: str):
    assert squad.normalize(text) == ref_normalize(text)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(ANY, st.lists(ANY, min_size=1, max_size=3)), min_size=1, max_size=6))
def test_version_1(rows):
    predictions, golds = [r[0] for r in rows], [r[1] for r in rows]
    got = squad.evaluate(predictions, golds, version="1.1")
    want = ref_v1(predictions, golds)
    assert got["exact_match"] == pytest.approx(want["exact_match"]) and got["f1"] == pytest.approx(want["f1"])


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(ANY, st.lists(ANY, max_size=3), st.floats(0, 1)), min_size=1, max_size=8),
    st.sampled_from([1.0, 0.5, 0.0]),
)
def test_version_2_with_a_threshold_and_the_best_ones(rows, threshold: float):
    predictions, golds, no = ([r[i] for r in rows] for i in range(3))
    golds = [[a for a in g if a] for g in golds]  # the files hold no empty answers
    got = squad.evaluate(predictions, golds, version="2.0", no_answer=no, threshold=threshold)
    assert got == pytest.approx(ref_v2(predictions, golds, no, threshold))


def test_the_best_threshold_is_the_best_of_all():
    rng = random.Random(0)
    for _ in range(30):
        n = rng.randint(1, 12)
        no = [rng.uniform(-5, 5) for _ in range(n)]
        has = [rng.random() < 0.5 for _ in range(n)]
        scores = [rng.random() if h else 0.0 for h in has]
        value, at = squad.best_threshold(no, scores, has, lowest=-math.inf)

        def mean(t, no=no, has=has, scores=scores, n=n):
            return sum(s if x <= t else float(not h) for x, s, h in zip(no, scores, has, strict=True)) / n

        assert value == pytest.approx(max(mean(t) for t in [-math.inf, *no])) == pytest.approx(mean(at))


def test_lists_of_different_lengths_are_an_error():
    with pytest.raises(ValueError, match="2 predictions for 1"):
        squad.evaluate(["a", "b"], [["a"]])
    assert squad.evaluate([], [])["total"] == 0
