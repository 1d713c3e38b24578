"""``exnihilo eval RUN --suite ...`` and its Python twin: what is obeyed, what is refused, what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import exnihilo as xn
from exnihilo.cli import main
from exnihilo.errors import DataError, UsageError
from exnihilo.predictions.suites import run_suites

PROBLEMS = [{"q": f"What is {n} + 4?", "answer": f"#### {n + 4}"} for n in range(4)]


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("problems") / "g.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in PROBLEMS))
    return path


def test_the_command_line_says_what_python_returns(
    little_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "t.txt"
    text.write_text("The old fox lives in a small den by the river.\n")
    out = tmp_path / "items.jsonl"
    suites = f"bits_per_byte={text},lambada={text}"
    words = ["eval", str(little_folder), "--suite", suites, "stride=8", f"out={out}", "device=cpu"]
    assert main([*words, "--json"]) == 0
    caught = capsys.readouterr()
    told = json.loads(caught.out.splitlines()[-1])
    found = xn.eval(little_folder, suite=suites, stride=8, device="cpu", progress=False)
    assert told["suites"] == found["suites"] and set(found["suites"]) == {"bits_per_byte", "lambada"}
    assert "--- lambada" in caught.err and "accuracy" in caught.err and "[" in caught.err
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["suite"] for line in lines] == ["bits_per_byte", "lambada"]
    assert lines[1]["target"] == "river."


def test_data_serves_suites_that_name_none_and_its_fields_are_obeyed(
    little_folder: Path, problems: Path
) -> None:
    found = run_suites(
        little_folder, suite="gsm8k", data=str(problems), overrides=['data.fields={question = "q"}'],
        max_examples=2, max_new_tokens=3, progress=False,
    )["suites"]["gsm8k"]  # fmt: skip
    assert found["examples"] == 2 and found["data"] == str(problems) and found["asked_in"] == "text"
    turns = run_suites(
        little_folder, suite=[f"gsm8k={problems}"], overrides=['data.fields={question = "q"}'],
        chat="on", shots=1, shots_from=problems, max_new_tokens=3, progress=False,
    )["suites"]["gsm8k"]  # fmt: skip
    assert turns["asked_in"] == "turns" and turns["examples"] == 4
    with pytest.raises(DataError, match="skipped 4 records without a question"):
        run_suites(little_folder, suite=f"gsm8k={problems}", progress=False)


@pytest.mark.parametrize(
    ("suite", "options", "word"),
    [
        ("lambda", {}, "did you mean 'lambada'"),
        ("lambada", {"stride": 4}, "stride has no effect on lambada"),
        ("lambada", {"steps": 4}, "steps is no option"),
        ("lambada", {"chat": "on"}, "chat has no effect"),
        ("gsm8k", {"chat": "perhaps"}, "chat='perhaps'"),
        ("lambada", {"tasks": "x"}, "tasks has no effect"),
        ("lambada", {"max_tokens": 5}, "max_tokens with a suite"),
        ("lambada", {"dtype": "bf16"}, "dtype=bf16 with a suite"),
        ("lambada", {"overrides": ["data.temperature=2"]}, "data.temperature has no effect"),
        ("harness", {}, "without tasks"),
        ("harness=x", {"tasks": "y"}, "--tasks"),
        ("harness", {"tasks": "y", "stride": 3}, "stride has no effect"),
        ("all,lambada", {}, "all beside others"),
        ("code", {}, "without data"),
        ("gsm8k", {"samples": 2, "temperature": 0.0}, "temperature 0"),
        ("gsm8k", {"shots_from": "x.jsonl"}, "shots_from without shots"),
        ("bits_per_byte", {"stride": 4000}, "stride=4000"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(
    little_folder: Path, suite: str, options: dict[str, Any], word: str
) -> None:
    with pytest.raises(UsageError) as caught:
        run_suites(little_folder, suite=suite, progress=False, **options)
    assert word in str(caught.value)


def test_files_that_are_missing_or_no_records(little_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        run_suites(little_folder, suite=f"lambada={tmp_path / 'none.jsonl'}", progress=False)
    (tmp_path / "t.txt").write_text("one two\n")
    with pytest.raises(DataError, match="plain text"):
        run_suites(little_folder, suite=f"gsm8k={tmp_path / 't.txt'}", progress=False)
    for out in (tmp_path, tmp_path / "no" / "x.jsonl"):
        with pytest.raises(UsageError, match="out="):
            run_suites(little_folder, suite=f"lambada={tmp_path / 't.txt'}", out=out, progress=False)
