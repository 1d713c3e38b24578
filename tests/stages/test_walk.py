"""A chain on files: stages in one folder, resumed stage by stage, its model at the root."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exnihilo.cli.main import main
from exnihilo.errors import UsageError
from exnihilo.interop.load import load
from exnihilo.stages import walk
from exnihilo.stages.settings import given, read
from exnihilo.train import lineage

SMALL = [
    "model.depth=1", "model.width=32", "model.heads=2", "model.context=64", "codec.kind=bytes", "threads=1",
    "device=cpu", "compile=off", "eval.samples=0", "eval.replies=4", "base.steps=2", "base.batch.tokens=128",
]  # fmt: skip
LATER = ["sft.steps=2", "preference.steps=2", "rlvr.steps=1", "sft.batch.tokens=128",
         "preference.batch.tokens=256", "rollout.prompts=2", "rollout.group=2",
         "rollout.max_new_tokens=4"]  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXNIHILO_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Settings that name four little files."""
    (tmp_path / "books").mkdir()
    for number in range(30):
        text = f"The fox {number} ran over the hill. Then it slept.\n" * 3
        (tmp_path / "books" / f"{number}.txt").write_text(text)
    rows = {
        "sft": [{"prompt": f"Say {n}", "completion": f"It is {n}."} for n in range(30)],
        "preference": [{"prompt": f"Say {n}", "chosen": f"{n}!", "rejected": f"{n}?"} for n in range(30)],
        "prompts": [{"question": f"Say {n}", "answer": str(n)} for n in range(30)],
    }
    for name, made in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    return [
        f"data={tmp_path / 'books'}",
        *[f"{n}={tmp_path / n}.jsonl" for n in rows],
        *[f"{n}.data.val_fraction=0.3" for n in ("sft", "preference", "rlvr")],
        "grader=exact",
    ]


def test_all_stages(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "r"
    assert main(["train", "chat", *files, *SMALL, *LATER, f"run={run}", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["run"] == str(run)
    for word in ("random weights -> base -> sft -> preference -> rlvr", "what each stage gained"):
        assert word in told.err
    chain = json.loads((run / walk.FILE).read_text())
    assert [stage["name"] for stage in chain["stages"]] == ["base", "sft", "preference", "rlvr"]
    assert [stage["init"] for stage in chain["stages"]][1:] == [
        str(run / name) for name in ("base", "sft", "preference")
    ]
    assert all(stage["gains"] for stage in chain["stages"])
    final, last = load(run), load(run / "rlvr")
    for ours, theirs in zip(final.model.parameters(), last.model.parameters(), strict=True):
        assert bool((ours == theirs).all())
    assert [each["objective"] for each in lineage.read(run)] == ["causal_lm", "sft", "preference", "rlvr"]
    assert (run / "report.html").is_file()
    page = (run / "report.html").read_text()
    assert all(f"<h2>{name}" in page for name in ("base", "sft", "preference", "rlvr"))
    with pytest.raises(UsageError, match="holds a run already"):
        walk.train(read(given([*files, *SMALL, f"run={run}"])))


def test_it_goes_on_where_it_was_cut(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "r"
    kept = [text for text in files if not text.startswith(("preference", "prompts", "rlvr", "grader"))]
    settings = [*kept, *SMALL, "sft.steps=2", "sft.batch.tokens=128", f"run={run}"]
    import exnihilo.train as room

    usual = room.run

    def cut(config, **more):  # as if the machine went down before the second stage
        if config.objective == "sft":
            raise KeyboardInterrupt
        return usual(config, **more)

    monkeypatch.setattr(room, "run", cut)
    with pytest.raises(KeyboardInterrupt):
        walk.train(read(given(settings)))
    assert walk.is_chain(run) and load(run).model is not None  # the best so far is at the root
    before = (run / "base" / "model.safetensors").read_bytes()
    monkeypatch.setattr(room, "run", usual)
    assert main(["train", "--resume", f"run={run}"]) == 0
    assert (run / "base" / "model.safetensors").read_bytes() == before
    assert [each["objective"] for each in lineage.read(run)] == ["causal_lm", "sft"]
    capsys.readouterr()
    assert main(["train", "--resume", f"run={run}"]) == 0  # nothing is left to do
    assert "all stages" in capsys.readouterr().err


def test_dry_run_shows_every_stage(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "chat", *files, "--dry-run"]) == 0
    told = capsys.readouterr().out
    for name in ("base", "sft", "preference", "rlvr"):
        assert f"# stage {name}" in told


def test_other_recipes_refuse_its_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "gpt", "sft=x"]) == 2
    assert "unknown key 'sft'" in capsys.readouterr().err
