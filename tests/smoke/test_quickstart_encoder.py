"""The encoder's quickstart end to end, cut to seconds, and what it says of its examples."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exnihilo.cli import main
from exnihilo.errors import UsageError
from exnihilo.predictions import load_run
from exnihilo.quickstart import encoder, encoder_closing, encoder_pretraining, encoder_tasks, tokens
from exnihilo.quickstart.chain import Chain, free
from exnihilo.world import HELD_OUT, World

NAMES = {"sentence_classification", "pair_classification", "span_qa", "token_tagging"}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, own_cache: object) -> Iterator[tuple[Path, str]]:
    """One run of the command line on little data, with its standard output."""
    usual = encoder_pretraining.settings
    few = tuple(replace(task, train=40, val=20, steps=3) for task in encoder_tasks.TASKS)

    def small(chain: Chain) -> dict[str, Any]:
        more = {"model.depth": 1, "model.width": 32, "model.heads": 2, "batch.tokens": 512, "threads": 1}
        return {**usual(chain), **more, "eval.tokens": 2048, "checkpoint.every": 2}

    run = tmp_path_factory.mktemp("runs") / "e"
    stream = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "HELD_OUT", 30)
        patch.setattr(encoder_pretraining, "DOCUMENTS", 120)
        patch.setattr(encoder_pretraining, "VOCABULARY", 400)
        patch.setattr(encoder_pretraining, "GAPS", 12)
        patch.setattr(encoder_pretraining, "settings", small)
        for module in (encoder_tasks, encoder_closing):
            patch.setattr(module, "TASKS", few)
            patch.setattr(module, "SEEDS", 1)
        patch.setattr(encoder_tasks, "LEAST_STEPS", 1)
        patch.setattr("sys.stdout", stream)
        code = main(["quickstart", "--encoder", f"run={run}", "minutes=0.02", "device=cpu"])
    assert code == 0
    yield run, stream.getvalue()


def test_every_stage_leaves_its_figures(told: tuple[Path, str]) -> None:
    run, _ = told
    figures = json.loads((run / "quickstart.json").read_text())
    assert figures["chance_nats"] == pytest.approx(math.log(figures["vocabulary"]))
    assert figures["mlm"] < figures["progress"][0]["mlm"] == pytest.approx(figures["chance_nats"], rel=0.02)
    assert all(0 <= row["next_accuracy"] <= 1 for row in figures["progress"])
    assert list(figures["gaps"])[0] == "random weights" and len(figures["gaps"]) >= 2
    assert set(figures["tasks"]) == set(figures["examples"]) == NAMES
    for found in figures["tasks"].values():
        assert found["steps"] == 3 and found["seeds"] == [0] and found["majority"] is not None
        assert math.isfinite(found["with"]["mean"]) and math.isfinite(found["without"]["mean"])
    for name in ("loss.png", "report.html", "model.safetensors", "tokenizer.json"):
        assert (run / name).stat().st_size > 0
    assert not (run / "checkpoints").exists()  # their gaps are shown, and they are large


def test_it_says_what_was_learned_and_what_to_do_next(told: tuple[Path, str]) -> None:
    run, text = told
    for words in ("knows nothing", "NSP", "[MASK]", "random weights", "majority", "without pretraining"):
        assert words in text
    for name in NAMES:
        assert f"exnihilo predict {run / name} " in text
    assert "\x1b" not in text  # no terminal, no colours


def test_what_it_leaves_can_be_asked(told: tuple[Path, str]) -> None:
    run, _ = told
    assert len(load_run(run).predict("The [MASK] was old.")["gaps"]) == 1
    kinds = load_run(run / "pair_classification").predict("It rained.", "It was wet.")["probabilities"]
    assert set(kinds) == {"entailment", "neutral", "contradiction"} and sum(kinds.values()) == pytest.approx(
        1
    )


def test_it_refuses_what_it_cannot_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="books"):
        encoder.start(data="books", run=tmp_path / "q")
    with pytest.raises(UsageError, match="minutes=-1"):
        encoder.start(minutes=-1, run=tmp_path / "q")
    assert not (tmp_path / "q").exists()
    monkeypatch.chdir(tmp_path)
    assert free(encoder.NAME) == Path("runs/quickstart-encoder")


def test_questions_keep_their_answers_in_one_paragraph() -> None:
    found = encoder_tasks.made(World(0), "qa", HELD_OUT)
    for values, _ in zip(found, range(60), strict=False):
        [answer] = values["answers"]
        assert values["context"][answer["start"] :].startswith(answer["text"])
        assert "\n\n" not in values["context"]


def test_answers_and_spans_stand_where_they_are() -> None:
    example = {"question": "Who ran?", "context": "Mia ran.", "answers": [{"text": "Mia", "start": 0}]}
    said = {"answer": "Mia", "start": 0, "end": 3, "probability": 0.9}
    shown = encoder_closing.answer(example, said)[1]
    assert [(span.start, span.end) for span in shown.spans] == [(0, 3)]
    silent = {"answer": "", "start": None, "end": None, "probability": 0.9}
    assert "no answer" in encoder_closing.answer(example, silent)[2].plain
    span = {"start": 0, "end": 3, "label": "PERSON"}
    tagged = encoder_closing.tags({"spans": [span]}, {"text": "Mia ran.", "spans": [span]})
    assert tagged[0].plain == "Mia[PERSON] ran." and "1 of 1 right" in tagged[1].plain


def test_intervals_stay_within_what_is_possible() -> None:
    task = encoder_tasks.TASKS[0]
    assert encoder_closing._cell({"mean": 0.9, "low": 0.7, "high": 1.1}, task) == "90.0 (70.0–100.0)"
    assert encoder_closing._cell({"mean": 0.9, "low": None, "high": None}, task) == "90.0"
