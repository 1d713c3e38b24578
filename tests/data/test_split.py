"""The division into training and validation documents: laws, and nanoGPT's cut of a single file."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo.data.base import begins, ends
from exnihilo.data.split import FEW, TRAIN, VAL, SplitPlan, document_hash, make
from exnihilo.errors import DataError


def examples(texts: list[str]) -> list[dict]:
    return [{"text": t, "_file": 0, "_index": i} for i, t in enumerate(texts)]


def sides(plan: SplitPlan, rows: list[dict]) -> list[int]:
    return [plan.side(document_hash(e)) if s is None else s for e, s in plan.assign(rows)]


def test_documents_stay_where_they_are_when_data_is_added() -> None:
    few = examples([f"story {i}" for i in range(200)])
    more = examples([f"new {i}" for i in range(500)]) + few[::-1]
    before = dict(zip((e["text"] for e in few), sides(make(few, fraction=0.1, plain=True), few), strict=True))
    after = dict(
        zip((e["text"] for e in more), sides(make(more, fraction=0.1, plain=True), more), strict=True)
    )
    assert all(after[t] == s for t, s in before.items())


@pytest.mark.parametrize("fraction", [0.05, 0.3])
def test_the_share_held_out_is_binomial(fraction: float) -> None:
    n = 20_000
    plan = make(examples([str(i) for i in range(n)]), fraction=fraction, plain=True)
    assert plan.mode == "hash" and plan.moved is None
    held = sum(plan.side(document_hash({"text": str(i)})) for i in range(n))
    assert abs(held - n * fraction) < 5 * math.sqrt(n * fraction * (1 - fraction))


def test_equal_documents_stand_on_one_side() -> None:
    rows = examples([f"d{i % 50}" for i in range(500)] + [f"  d{i}\n" for i in range(50)])
    plan = make(rows, fraction=0.2, plain=True)
    where: dict[str, set[int]] = {}
    for e, s in zip(rows, sides(plan, rows), strict=True):
        where.setdefault(e["text"].strip(), set()).add(s)
    assert all(len(s) == 1 for s in where.values()) and {VAL, TRAIN} == set().union(*where.values())


def test_the_hash_is_of_the_content_alone() -> None:
    a = document_hash({"text": "one", "_file": 1, "_index": 2})
    assert (
        a == document_hash({"text": "one"}) == document_hash({"text": "one", "_begin": True, "_end": False})
    )
    both = document_hash({"text": "one", "label": 1})
    assert both != a and both == document_hash({"label": 1, "text": "one", "_file": 9})


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.text(alphabet="abc \n", min_size=1, max_size=9), min_size=1, max_size=12),
    st.floats(0.01, 0.99),
)
def test_the_tail_is_the_last_characters(texts: list[str], fraction: float) -> None:
    rows = examples(texts)
    whole = "".join(texts)
    if len(whole) < 2:
        with pytest.raises(DataError, match="nothing can be held out"):
            make(rows, fraction=fraction, plain=True)
        return
    plan = make(rows, fraction=fraction, plain=True)
    assert plan.mode == "tail"
    out = list(plan.assign(rows))
    train = "".join(e["text"] for e, s in out if s == TRAIN)
    val = "".join(e["text"] for e, s in out if s == VAL)
    assert train + val == whole and train and val
    assert len(train) == min(len(whole) - 1, max(1, int(len(whole) * (1 - fraction))))
    assert all(begins(e) and ends(e) for e, _ in out)  # whole documents, also the two halves of one
    assert [s for _, s in out] == sorted(s or 0 for _, s in out)


def test_a_tail_that_begins_inside_a_document_of_parts() -> None:
    parts = [
        {"text": "aaaa", "_begin": True, "_end": False},
        {"text": "bbbb", "_begin": False, "_end": False},
        {"text": "cccc", "_begin": False, "_end": True},
    ]
    for cut, wanted in (
        (6, [("aaaa", 0, 0), ("bb", 0, 1), ("bb", 1, 0), ("cccc", 1, 1)]),
        (4, [("aaaa", 0, 1), ("bbbb", 1, 0), ("cccc", 1, 1)]),
    ):
        plan = SplitPlan("tail", 0.5, cut=cut)
        got = [(e["text"], s, ends(e)) for e, s in plan.assign(parts)]
        assert got == [(t, s, bool(e)) for t, s, e in wanted]
        begun = [begins(e) for e, s in plan.assign(parts) if s == VAL]
        assert begun == [True, False]


def test_the_cut_of_one_file_is_nanogpts() -> None:
    n = 1_115_394  # characters of tinyshakespeare; nanoGPT: data[:int(n * 0.9)]
    plan = make(examples(["x" * n]), fraction=0.1, plain=True)
    assert plan.cut == int(n * 0.9) == 1_003_854 and "111,540" in plan.note


def test_no_side_is_left_empty() -> None:
    for fraction in (1e-6, 0.999999):
        rows = examples([f"d{i}" for i in range(FEW + 5)])
        plan = make(rows, fraction=fraction, plain=True)
        got = sides(plan, rows)
        assert plan.mode == "hash" and 1 in (got.count(TRAIN), got.count(VAL)) and "moved" in plan.note
    rows = examples(["same words"] * 50)
    plan = make(rows, fraction=0.1, plain=True)
    assert plan.mode == "tail" and "equal" in plan.note


def test_documents_of_several_fields_are_divided_whole() -> None:
    rows = [{"q": str(i), "a": "x"} for i in range(10)]
    plan = make(rows, fraction=0.25, plain=False)
    assert plan.unit == "documents" and [s for _, s in plan.assign(rows)] == [0] * 7 + [1] * 3
    with pytest.raises(DataError, match="nothing can be held out"):
        make(rows[:1], fraction=0.25, plain=False)


def test_nothing_held_out_and_no_documents() -> None:
    assert make([], fraction=0.0, plain=True).mode == "none"
    with pytest.raises(DataError, match="no documents"):
        make([], fraction=0.1, plain=True)
