"""What a stage gained, read from its folder."""

from __future__ import annotations

import json
from pathlib import Path

from exnihilo.stages import gains


def folder(path: Path, *rows: dict) -> Path:
    path.mkdir(exist_ok=True)
    made = [{"kind": "eval", "step": i, **row} for i, row in enumerate(rows)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def test_first_and_last_evaluation_are_before_and_after(tmp_path: Path) -> None:
    run = folder(tmp_path / "a", {"val_loss": 5.0}, {"val_loss": 4.0}, {"val_loss": 3.0})
    [entry] = gains.of(run, "causal_lm")
    assert (entry["before"], entry["after"], entry["higher"]) == (5.0, 3.0, False)


def test_a_figure_that_was_measured_once_says_nothing(tmp_path: Path) -> None:
    assert gains.of(folder(tmp_path / "a", {"val_loss": 5.0}), "causal_lm") == []
    assert gains.of(tmp_path / "absent", "sft") == []


def test_replies_of_the_parent_are_the_control(tmp_path: Path) -> None:
    run = folder(tmp_path / "a", {"val_pass@1": 0.1}, {"val_pass@1": 0.6})
    side = {"low": 0.0, "high": 1.0}
    (run / "control.json").write_text(
        json.dumps({"kind": "parent", "metric": "pass@1", "before": {"mean": 0.2, **side},
                    "after": {"mean": 0.7, **side}})
    )  # fmt: skip
    [entry] = gains.of(run, "rlvr")
    assert (entry["before"], entry["after"], entry["after_interval"]) == (0.2, 0.7, [0.0, 1.0])


def test_the_table_has_a_line_for_each_figure(tmp_path: Path) -> None:
    run = folder(
        tmp_path / "a", {"val_loss": 0.7, "val_accuracy": 0.5}, {"val_loss": 0.2, "val_accuracy": 0.9}
    )
    stage = {"name": "preference", "steps": 1200, "seconds": 3.2, "gains": gains.of(run, "preference")}
    bare = {"name": "base", "steps": 1, "seconds": 1, "gains": []}
    told = gains.text([bare, stage]).splitlines()
    assert len(told) == 2 + 1 + 2
    assert "no held-out split" in told[2] and "0.5" in told[3] and "0.9" in told[3] and "1,200" in told[3]
    assert told[4].strip().startswith("loss")
