"""Sections of a chain's page: one a stage, with curves by what was measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from exnihilo.config_layers import dump, load
from exnihilo.errors import UsageError
from exnihilo.report import page, stages
from exnihilo.report.folder import open_run


def chain(path: Path) -> Path:
    """A folder with two stages."""
    for name, columns in (
        ("base", {"loss": [5.0, 4.0, 3.0]}),
        ("rlvr", {"loss": [0.1, 0.0, 0.1], "reward": [0.1, 0.4, 0.9], "policy@entropy": [2.0, 1.0, 0.5]}),
    ):
        folder = path / name
        folder.mkdir(parents=True)
        rows = [
            {"kind": "train", "step": i + 1, **{key: values[i] for key, values in columns.items()}}
            for i in range(3)
        ]
        measured = "val_loss" if name == "base" else "val_pass@1"
        rows += [{"kind": "eval", "step": i, measured: 0.3 * i} for i in range(3)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "config.toml").write_text(dump(*load("gpt", ["model.vocab_size=100", "data=<b>"])))
    made = [
        {"name": "base", "folder": "base", "objective": "causal_lm", "init": None, "steps": 3, "gains": []},
        {"name": "rlvr", "folder": "rlvr", "objective": "rlvr", "init": "base", "title": "sums & <i>such</i>",
         "gains": [{"what": "right", "before": 0.1, "after": 0.9}], "replies": {"2 + 2?": "<script>4"}},
    ]  # fmt: skip
    (path / "chain.json").write_text(json.dumps({"stages": made}))
    (path / "model.safetensors").write_bytes(b"")
    return path


def test_a_section_for_each_stage(tmp_path: Path) -> None:
    base, rlvr = stages.sections(chain(tmp_path / "c"))
    assert base.title == "base" and "from random weights" in base.line and "<b>" in base.line
    assert rlvr.title == "rlvr: sums & <i>such</i>" and "from base" in rlvr.line
    assert ("right", "0.1 → 0.9") in rlvr.tiles and ("steps", "3") in base.tiles
    assert base.picture.startswith("data:image/png;base64,") and rlvr.replies == [("2 + 2?", "<script>4")]


def test_curves_are_chosen_by_what_was_measured(tmp_path: Path) -> None:
    folder = chain(tmp_path / "c")
    _, of_base = stages.picture(open_run(folder / "base"), "causal_lm")
    _, of_rlvr = stages.picture(open_run(folder / "rlvr"), "rlvr")
    assert "loss" in of_base and "reward" not in of_base
    assert of_rlvr.startswith("reward") and "entropy" in of_rlvr and "loss" not in of_rlvr


def test_the_page_shows_them_and_escapes_all(tmp_path: Path) -> None:
    folder = chain(tmp_path / "c")
    text = page.html(open_run(folder))
    assert "<h2>base</h2>" in text and "sums &amp; &lt;i&gt;" in text
    assert "<script>" not in text and len(re.findall(r'src="data:image/png', text)) == 2
    (folder / "chain.png").write_bytes(b"png")
    assert len(re.findall(r'src="data:image/png', page.html(open_run(folder)))) == 3


def test_a_single_run_has_no_sections(tmp_path: Path) -> None:
    assert stages.sections(tmp_path) == [] and stages.overview(tmp_path) == ""


def test_a_stage_that_is_gone_is_an_error(tmp_path: Path) -> None:
    folder = chain(tmp_path / "c")
    (folder / "rlvr").rename(folder / "elsewhere")
    with pytest.raises(UsageError, match="rlvr"):
        stages.sections(folder)
