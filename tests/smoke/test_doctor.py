"""The doctor: what is planted is found and named, what is sound is passed, and samples show what is trained
on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import exnihilo as xn
from exnihilo.cli import main
from exnihilo.doctor import Diagnosis

Capture = pytest.CaptureFixture[str]
SMALL = ["model.context=48", "codec.kind=wordpiece", "codec.vocab_size=600", "codec.lowercase=true"]


def written(folder: Path, name: str, rows: Sequence[dict[str, Any]]) -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def levels(diagnosis: Diagnosis, level: str) -> str:
    return "\n".join(f.text for f in diagnosis.findings if f.level == level)


def examined(recipe: str, data: Any, *more: str, **settings: Any) -> Diagnosis:
    return xn.doctor(
        recipe, data=data if isinstance(data, str) else str(data), overrides=[*SMALL, *more], **settings
    )


SENTENCES = [
    f"{who} saw the {what} near the {where}."
    for who in ("Mia", "Tom", "Ada", "Bo")
    for what in ("fox", "cat", "old dog", "red hen")
    for where in ("mill", "lake", "inn", "hill")
]


def reviews() -> list[dict[str, Any]]:
    return [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(SENTENCES)]


def test_sound_data_passes(tmp_path: Path) -> None:
    train = written(tmp_path, "train.jsonl", reviews()[:60])
    val = written(tmp_path, "val.jsonl", reviews()[60:])
    found = examined("sentence_classification", train, f"val={val}")
    assert not found.broken and not levels(found, "warning"), found.text()
    assert "nothing stands in the way" in found.text()
    [labels] = [t for t in found.tables if t.title == "labels"]
    assert {row[0]: row[1] for row in labels.rows} == {"a": 30, "b": 30}
    assert len(found.samples) == 3 and "[CLS] mia saw the fox" in found.samples[0].text()


def test_copies_leaks_conflicts_unseen_labels_and_imbalance(tmp_path: Path) -> None:
    rows = [{**row, "label": "a"} for row in reviews()[:60]]
    rows[7]["label"] = "b"
    rows += [rows[0], rows[1], {**rows[3], "label": "b"}]
    train = written(tmp_path, "train.jsonl", rows)
    val = written(tmp_path, "val.jsonl", [*reviews()[60:], {"text": "New words.", "label": "z"}, rows[5]])
    found = examined("sentence_classification", train, f"val={val}")
    text = levels(found, "warning")
    assert "3 training examples are copies: row 61 = row 1" in text
    assert "same inputs and different answers: row 4 and row 63" in text
    assert "1 validation examples (16.7%) are also training examples: val row 6 = train row 6" in text
    assert "labels of val that training never sees" in text and "'z' (1)" in text
    assert "are 'a': accuracy says little" in text and "'b' (2)" in text
    assert not found.broken


def test_validation_that_is_all_of_training_is_broken(tmp_path: Path) -> None:
    train = written(tmp_path, "train.jsonl", reviews()[:60])
    val = written(tmp_path, "val.jsonl", reviews()[:5])
    found = examined("sentence_classification", train, f"val={val}")
    assert found.broken and "5 validation examples (100.0%) are also" in levels(found, "broken")


def test_one_class_is_broken_and_says_so(tmp_path: Path, capsys: Capture) -> None:
    rows = written(tmp_path, "train.jsonl", [{**row, "label": "same"} for row in reviews()])
    words = ["doctor", "sentence_classification", f"data={rows}", *SMALL]
    assert main([*words, "--json"]) == 1
    seen = capsys.readouterr()
    figures = json.loads(seen.out.splitlines()[-1])
    assert figures["broken"] and any("same label" in f["text"] for f in figures["findings"])
    assert "BROKEN" in seen.err and "\x1b" not in seen.err


def test_truncation_and_windows_are_counted(tmp_path: Path) -> None:
    long = " ".join(SENTENCES[:20])
    rows = [*reviews()[:60], {"text": long, "label": "a"}]
    found = examined("sentence_classification", written(tmp_path, "a.jsonl", rows))
    assert "1 examples (" in levels(found, "warning") and "lose" in levels(found, "warning")
    questions = [{"question": "Who?", "context": long, "answers": [{"text": "Mia", "start": 0}]}] * 3
    found = examined("span_qa", written(tmp_path, "b.jsonl", questions), "data.val_fraction=0")
    assert found.facts["in several windows"].startswith("3 examples")


def test_answers_that_are_not_where_they_should_be(tmp_path: Path) -> None:
    def row(number: int, text: str, start: int) -> dict[str, Any]:
        context = f"Mia{number} ran to the mill."
        return {"question": f"Who {number}?", "context": context, "answers": [{"text": text, "start": start}]}

    rows = [row(i, f"Mia{i}", 0) for i in range(60)]
    rows[4] = row(4, "mill", 3)
    rows[9] = row(9, "nowhere", 0)
    rows[11]["answers"] = []
    found = examined("span_qa", written(tmp_path, "qa.jsonl", rows), "data.val_fraction=0")
    text = levels(found, "warning")
    assert "not at their offset: row 5: 'mill'" in text
    assert "nowhere in their context: row 10: 'nowhere'" in text
    assert found.facts["train questions without an answer"] == "1 (1.7%)"
    shown = found.samples[0].text()
    assert "«mia" in shown and "»" in shown


def test_tags_against_words(tmp_path: Path) -> None:
    lines = []
    for i in range(60):
        lines += [f"Mia{i} B-PER", "ran O", "home O", ""]
    lines += ["Tom I-PER", "ran O", "", "Lake B-LOC", ""]
    train = tmp_path / "train.conll"
    train.write_text("\n".join(lines), encoding="utf-8")
    val = tmp_path / "val.conll"
    val.write_text("Rome B-GPE\nfell O\n\n", encoding="utf-8")
    found = examined("token_tagging", train, f"val={val}")
    text = levels(found, "warning")
    assert "go on with an entity that was not begun: train" in text and "I-PER after O" in text
    assert "types of val that training never sees" in text and "'GPE' (1)" in text
    assert found.facts["scheme"] == "bio"
    assert "/B-PER" in found.samples[0].text()
    rows = [{"words": ["Mia", f"ran{i}"], "tags": ["B-PER", "O"]} for i in range(60)]
    rows[3]["tags"] = ["B-PER"]
    found = examined("token_tagging", written(tmp_path, "t.jsonl", rows), "data.val_fraction=0")
    assert "tags that do not match the words" in levels(found, "warning")
    assert "record 4" in levels(found, "warning")


def test_masks_segments_and_pairs(tmp_path: Path) -> None:
    found = xn.doctor("bert", data="world:60", overrides=["codec.vocab_size=900", "model.context=64"])
    assert not found.broken
    shares = found.facts["masked positions"]
    assert shares.startswith("15") or shares.startswith("14") or shares.startswith("16")
    shown = "\n".join(sample.text() for sample in found.samples)
    assert "[MASK]{" in shown and "A: [CLS]" in shown and "B: " in shown and "follows: " in shown
    assert "follows: yes" in found.facts["pairs"]


def test_one_sentence_documents_have_no_pairs(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(SENTENCES), encoding="utf-8")
    found = xn.doctor(
        "bert", data=str(path), overrides=["codec.vocab_size=600", "data.unit=line", "model.context=32"]
    )
    assert "have one sentence: no pair" in levels(found, "warning") or found.broken


def test_a_decoder_learns_to_begin_and_end() -> None:
    found = xn.doctor("gpt", data="world:60", overrides=["codec.vocab_size=900", "model.context=64"])
    assert found.facts["documents with BOS, with EOS"] == "100.0%, 100.0%"
    assert "longer than a row" in found.facts["documents cut"]
    assert found.samples[0].lines[0][0][1] == "special"


def test_data_that_cannot_be_read_is_a_finding(tmp_path: Path) -> None:
    found = examined("sentence_classification", written(tmp_path, "x.jsonl", [{"words": 1}] * 30))
    assert found.broken and "'text'" in levels(found, "broken")


def test_at_most_so_many_are_read(tmp_path: Path, capsys: Capture) -> None:
    path = written(tmp_path, "train.jsonl", reviews())
    words = ["doctor", "sentence_classification", f"data={path}", *SMALL, "max_examples=20", "samples=1"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "20 (the first; the rest was not read)" in shown and "verdict: " in shown
    assert shown.count("[CLS]") == 1


def test_conversations_show_what_is_learnt_and_what_is_cut(tmp_path: Path) -> None:
    def row(question: str, *more: dict[str, Any]) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": question}, *more]}

    says: dict[str, Any] = {"role": "assistant", "content": "At the mill."}
    rows = [row(f"{text} Where?", says) for text in SENTENCES]
    rows += [row("Is it far? " * 60, says), row("Only read.", {**says, "weight": 0})]
    data = written(tmp_path, "talks.jsonl", rows)
    found = xn.doctor(
        "sft", data=str(data), overrides=["codec.vocab_size=500", "model.context=64", "data.val_fraction=0"]
    )
    assert not found.broken, found.text()
    shown = found.samples[0].text()
    assert "«At the mill.<|im_end|>»" in shown and "«" not in shown.split("assistant")[0]
    told = levels(found, "warning")
    assert "1 conversations without an exchange that fits the context: line 65" in told
    assert "1 conversations with nothing to train on: line 66" in told
    assert found.facts["tokens learnt"].endswith("the others are read")
