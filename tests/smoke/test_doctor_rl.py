"""The doctor on rollouts, and graded replies on the command line: planted faults are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import exnihilo as xn
from exnihilo.cli import main
from exnihilo.doctor import Diagnosis
from exnihilo.doctor.fuzz import fuzz
from exnihilo.doctor.fuzz import main as main_part
from exnihilo.doctor.rl import flat_share
from exnihilo.errors import UsageError
from exnihilo.eval.graders import Graded, create
from exnihilo.eval.replies import Reply

TASKS = [{"question": f"{a}+{b}?", "answer": str(a + b)} for a in range(5) for b in range(5)]
SETTINGS = ["rollout.max_new_tokens=4", "rollout.group=4", "rollout.prompts=4"]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model that has hardly learnt anything."""
    folder = tmp_path_factory.mktemp("rl")
    data = written(folder / "tasks.jsonl", TASKS)
    words = [
        "train",
        "sft",
        f"data={data}",
        f"run={folder / 'run'}",
        "codec.kind=bytes",
        "model.depth=1",
        "model.width=32",
        "model.heads=2",
        "model.context=40",
        "batch.tokens=160",
        "steps=2",
        "threads=1",
        "device=cpu",
        "compile=off",
        "eval.samples=0",
        "eval.replies=0",
    ]
    assert main(words) == 0
    return folder / "run"


def levels(found: Diagnosis, level: str) -> str:
    return "\n".join(f.text for f in found.findings if f.level == level)


def examined(data: Path, *more: str) -> Diagnosis:
    return xn.doctor("rlvr", data=str(data), overrides=[*SETTINGS, *more], max_examples=8, samples=2)


def test_without_differences_nothing_can_be_learnt(tmp_path: Path, run: Path) -> None:
    data = written(tmp_path / "tasks.jsonl", TASKS)
    found = examined(data, f"init={run}", "grader=regex:^no such reply$")
    assert found.broken and "no group has a difference" in levels(found, "broken")
    assert found.facts["groups without differences"] == "100.0%"
    assert str(found.facts["can RL learn here?"]).startswith("no")
    assert "no model is given" in levels(examined(data, "grader=number"), "broken")


def test_with_differences_it_can(tmp_path: Path, run: Path) -> None:
    data = written(tmp_path / "tasks.jsonl", TASKS)
    own = tmp_path / "my.py"
    own.write_text("def grade(example, completion):\n    return float(sum(map(ord, completion)) % 2)\n")
    found = examined(data, f"init={run}", f"grader={own}:grade")
    assert str(found.facts["can RL learn here?"]).startswith("yes"), found.text()
    assert "the grader pays for wrong answers" in levels(found, "broken")  # a parity is no grader
    assert len(found.samples) == 2 and "reward" in found.samples[0].text()
    assert json.loads(json.dumps(found.figures()))["broken"]


def test_a_sound_grader_passes_and_unreadable_gold_is_named(tmp_path: Path, run: Path) -> None:
    rows = [*TASKS[:20], {"question": "x?", "answer": "nobody knows"}, *TASKS[20:]]
    found = examined(
        written(tmp_path / "tasks.jsonl", rows), f"init={run}", "grader=number", "data.val_fraction=0"
    )
    assert found.facts["grader, wrong answers paid"].startswith("0 of ")
    assert found.facts["grader, right answers unpaid"].startswith("0 of ")
    assert "1 of 26 examples have no gold" in levels(found, "warning"), found.text()
    assert "there are no validation prompts" in levels(found, "warning")
    none = examined(written(tmp_path / "none.jsonl", [{**r, "answer": "x"} for r in TASKS]), "grader=number")
    assert "have no gold that the grader can read" in levels(none, "broken")


def test_leaks_are_named(tmp_path: Path) -> None:
    data = written(tmp_path / "tasks.jsonl", TASKS)
    found = examined(data, f"val={data}", "grader=number")
    assert "validation prompts are training prompts too" in levels(found, "warning")


TRIED = [{"prompt": f"What is {n - 2} + 2?", "answer": str(n)} for n in (3, 12, 1500, -4)]
WRONG = {
    "the last number": lambda e, c: (
        float(c.replace(",", "").rstrip(".").split()[-1] == e["answer"]) if c.split() else 0.0
    ),
    "the gold anywhere": lambda e, c: float(str(e["answer"]) in c),
    "no gold, full marks": lambda e, c: 1.0 if not e["answer"] else 0.0,
}


@pytest.mark.parametrize("name", WRONG)
def test_the_fuzz_finds_what_known_checkers_do_wrong(name: str) -> None:
    found = fuzz(WRONG[name], "number", TRIED)
    assert found.paid_wrong or found.paid_unreadable or found.unpaid_right
    if name == "the gold anywhere":
        kinds = {kind for kind, _, _ in found.paid_wrong}
        assert {"two answers", "denied", "a digit before", "a list with the answer in it"} <= kinds
    if name == "no gold, full marks":
        assert found.paid_unreadable


@pytest.mark.parametrize(
    "spec", ["number", "exact", "number*1,length*-0.01", "format&number", "countdown", "code"]
)
def test_our_own_graders_pass_their_fuzz(spec: str) -> None:
    tasks = {
        "countdown": [
            {"prompt": "x", "numbers": [3, 4, 7], "target": 25},
            {"prompt": "y", "numbers": [2, 6], "target": 12},
        ],
        "code": [
            {
                "prompt": "add",
                "record": {"tests": "assert add(1, 2) == 3", "code": "def add(a, b): return a + b"},
            }
        ],
    }.get(spec, TRIED)
    found = fuzz(create(spec), spec, tasks)
    assert found.right and found.wrong and not found.failed
    assert not found.unpaid_right and not found.paid_wrong and not found.paid_unreadable, found.rows


def test_parts_of_a_spec() -> None:
    assert main_part("format*0.1,math:3") == "math" and main_part("/a/my.py:grade*2,length") == "own"
    assert main_part("regex:a,number") == "regex" and main_part("format") == "format"
    replies = [Reply(0, "", [], True, Graded(s)) for s in (1.0, 1.0, 0.0, 1.0, 0.1 + 0.2, 0.3)]
    assert flat_share(replies, 2) == pytest.approx(2 / 3)  # 0.1 + 0.2 is 0.3: rounding is no difference


def test_replies_are_graded_on_the_command_line(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "replies.jsonl"
    words = ["eval", str(run), "grader=number*1,length*-0.01", "samples=2", "max_new_tokens=4", "--json"]
    assert main([*words, f"out={out}", f"data={written(tmp_path / 't.jsonl', TASKS)}", "max_examples=5"]) == 0
    figures = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert figures["prompts"] == 5 and figures["replies"] == 10 and figures["split"] == "given"
    assert {"pass@1", "pass@2", "pass@1_low", "stop_rate", "length", "score", "grader"} <= set(figures)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == 10 and {"prompt", "reply", "score", "parts", "stopped"} <= set(lines[0])
    assert main(["eval", str(run), "grader=number"]) == 0
    assert "pass@1" in capsys.readouterr().out and main(["eval", str(run), "samples=2"]) == 2
    with pytest.raises(UsageError, match="unknown option"):
        xn.eval(run, grader="number", nonsense=1)


def test_formulas_are_tried_as_formulas() -> None:
    """A fraction's denominator is not its value: right answers are formulas, and no wrong one is equal."""
    pytest.importorskip("math_verify")
    golds = ["\\frac{1}{3}", "\\frac{2}{2}", "\\sqrt{2}", "x^2+1", "Half of 1 is $\\frac{1}{2}$.", "7"]
    found = fuzz(create("math"), "math", [{"prompt": "?", "answer": gold} for gold in golds])
    assert found.right > 20 and found.wrong > 40
    assert not found.unpaid_right and not found.paid_wrong and not found.paid_unreadable and not found.failed


def test_a_run_that_is_taught_nothing_says_so(run: Path, tmp_path: Path, capsys: Any) -> None:
    data = written(tmp_path / "tasks.jsonl", TASKS)
    words = [
        "train",
        "rlvr",
        f"init={run}",
        f"data={data}",
        "grader=exact",
        f"run={tmp_path / 'r'}",
        "steps=2",
    ]
    words += [*SETTINGS, "threads=1", "device=cpu", "compile=off", "eval.replies=0", "eval.samples=0"]
    assert main(words) == 0
    assert "have taught nothing: no reply is right (mean reward 0)" in " ".join(
        capsys.readouterr().err.split()
    )
