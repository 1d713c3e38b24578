"""Strict and lenient span F1: against seqeval where installed, and an independent reading of strings."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo.metrics import spans

BIO = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-A-b", "I-A-b", "B", "I"]
BIOES = [*BIO, "E-PER", "S-PER", "E-LOC", "S-LOC", "E", "S"]


def by_regex(tags: list[str], scheme: str) -> list[tuple[str, int, int]]:
    """Strict spans: for each type the tags become one letter each, and a regular expression finds them."""
    out = []
    kinds = {t[1:].lstrip("-") or "_" for t in tags if t != "O"}
    for kind in kinds:
        line = "".join(t[0] if t != "O" and (t[1:].lstrip("-") or "_") == kind else "." for t in tags)
        pattern = r"BI*" if scheme == "bio" else r"BI*E|S"
        out += [(kind, m.start(), m.end()) for m in re.finditer(pattern, line)]
    return sorted(out, key=lambda s: s[1])


def by_conlleval(tags: list[str]) -> list[tuple[str, int, int]]:
    """Lenient spans of BIO: a tag goes on where it is an I of the type before it; else it begins."""
    out: list[list] = []
    before = None
    for i, tag in enumerate(tags):
        kind = None if tag == "O" else tag[1:].lstrip("-") or "_"
        if kind is not None:
            if tag[0] == "I" and before == kind:
                out[-1][2] = i + 1
            else:
                out.append([kind, i, i + 1])
        before = kind
    return [tuple(s) for s in out]


@settings(max_examples=120, deadline=None)
@given(st.lists(st.sampled_from(BIO), max_size=12))
def test_lenient_bio_is_conllevals_reading(tags: list[str]):
    assert spans.entities(tags) == by_conlleval(tags)


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(["bio", "bioes"]), st.data())
def test_strict_spans_are_those_a_regular_expression_finds(scheme, data):
    tags = data.draw(st.lists(st.sampled_from(BIO if scheme == "bio" else BIOES), max_size=12))
    assert spans.strict_entities(tags, scheme) == by_regex(tags, scheme)


def test_cases_worked_by_hand():
    assert spans.entities(["B-X", "B-X", "I-X", "I-Y"]) == [("X", 0, 1), ("X", 1, 3), ("Y", 3, 4)]
    assert spans.entities(["B-X", "I-X", "E-X", "I-X"]) == [("X", 0, 3), ("X", 3, 4)]
    assert spans.strict_entities(["I-X", "I-X"], "bio") == []
    assert spans.strict_entities(["B-X", "S-X", "B-X", "E-Y"], "bioes") == [("X", 1, 2)]
    with pytest.raises(ValueError, match="'E' in the scheme bio"):
        spans.strict_entities(["E-X"], "bio")
    # 2 gold spans, 3 predicted, 1 right: precision 1/3, recall 1/2, F1 2/5; 3 of 5 tags are right
    gold, given_ = ["B-X", "I-X", "O", "B-Y", "O"], ["B-X", "I-X", "I-Y", "B-X", "O"]
    got = spans.score([gold], [given_], "bio")
    assert (got["precision"], got["recall"], got["f1"]) == pytest.approx((1 / 3, 1 / 2, 2 / 5))
    assert got["accuracy"] == pytest.approx(3 / 5)
    assert (got["f1@X"], got["f1@Y"]) == pytest.approx((2 / 3, 0.0))
    # strictly the I-Y is no span: 1 of 2 predicted, 1 of 2 gold
    assert got["f1_strict"] == pytest.approx(1 / 2)


def test_nothing_to_find_is_zero_and_no_error():
    got = spans.score([["O", "O"]], [["O", "O"]], "bio")
    assert got["f1"] == got["f1_strict"] == 0.0 and got["accuracy"] == 1.0
    with pytest.raises(ValueError, match="1 predicted tags for 2 words"):
        spans.score([["O", "O"]], [["O"]], "bio")


@pytest.mark.parametrize("scheme", ["bio", "bioes"])
def test_equal_to_seqeval(scheme):
    report = pytest.importorskip("seqeval.metrics", reason="seqeval is not installed")
    from seqeval.scheme import IOB2, IOBES

    rng = random.Random(0)
    names = BIO[:-2] if scheme == "bio" else [t for t in BIOES if len(t) > 1 or t == "O"]
    mode = IOB2 if scheme == "bio" else IOBES
    for _ in range(25):
        lengths = [rng.randint(1, 15) for _ in range(rng.randint(1, 6))]
        gold, mine = ([[rng.choice(names) for _ in range(n)] for n in lengths] for _ in range(2))
        # as a trained model's: mostly right
        mine = [
            [g if rng.random() < 0.7 else m for g, m in zip(a, b, strict=True)]
            for a, b in zip(gold, mine, strict=True)
        ]
        got = spans.score(gold, mine, scheme)
        for name, function in (
            ("f1", report.f1_score),
            ("precision", report.precision_score),
            ("recall", report.recall_score),
        ):
            assert got[name] == pytest.approx(function(gold, mine, zero_division=0))
            want = function(gold, mine, mode="strict", scheme=mode, zero_division=0)
            assert got[f"{name}_strict"] == pytest.approx(want)
        assert got["accuracy"] == pytest.approx(report.accuracy_score(gold, mine))
        table = report.classification_report(gold, mine, output_dict=True, zero_division=0)
        for kind in (k[3:] for k in got if k.startswith("f1@")):
            assert got[f"f1@{kind}"] == pytest.approx(table[kind]["f1-score"])
