"""Results of suites in the run folder: the newest of each question, and what reports make of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from exnihilo.errors import ModelError
from exnihilo.eval import saved
from exnihilo.interop.load import load
from exnihilo.predictions.suites import run_suites
from exnihilo.report.card import card
from exnihilo.report.folder import open_run
from exnihilo.report.page import html
from exnihilo.train.lineage import weights_hash

FOUND = {
    "lambada": {"data": "/secret/place/t.txt", "accuracy": 0.5, "accuracy_low": 0.25, "accuracy_high": 0.75}
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "metrics.jsonl").write_text("")
    return tmp_path


def test_the_newest_of_each_question_stays(run: Path) -> None:
    assert saved.kept(run) == []
    assert saved.keep(run, FOUND, weights="a", settings={"shots": 2}) == run / saved.NAME
    saved.keep(run, FOUND, weights="a")
    saved.keep(run, {"lambada": {**FOUND["lambada"], "accuracy": 0.6}}, weights="b")
    assert [entry["figures"]["accuracy"] for entry in saved.kept(run)] == [0.5, 0.6]
    assert [entry["settings"] for entry in saved.kept(run, "b")] == [{}]
    [first, _] = saved.rows(saved.kept(run))
    assert first[:4] == ("lambada", "accuracy", "0.5", "0.25 to 0.75")
    assert first[4].startswith("t.txt, shots=2, 20") and "secret" not in first[4]


def test_a_checkpoints_results_belong_to_its_run(run: Path) -> None:
    step = run / "checkpoints" / "step-00000010"
    step.mkdir(parents=True)
    assert saved.keep(step, FOUND, weights="a") == run / saved.NAME
    assert saved.kept(step) == saved.kept(run) and saved.kept(run)[0]["checkpoint"] == step.name
    assert next(saved.rows(saved.kept(run)))[0] == "lambada @ step-00000010"


def test_other_folders_are_left_alone_and_broken_files_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert saved.keep(tmp_path, FOUND, weights="a") is None and not list(tmp_path.iterdir())
    (tmp_path / "metrics.jsonl").write_text("")
    for text in ("{", '{"results": 3}', '{"results": [{"suite": "x"}]}'):
        (tmp_path / saved.NAME).write_text(text)
        with pytest.raises(ModelError, match="suites.json"):
            saved.kept(tmp_path)
        assert saved.keep(tmp_path, FOUND, weights="a") is None
        assert "not kept" in capsys.readouterr().err
        assert (tmp_path / saved.NAME).read_text() == text


def test_eval_keeps_and_reports_tell(little_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(little_folder, run)
    (run / "metrics.jsonl").write_text("")
    text = tmp_path / "t.txt"
    text.write_text("The old fox lives in a small den by the river.\n")
    found = run_suites(run, suite=f"bits_per_byte={text}", progress=False)["suites"]["bits_per_byte"]
    [entry] = json.loads((run / saved.NAME).read_text())["results"]
    assert entry["figures"] == found and entry["weights"] == weights_hash(load(run).model)
    page = html(open_run(run))
    assert "Suites" in page and "bits_per_byte" in page and str(tmp_path) not in page.split("Suites")[1]
    assert "| bits_per_byte | bits_per_byte |" in card(run, load(run))
    saved.keep(run, {"lambada": {"accuracy": 0.125}}, weights="another model's")
    assert "0.125" not in card(run, load(run)) and "0.125" in html(open_run(run))
