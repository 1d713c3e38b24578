"""Examples of one side, and rows of items that stand for themselves: the same split as `prepare` makes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo.config import DataConfig
from exnihilo.data import Drops, Example, Item, Splits, examples, prepare, texts
from exnihilo.data.base import SEGMENT
from exnihilo.data.split import FEW, TRAIN, VAL, document_hash, group_hash, inputs_hash, make

QA = ("question", "context", "answers")
VIEWS = {
    "sentiment": ("text", "label"),
    "entailment": ("a", "b", "label"),
    "qa": (*QA, "id"),
    "entities": ("words", "tags"),
    "pos": ("words", "tags"),
    "pairs": ("a", "b"),
    "rerank": ("query", "document", "label"),
}


def encode(batch: Sequence[Example]) -> list[list[Item]]:
    """Every example as bytes of all its roles, two items where it is long, with a number of its own."""
    out: list[list[Item]] = []
    for example in batch:
        body = json.dumps({k: v for k, v in example.items() if k[0] != "_"}, sort_keys=True).encode()
        ids = np.frombuffer(body, np.uint8).astype(np.int64) + 3
        pieces = [ids[i : i + 60] for i in range(0, len(ids), 60)]
        out.append([{"tokens": p, "example": int(example["_index"])} for p in pieces])
    return out


def split_of(path: object, cache: Path, **options: Any) -> Splits:
    config = DataConfig.model_validate(
        {"sources": str(path), "val_fraction": options.pop("val_fraction", 0.2)}
    )
    given = {
        "encode": encode,
        "key": "k",
        "context": 64,
        "seed": 0,
        "cache": cache,
        "lookahead": 0,
        "join": False,
    }
    return prepare(config, None, **{**given, **options})  # type: ignore[arg-type]


def ids(dataset: Any) -> set[int]:
    batch = dataset.batch(np.arange(dataset.rows))
    return set(batch["example"][batch["doc"] >= 0].tolist())


@pytest.mark.parametrize("view", VIEWS)
def test_world_views_are_split_as_prepare_splits_them(tmp_path: Path, view: str) -> None:
    roles = VIEWS[view]
    config = DataConfig.model_validate({"sources": "world:60", "val_fraction": 0.2})
    sides = {
        side: list(examples(config, None, side, roles=roles, view=view, cache=tmp_path))
        for side in ("train", "val")
    }
    assert all(set(roles) <= set(e) for side in sides.values() for e in side)
    splits = split_of("world:60", tmp_path, roles=roles, view=view)
    assert splits.val is not None
    assert ids(splits.train) == {e["_index"] for e in sides["train"]}
    assert ids(splits.val) == {e["_index"] for e in sides["val"]}
    groups = [{e["_group"] for e in sides[side]} for side in ("train", "val")]
    assert not groups[0] & groups[1] and groups[0] and groups[1]  # a story stands on one side
    stories = {e["text"] for e in examples(config, None, "val", cache=tmp_path)}
    assert groups[1] <= stories  # the very stories that pretraining holds out


def test_rows_hold_whole_items_and_no_lookahead(tmp_path: Path) -> None:
    splits = split_of("world:30", tmp_path, roles=VIEWS["entities"], view="entities")
    train = splits.train
    batch = train.batch(np.arange(train.rows))
    assert train.row == 64 and batch["tokens"].shape == (train.rows, 64)
    lengths = train.parts[0].store.lengths()
    pieces = int((np.diff(batch["doc"], prepend=-1, axis=1) != 0)[batch["doc"] >= 0].sum())
    assert pieces == len(lengths) and int((batch["doc"] >= 0).sum()) == int(
        lengths.sum()
    )  # none cut, none lost
    assert train.report.repeated == 0 == train.report.cropped
    again = split_of("world:30", tmp_path, roles=VIEWS["entities"], view="entities")
    assert again.report.sources[0].cached and again.train.hash == train.hash


def test_an_item_longer_than_a_row_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="60 tokens does not fit a row of 32"):
        split_of("world:30", tmp_path, context=32)


def test_parts_of_a_giant_document_join_or_not(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("line of words\n" * (SEGMENT // 8))

    def small(batch: Sequence[Example]) -> list[list[Item]]:
        return [[{"tokens": np.full(40, 3), "example": 0}] for _ in batch]

    for join, items in ((True, 1), (False, 2)):
        config = DataConfig.model_validate({"sources": str(path), "val_fraction": 0})
        given: Any = {"encode": small, "key": "k", "context": 64, "seed": 0, "cache": tmp_path / "c"}
        splits = prepare(config, None, **given, lookahead=0, join=join)
        assert splits.train.parts[0].store.items == items
        assert splits.train.parts[0].store.lengths().tolist() == [80 // items] * items


def test_three_rows_are_enough_for_items_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"text": f"row {i}", "label": i % 2} for i in range(3)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    splits = split_of(path, tmp_path / "c", roles=("text", "label"))
    assert splits.train.rows and splits.val is not None and splits.val.rows == 1
    assert ids(splits.train) == {0, 1} and ids(splits.val) == {2}


def test_validation_data_of_its_own_is_read_as_the_training_data_is(tmp_path: Path) -> None:
    a, b = tmp_path / "a.train", tmp_path / "a.dev"
    a.write_text("".join(f"D:x words {i}\nE:y others {i}\n" for i in range(30)))
    b.write_text("".join(f"D:x new {i}\n" for i in range(3)))
    data = DataConfig.model_validate({"sources": str(a), "format": "labelled", "fields": {"label": "coarse"}})
    val = DataConfig.model_validate({"sources": str(b)})
    roles = ("text", "label")
    train = list(examples(data, val, "train", roles=roles, cache=tmp_path / "c"))
    held = list(examples(data, val, "val", roles=roles, cache=tmp_path / "c"))
    assert len(train) == 60 and [e["label"] for e in held] == ["D"] * 3
    assert not list(
        examples(data.model_copy(update={"val_fraction": 0.0}), None, "val", roles=roles, cache=tmp_path)
    )


def test_what_is_left_out_is_reported_and_remembered(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"text": f"row {i}" if i % 10 else "", "label": i % 2} for i in range(60)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    for _ in range(2):
        report = split_of(path, tmp_path / "c", roles=("text", "label")).report
        assert report.sources[0].dropped == {
            "empty text": [6, *(f"{path}, record {n}" for n in (1, 11, 21, 31, 41))]
        }
        assert any("skipped 6 empty text (first: " in line for line in report.lines())
        assert report.sources[0].fields == {"text": "text", "label": "label"}


def test_leaks_are_found_by_the_inputs_whatever_the_label(tmp_path: Path) -> None:
    train, val = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    train.write_text("".join(json.dumps({"text": f"row {i}", "label": 0}) + "\n" for i in range(40)))
    val.write_text("".join(json.dumps({"text": f"row {i}", "label": 1}) + "\n" for i in range(38, 48)))
    config, apart = (DataConfig.model_validate({"sources": str(p)}) for p in (train, val))
    given: Any = {"encode": encode, "key": "k", "context": 64, "seed": 0, "cache": tmp_path / "c"}
    splits = prepare(config, apart, **given, roles=("text", "label"), lookahead=0, join=False)
    assert splits.report.leak is not None and splits.report.leak.exact == 2


def test_no_pair_of_the_world_stands_in_both_splits(tmp_path: Path) -> None:
    config = DataConfig.model_validate({"sources": "world:150", "val_fraction": 0.2})
    asked: Any = {"roles": ("query", "document", "label"), "view": "rerank", "cache": tmp_path}
    drops = Drops()
    sides = [list(examples(config, None, side, **asked, drops=drops)) for side in ("train", "val")]
    train, val = ([(e["query"], e["document"]) for e in side] for side in sides)
    assert len(set(train)) == len(train) > 500 and len(set(val)) == len(val) > 100
    assert not set(train) & set(val)
    groups = [{e["_group"] for e in side} for side in sides]
    assert not groups[0] & groups[1]  # and stories stay whole
    assert set(drops.counts) <= {"that an earlier story told"}


def test_texts_of_several_roles_are_the_inputs_of_the_training_side(tmp_path: Path) -> None:
    config = DataConfig.model_validate({"sources": "world:40", "val_fraction": 0.2})
    asked: Any = {"roles": VIEWS["qa"], "view": "qa", "cache": tmp_path}
    got = set(texts(config, limit_bytes=10_000_000, **asked))
    train = list(examples(config, None, "train", **asked))
    assert got == {f"{e['question']}\n{e['context']}" for e in train}


# hashes and groups ----------------------------------------------------------------------------------


def test_what_decides_the_side() -> None:
    question = {"question": "q", "context": "c", "answers": []}
    assert group_hash(question) == group_hash({**question, "question": "other"}) == group_hash({"text": "c"})
    assert group_hash({**question, "_group": "g"}) == group_hash({"_group": "g", "text": "x"})
    assert (
        group_hash({"a": "p", "b": "x"})
        == group_hash({"a": "p", "b": "y"})
        != group_hash({"a": "q", "b": "x"})
    )
    assert (
        group_hash({"text": "t", "label": 1})
        == group_hash({"text": "t", "label": 2})
        == document_hash({"text": "t"})
    )
    assert group_hash({"words": ["a", "b"], "tags": ["O", "O"]}) == group_hash({"text": "a b"})
    assert inputs_hash(question) == inputs_hash(
        {**question, "answers": [{"text": "c", "start": 0}], "id": "7"}
    )
    assert inputs_hash(question) != inputs_hash({**question, "question": "other"})


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=2, max_size=60), st.floats(0.02, 0.9))
def test_few_groups_are_divided_whole(numbers: list[int], fraction: float) -> None:
    rows = [{"question": f"q{i}", "context": f"c{n}", "answers": []} for i, n in enumerate(numbers)]
    plan = make(rows, fraction=fraction, plain=False)
    side = [plan.side(group_hash(e)) if s is None else s for e, s in plan.assign(rows)]
    assert {TRAIN, VAL} == set(side)
    kinds = len(set(numbers))
    if 1 < kinds < min(FEW, len(numbers)):
        assert plan.mode == "groups" and f"of {kinds} groups" in plan.note
        where: dict[int, set[int]] = {}
        for n, s in zip(numbers, side, strict=True):
            where.setdefault(n, set()).add(s)
        assert all(len(s) == 1 for s in where.values())
        if len(plan.held) > 1:  # no nearer to the fraction without the group that was added last
            added = next(n for n in numbers if where[n] == {VAL})
            count, wanted = side.count(VAL), fraction * len(numbers)
            assert abs(count - wanted) <= abs(count - numbers.count(added) - wanted) + 1e-9
    else:
        assert plan.mode == "tail"
