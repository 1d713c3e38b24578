"""Fields that are found by their names, and the one shape of each role's value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exnihilo.config import DataConfig
from exnihilo.data import Drops, open_sources
from exnihilo.data.fields import detect
from exnihilo.errors import DataError

LABEL = ("text", "label")
PAIR = ("a", "b", "label")
QA = ("question", "context", "answers")
TAGS = ("words", "tags")


def found(row: dict[str, Any], *roles: str, extras: tuple[str, ...] = (), **given: str) -> dict[str, str]:
    return detect([row], roles=roles, given=given, where="f", extras=extras)


@pytest.mark.parametrize(
    ("a", "b", "label"),
    [
        ("sentence1", "sentence2", "label"),
        ("premise", "hypothesis", "gold_label"),
        ("question1", "question2", "is_duplicate"),
        ("#1 String", "#2 String", "Quality"),
        ("text_a", "text_b", "labels"),
        ("sentence_A", "sentence_B", "relatedness_score"),
        ("question", "sentence", "label"),
        ("sentence1", "sentence2", "score"),
        ("Sentence1", "Sentence2", "Label"),
    ],
)
def test_pairs_by_name(a: str, b: str, label: str) -> None:
    row = {"idx": 0, b: "y", label: "1", a: "x"}
    assert found(row, *PAIR) == {"a": a, "b": b, "label": label}


def test_other_roles_by_name() -> None:
    assert found({"sentence": "x", "label": 1, "idx": 2}, *LABEL) == {"text": "sentence", "label": "label"}
    assert found({"review": "x", "sentiment": "pos"}, *LABEL) == {"text": "review", "label": "sentiment"}
    row = {"id": "1", "tokens": ["a"], "pos_tags": [1], "chunk_tags": [1], "ner_tags": [0]}
    assert found(row, *TAGS, extras=("id",)) == {"words": "tokens", "tags": "ner_tags", "id": "id"}
    assert found(row, *TAGS, tags="pos_tags") == {"words": "tokens", "tags": "pos_tags"}
    assert found({"words": ["a"], "upos": [1]}, *TAGS) == {"words": "words", "tags": "upos"}
    squad = {"id": "1", "title": "t", "context": "c", "question": "q", "answers": {}}
    assert found(squad, *QA) == {"question": "question", "context": "context", "answers": "answers"}
    rank = {"query": "q", "passage": "p", "relevance": 1}
    assert found(rank, "query", "document", "label") == {
        "query": "query",
        "document": "passage",
        "label": "relevance",
    }
    assert found({"anchor": "q", "positive": "p"}, "a", "b", extras=("score",)) == {
        "a": "anchor",
        "b": "positive",
    }


def test_spans_stand_for_words_and_tags() -> None:
    row = {"text": "Mia ran.", "entities": [{"start": 0, "end": 3, "label": "PER"}]}
    assert found(row, *TAGS) == {"text": "text", "spans": "entities"}
    assert found({**row, "tokens": ["Mia"], "ner_tags": ["B-PER"]}, *TAGS) == {
        "words": "tokens",
        "tags": "ner_tags",
    }
    with pytest.raises(DataError, match="no column fits the role 'words'; found: body"):
        found({"body": "x"}, *TAGS)


def test_by_content_where_no_name_is_known() -> None:
    rows = [
        {"column_1": str(i % 2), "column_2": f"some longer text {i}", "column_3": str(i)} for i in range(30)
    ]
    assert detect(rows, roles=LABEL, given={}, where="f") == {"text": "column_2", "label": "column_1"}
    pairs = [{"x": f"this is sentence {i}", "y": f"and another one {i}", "z": "ab"[i % 2]} for i in range(30)]
    assert detect(pairs, roles=PAIR, given={}, where="f") == {"a": "x", "b": "y", "label": "z"}
    two = [{**row, "w": "cd"[i % 3 == 0]} for i, row in enumerate(pairs)]
    with pytest.raises(DataError, match="no column fits the role 'label'; found: x, y, z, w") as caught:
        detect(two, roles=PAIR, given={}, where="f")
    assert "data.fields={ label = COLUMN }" in caught.value.next
    with pytest.raises(DataError, match="no column 'nil' for the role 'text'"):
        detect(two, roles=LABEL, given={"text": "x+nil", "label": "z"}, where="f")


# values ---------------------------------------------------------------------------------------------


def run(
    tmp_path: Path, rows: list[Any], roles: tuple[str, ...], extras: tuple[str, ...] = (), **options: Any
) -> tuple[list[dict[str, Any]], Drops]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    (source,) = open_sources(
        DataConfig.model_validate({"sources": str(path), **options}), roles=roles, extras=extras
    )
    drops = Drops()
    got = [{k: v for k, v in e.items() if k[0] != "_"} for e in source.examples(drops)]
    return got, drops


def test_records_without_a_value_are_counted_and_nothing_else_is_lost(tmp_path: Path) -> None:
    rows = [
        {"text": "fine", "label": "a"},
        {"text": "", "label": "a"},
        {"text": None, "label": "a"},
        {"text": " \n", "label": "b"},
        {"text": "x", "label": None},
        {"text": "x", "label": float("nan")},
        {"text": "x", "label": " "},
        {"text": "e\u0301 \U0001f600" * 1000, "label": 0},
        {"text": "y", "label": ["a", "b"]},
        {"text": "z" * (1 << 21), "label": True},
    ]
    got, drops = run(tmp_path, rows, LABEL)
    assert [e["label"] for e in got] == ["a", 0, ["a", "b"], True]
    assert got[1]["text"] == rows[7]["text"] and len(got[3]["text"]) == 1 << 21  # whole: not in parts
    assert dict(drops.counts) == {"empty text": 2, "without text": 1, "without label": 3}
    assert drops.first["without label"].endswith("rows.jsonl, record 5")


@pytest.mark.parametrize(
    ("row", "roles", "place"),
    [
        ({"text": "x"}, LABEL, "record 2: no column 'label'.*found: text"),
        ({"text": 5, "label": 1}, LABEL, "record 2: column 'text' holds int '5'"),
        ({"text": "x", "label": {"a": 1}}, LABEL, "record 2: column 'label' holds dict"),
    ],
)
def test_a_wrong_value_names_the_record(
    tmp_path: Path, row: dict, roles: tuple[str, ...], place: str
) -> None:
    with pytest.raises(DataError, match=place) as caught:
        run(tmp_path, [{"text": "x", "label": 1}, row], roles)
    assert caught.value.expected and caught.value.next


def test_a_question_without_answers_is_left_out_and_an_empty_context_stays(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"question": "Who?", "context": "Mia ran.", "answers": [{"text": "Mia", "start": 0}]},
        {"question": "Who?", "context": "Bob ran."},
        {"question": "Who?", "context": "", "answers": []},
        {"question": "Who?", "context": " ", "answers": {"text": [], "answer_start": []}},
        {"question": "", "context": "Mia ran.", "answers": []},
    ]
    got, drops = run(tmp_path, rows, QA)
    assert [(e["context"], len(e["answers"])) for e in got] == [("Mia ran.", 1), ("", 0), (" ", 0)]
    assert drops.counts == {"without answers": 1, "empty question": 1}
    assert drops.first["without answers"].endswith("record 2")
    nested = {"title": "T", "paragraphs": [{"context": "Mia ran.", "qas": rows[:2]}]}
    nested["paragraphs"].append({"context": "", "qas": [{"question": "Why?", "is_impossible": True}]})
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"data": [nested]}).replace('"start"', '"answer_start"'))
    drops = Drops()
    (source,) = open_sources(DataConfig.model_validate({"sources": str(path)}), roles=QA)
    got = list(source.examples(drops))
    assert [(e["context"], len(e["answers"])) for e in got] == [("Mia ran.", 1), ("", 0)]
    assert drops.counts == {"without answers": 1} and "question 2" in drops.first["without answers"]


def test_answers_in_every_shape(tmp_path: Path) -> None:
    shapes: list[tuple[Any, list]] = [
        ({"text": ["Mia"], "answer_start": [0]}, [{"text": "Mia", "start": 0}]),
        (
            {"text": ["Mia", "ran"], "answer_start": [0, 4]},
            [{"text": "Mia", "start": 0}, {"text": "ran", "start": 4}],
        ),
        ({"text": [], "answer_start": []}, []),
        ([{"text": "ran", "answer_start": 4}], [{"text": "ran", "start": 4}]),
        ([{"text": "ran", "start": 4}], [{"text": "ran", "start": 4}]),
        ({"text": "ran", "answer_start": 4}, [{"text": "ran", "start": 4}]),
        ({"text": ["ran"]}, [{"text": "ran", "start": 4}]),
        ("ran", [{"text": "ran", "start": 4}]),
        ("flew", [{"text": "flew", "start": -1}]),
        ("", []),
        (None, []),
        ([], []),
        ('{"text": ["Mia"], "answer_start": [0]}', [{"text": "Mia", "start": 0}]),
    ]
    rows = [{"question": "q?", "context": "Mia ran.", "answers": given} for given, _ in shapes]
    got, drops = run(tmp_path, rows, QA)
    assert [e["answers"] for e in got] == [wanted for _, wanted in shapes] and not drops.counts
    impossible = [{"question": "q?", "context": "Mia ran.", "answers": "Mia", "is_impossible": True}]
    assert run(tmp_path, impossible, QA)[0][0]["answers"] == []
    for bad in (5, [{"answer_start": 1}], {"answer_start": [1]}, [{"text": 1, "answer_start": 1}]):
        with pytest.raises(DataError, match="record 1: column 'answers' holds"):
            run(tmp_path, [{"question": "q?", "context": "c", "answers": bad}], QA)


def test_words_and_tags(tmp_path: Path) -> None:
    rows = [
        {"tokens": ["Mia", "ran"], "ner_tags": ["B-PER", "O"]},
        {"tokens": ["Mia", "ran"], "ner_tags": ["B-PER"]},
        {"tokens": [], "ner_tags": []},
        {"tokens": ["Mia", "", "\u00a0"], "ner_tags": ["B-PER", "O", "O"]},
        {"tokens": "Mia ran", "ner_tags": "B-PER O"},
        {"tokens": '["New York", "ran"]', "ner_tags": '["B-LOC", "O"]'},
        {"tokens": ["a"], "ner_tags": [3]},
    ]
    got, drops = run(tmp_path, rows, TAGS)
    assert [e["words"] for e in got] == [["Mia", "ran"], ["Mia"], ["Mia", "ran"], ["New York", "ran"], ["a"]]
    assert [e["tags"] for e in got] == [["B-PER", "O"], ["B-PER"], ["B-PER", "O"], ["B-LOC", "O"], ["3"]]
    assert dict(drops.counts) == {
        "tags that do not match the words": 1,
        "without words": 1,
        "blank words (their sentences stay)": 1,
    }
    with pytest.raises(DataError, match="record 1: column 'tokens' holds dict"):
        run(tmp_path, [{"tokens": {"a": 1}, "ner_tags": ["O"]}], TAGS)


def test_spans(tmp_path: Path) -> None:
    rows = [
        {"text": "Mia ran.", "spans": [{"start": 0, "end": 3, "type": "PER"}]},
        {"text": "Mia ran.", "spans": [[0, 3, "PER"]]},
        {"text": "It ran.", "spans": []},
    ]
    got, _ = run(tmp_path, rows, TAGS)
    assert [e["spans"] for e in got] == [[{"start": 0, "end": 3, "label": "PER"}]] * 2 + [[]]
    with pytest.raises(DataError, match="column 'spans' holds list"):
        run(tmp_path, [{"text": "x", "spans": [[0, 3]]}], TAGS)


def test_scores_and_joined_columns(tmp_path: Path) -> None:
    rows = [{"sentence1": "x", "sentence2": "y", "score": s} for s in ("4.5", 3, None, float("nan"))]
    got, drops = run(tmp_path, rows, ("a", "b"), ("score",))
    assert [e.get("score") for e in got] == [
        4.5,
        3.0,
        None,
        None,
    ] and not drops.counts  # an extra may be absent
    got, drops = run(tmp_path, rows, ("a", "b", "score"))
    assert [e["score"] for e in got] == [4.5, 3.0] and drops.counts["without score"] == 2
    titled = [{"title": "T ", "body": "words"}, {"title": None, "body": "more"}, {"title": "", "body": None}]
    got, drops = run(tmp_path, titled, ("text",), fields={"text": "title + body"})
    assert [e["text"] for e in got] == ["T words", "more"] and drops.counts["without text"] == 1


def test_integer_ids_become_the_names_that_the_hub_gives(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "tokens": [datasets.Value("string")],
            "ner_tags": datasets.Sequence(datasets.ClassLabel(names=["O", "B-PER"])),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["neg", "pos"]),
        }
    )
    rows = {
        "tokens": [["Mia", "ran"], ["a"]],
        "ner_tags": [[1, 0], [0]],
        "text": ["fine", "hidden"],
        "label": [1, -1],
    }
    path = tmp_path / "train.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path))
    config = DataConfig.model_validate({"sources": str(path)})

    def read(roles: tuple[str, ...]) -> list[dict[str, Any]]:
        (source,) = open_sources(config, roles=roles)
        return [{k: v for k, v in e.items() if k[0] != "_"} for e in source.examples()]

    assert read(TAGS)[0] == {"words": ["Mia", "ran"], "tags": ["B-PER", "O"]}
    assert read(LABEL) == [{"text": "fine", "label": "pos"}]
    plain = tmp_path / "plain.parquet"
    pq.write_table(pa.table({"text": ["a"], "label": np.array([1])}), plain)
    (source,) = open_sources(DataConfig.model_validate({"sources": str(plain)}), roles=LABEL)
    assert [e["label"] for e in source.examples()] == [1]


@pytest.mark.filterwarnings("ignore")
def test_hub_features_map_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    from exnihilo.data import hub

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    rows = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [1, 0]}, features=features)
    monkeypatch.setattr(hub, "load", lambda path: rows)
    (source,) = open_sources(DataConfig.model_validate({"sources": "hub:o/n"}), roles=LABEL)
    assert [e["label"] for e in source.examples()] == ["yes", "no"]
