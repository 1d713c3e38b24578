"""Runs of encoders: facts, metrics, calibration; drawn masks; resuming; parts frozen; the control."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from exnihilo.config import (
    CodecConfig,
    ControlConfig,
    EvalConfig,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    TuneConfig,
)
from exnihilo.errors import ConfigError, ModelError
from exnihilo.interop.load import load
from exnihilo.train import control, loop, run

ENCODER = ModelConfig(preset="bert-tiny", width=32, heads=2, context=32)
WORDS = ["grey", "stone", "river", "lamp", "cloud", "table", "north", "paper"]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts whose label is whether they hold the word good."""
    draw = random.Random(3)
    rows = ["text,label"]
    for i in range(240):
        words = [draw.choice(WORDS) + str(i % 7) for _ in range(draw.randint(2, 5))]
        good = draw.random() < 0.6
        words.insert(draw.randrange(len(words)), "good" if good else "bad")
        rows.append(f"{' '.join(words)},{'yes' if good else 'no'}")
    path = tmp_path_factory.mktemp("labelled") / "rows.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def task(make: Any, labelled: Path) -> Any:
    """A small run of sentence_classification; keywords replace its values."""

    def build(folder: Path, **values: Any) -> Any:
        base: dict[str, Any] = {
            "objective": "sentence_classification",
            "data": str(labelled),
            "codec": CodecConfig(kind="wordpiece", vocab_size=200, lowercase=True),
            "model": ENCODER,
            "optim": OptimConfig(name="adamw", lr=3e-3),
            "eval": EvalConfig(samples=0),
        }
        return make(folder, **{**base, **values})

    return build


def rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in lines if row["kind"] == kind]


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, folder: str = "") -> None:
    done = loop.Loop._done

    def telling(self: loop.Loop, at: int) -> None:
        done(self, at)
        if at + 1 == step and folder in str(self.keeper.run):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.Loop, "_done", telling)


def same_weights(a: Path, b: Path) -> bool:
    first, second = (load_file(p / "model.safetensors") for p in (a, b))
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_a_downstream_run_learns_and_reports(task: Any, tmp_path: Path) -> None:
    result = run(task(tmp_path / "r", steps=60), progress=False)
    assert result.metrics["accuracy"] > 0.95 > result.metrics["majority_accuracy"]
    kept = json.loads((tmp_path / "r/objective.json").read_text())
    assert kept["objective"] == "sentence_classification" and kept["length"] == 32
    assert kept["facts"]["labels"] == ["no", "yes"] and "temperature" in kept["facts"]
    shape = json.loads((tmp_path / "r/model.json").read_text())
    assert shape["outputs"] == ["classes"] and shape["labels"] == 2
    evaluations = rows(tmp_path / "r", "eval")
    assert all("val_accuracy" in row for row in evaluations)
    assert [row["step"] for row in evaluations if row.get("final")] == [60]
    assert "val_majority_accuracy" in evaluations[-1] and "val_majority_accuracy" not in evaluations[0]
    # nothing to do: the same figures again
    assert run(task(tmp_path / "r", steps=60), resume=True, progress=False).metrics == result.metrics
    assert json.loads((tmp_path / "r/objective.json").read_text()) == kept


@pytest.mark.parametrize("objective", ["sentence_classification", "mix", "replaced_tokens"])
def test_cut_and_resumed_it_is_the_same_bit_for_bit(
    task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: Path, objective: str
) -> None:
    text = {} if objective == "sentence_classification" else {"data": str(corpus)}
    values = {"objective": objective, **text, "model": ENCODER.model_copy(update={"dropout": 0.1})}
    run(task(tmp_path / "whole", **values), progress=False)
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        assert run(task(tmp_path / "cut", **values), progress=False).interrupted
    assert run(task(tmp_path / "cut", **values), resume=True, progress=False).step == 6
    assert same_weights(tmp_path / "whole", tmp_path / "cut")
    keys = ("step", "loss", "grad_norm")
    whole, cut = ([[r[k] for k in keys] for r in rows(tmp_path / n, "train")] for n in ("whole", "cut"))
    assert whole == cut
    finals = [{**rows(tmp_path / n, "eval")[-1], "seconds": 0} for n in ("whole", "cut")]
    assert finals[0] == finals[1]


def test_micro_batches_do_not_change_what_is_drawn(task: Any, tmp_path: Path, corpus: Path) -> None:
    from exnihilo.config import BatchConfig

    losses = []
    for tokens in (256, 64):
        batch = BatchConfig(tokens=256, micro_tokens=tokens)
        run(task(tmp_path / str(tokens), objective="mix", data=str(corpus), batch=batch), progress=False)
        losses.append([row["loss"] for row in rows(tmp_path / str(tokens), "train")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_masks_are_new_at_each_epoch(task: Any, tmp_path: Path) -> None:
    from exnihilo.objective import draws
    from exnihilo.train.batches import Batches

    seen: list[Any] = []
    make_one = Batches.make

    def keep(self: Batches, step: int) -> Any:
        made = make_one(self, step)
        seen.append((step, made.micros[0].batch["tokens"].clone()))
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Batches, "make", keep)
        run(task(tmp_path / "r", objective="masked_lm", data="world:3", steps=2), progress=False)
    found = {step: tokens for step, tokens in seen}
    assert not torch.equal(found[0], found[1])
    assert draws.EVAL_SEED != 0


# starting from pretrained weights --------------------------------------------------------------------


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, labelled: Path) -> Path:
    """A BERT of two steps, on the texts themselves."""
    from exnihilo.config import BatchConfig, RunConfig

    folder = tmp_path_factory.mktemp("pretrained") / "bert"
    text = folder.parent / "text.txt"
    text.write_text("\n\n".join(line.split(",")[0] for line in labelled.read_text().splitlines()[1:]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXNIHILO_CACHE", str(folder.parent / "cache"))
        config = RunConfig(
            run=str(folder),
            objective="masked_lm",
            data=str(text),  # type: ignore[arg-type]
            codec=CodecConfig(kind="wordpiece", vocab_size=200, lowercase=True),
            model=ENCODER,
            batch=BatchConfig(tokens=256, micro_tokens=256),
            eval=EvalConfig(samples=0),
            steps=2,
            threads=1,
            dtype="fp32",
            compile="off",
        )
        run(config, progress=False)
    return folder


def test_another_head_on_a_pretrained_trunk(
    task: Any, tmp_path: Path, pretrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"init": str(pretrained), "steps": 1, "control": ControlConfig(seeds=0)}
    run(task(tmp_path / "a", **values, optim=OptimConfig(name="adamw", lr=1e-9)))
    said = capsys.readouterr().err
    assert "front and trunk" in said and "new, random: classes" in said and "left behind: mlm" in said
    before, after = load(pretrained).model, load(tmp_path / "a").model
    have = dict(before.named_parameters())
    taken = [n for n, p in after.named_parameters() if n in have and torch.allclose(p, have[n], atol=1e-6)]
    assert len(taken) == len([n for n in have if n.startswith(("front.", "trunk."))])
    # the same labels: the head is carried over; another label: it is not
    run(task(tmp_path / "b", **{**values, "init": str(tmp_path / "a")}))
    assert "new, random" not in capsys.readouterr().err
    run(task(tmp_path / "c", **{**values, "init": str(tmp_path / "a")},
             options={"labels": ["no", "yes", "maybe"]}))  # fmt: skip
    assert "new, random: classes" in capsys.readouterr().err


def test_fewer_positions_than_the_pretrained_model_has(task: Any, tmp_path: Path, pretrained: Path) -> None:
    values = {"init": str(pretrained), "steps": 1, "control": ControlConfig(seeds=0)}
    short = ENCODER.model_copy(update={"context": 16})
    run(
        task(tmp_path / "a", **values, model=short), origins={"model.context": "command line"}, progress=False
    )
    assert load(tmp_path / "a").model.config.context == 16
    longer = ENCODER.model_copy(update={"context": 64})
    with pytest.raises(ModelError, match="model.context=64, but the model of init=.* has 32"):
        run(task(tmp_path / "b", **values, model=longer), origins={"model.context": "command line"},
            progress=False)  # fmt: skip


@pytest.mark.parametrize(
    "tune", [TuneConfig(freeze=1), TuneConfig(freeze="trunk"), TuneConfig(layer_decay=0.5)]
)
def test_frozen_parts_stay_and_the_rest_learns(
    task: Any, tmp_path: Path, pretrained: Path, tune: TuneConfig
) -> None:
    config = task(tmp_path / "r", init=str(pretrained), steps=2, tune=tune, control=ControlConfig(seeds=0))
    run(config, progress=False)
    before = dict(load(pretrained).model.named_parameters())
    after = dict(load(tmp_path / "r").model.named_parameters())
    still = {n for n in after if n in before and torch.equal(after[n], before[n])}
    frozen = {1: ("front.", "trunk.blocks.0."), "trunk": ("front.", "trunk.")}.get(tune.freeze, ("?",))
    assert still == {n for n in after if n.startswith(frozen)}


def test_lora_is_merged_and_goes_on_bit_for_bit(
    task: Any, tmp_path: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    tune = TuneConfig(lora=LoraConfig(rank=2, targets=("q", "down")))
    values = {"init": str(pretrained), "tune": tune, "control": ControlConfig(seeds=0)}
    result = run(task(tmp_path / "whole", **values), progress=False)
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        assert run(task(tmp_path / "cut", **values), progress=False).interrupted
    meanwhile = load(tmp_path / "cut")  # usable before its end, adapters merged
    assert meanwhile.path.name == "step-00000003"
    assert not any("lora" in name for name in meanwhile.model.state_dict())
    assert run(task(tmp_path / "cut", **values), resume=True, progress=False).step == 6
    assert same_weights(tmp_path / "whole", tmp_path / "cut")
    last = load(tmp_path / "cut/checkpoints/step-00000006").model
    assert all(torch.equal(p, q) for p, q in zip(last.parameters(), load(tmp_path / "cut").model.parameters(),
                                                 strict=True))  # fmt: skip
    before = dict(load(pretrained).model.named_parameters())
    loaded = load(tmp_path / "whole")
    after = dict(loaded.model.named_parameters())
    moved = {n.split(".")[-2] for n in after if n in before and not torch.equal(after[n], before[n])}
    assert moved == {"q", "down"}
    for name in (n for n in moved_names(before, after)):
        change = after[name] - before[name]
        assert torch.linalg.matrix_rank(change, rtol=1e-4) <= 2
    # the merged model is the one that was trained
    from exnihilo.infer.predict import Predictor
    from exnihilo.objective.registry import create

    kept = json.loads((tmp_path / "whole/objective.json").read_text())
    objective = create(kept["objective"], kept["options"], length=kept["length"], facts=kept["facts"])
    assert Predictor(loaded.model, loaded.codec, objective).predict(["good grey1"])[0]["label"] in (
        "no",
        "yes",
    )
    assert result.metrics["accuracy"] >= 0


def moved_names(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [n for n in after if n in before and not torch.equal(after[n], before[n])]


# the control ----------------------------------------------------------------------------------------


def test_the_control_is_cut_resumed_and_told(
    task: Any,
    tmp_path: Path,
    pretrained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    values = {"init": str(pretrained), "steps": 3, "control": ControlConfig(seeds=2)}
    folder = tmp_path / "r"
    with monkeypatch.context() as patch:
        stop_at(patch, 2, folder="without-seed-1")
        assert run(task(folder, **values)).interrupted
    said = capsys.readouterr().err
    assert "control: 4 runs of 3 steps follow" in said and "about" in said
    assert not (folder / "control.json").exists()
    begun = sorted(p.name for p in (folder / "control").iterdir())
    done = set(json.loads((folder / "control/runs.json").read_text())["runs"])
    assert done == {"without-seed-0-own-rate", "without-seed-0-same-rate"} and len(begun) == 4
    marks = {n: (folder / "control" / n / "model.safetensors").stat().st_mtime_ns for n in done}
    result = run(task(folder, **values), resume=True)
    assert not result.interrupted
    assert all(
        (folder / "control" / n / "model.safetensors").stat().st_mtime_ns == t for n, t in marks.items()
    )
    found = json.loads((folder / "control.json").read_text())
    assert found["metric"] == "accuracy" and found["seeds"] == [0, 1] and found["steps"] == 3
    assert len(found["with"]["values"]) == len(found["without"]["values"]) == 2
    assert found["with"]["values"][0] == result.metrics["accuracy"]
    assert found["majority"] == result.metrics["majority_accuracy"]
    assert set(found["without"]["tried"]) == {str(0.003), str(0.002)}
    said = capsys.readouterr().err
    assert "did pretraining help?" in said and "without pretraining" in said
    # a seed alone is the very run that would be made by hand
    by_hand = task(tmp_path / "hand", **{**values, "seed": 1, "control": ControlConfig(seeds=0)})
    run(by_hand, progress=False)
    assert same_weights(tmp_path / "hand", folder / "control/with-seed-1")


def test_a_control_that_cannot_be_made_is_refused(task: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no init="):
        run(task(tmp_path / "r", control=ControlConfig(seeds=2)), progress=False)


@pytest.mark.parametrize("freedom", [1, 2, 5, 29, 40, 200])
def test_the_interval_is_students(freedom: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert control.quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-4)
    values = [random.Random(freedom + i).gauss(0, 1) for i in range(freedom + 1)]
    low, high = stats.t.interval(0.95, freedom, loc=sum(values) / len(values), scale=stats.sem(values))
    assert control.interval(values)[1:] == pytest.approx((low, high), rel=1e-3)
