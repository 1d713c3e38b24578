"""Runs after pretraining: references, cuts that leave no trace, alarms, lineage, the control."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from exnihilo import log
from exnihilo.config import (
    AlarmsConfig,
    EvalConfig,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    RolloutConfig,
    TuneConfig,
)
from exnihilo.errors import ConfigError
from exnihilo.interop.load import load
from exnihilo.train import lineage, loop, run
from exnihilo.train.source.reference import Referenced
from exnihilo.train.source.rollout import Rollouts

DECODER = ModelConfig(depth=1, width=32, heads=2, context=64)
LETTERS = "abcdefgh"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs that differ in one letter, desirable and undesirable replies, and tasks with an answer."""
    folder = tmp_path_factory.mktemp("post")
    pairs = [
        {"prompt": f"say {a}{b}", "chosen": f"{a}!", "rejected": f"{b}?"} for a in LETTERS for b in "xyz"
    ]
    labels = [
        {"prompt": p["prompt"], "completion": p[side], "label": side == "chosen"}
        for p in pairs
        for side in ("chosen", "rejected")
    ]
    tasks = [{"prompt": f"say {a}{b}", "answer": a} for a in LETTERS for b in "xyz"]
    for name, rows in (("pairs", pairs), ("labels", labels), ("tasks", tasks)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "even.py").write_text(
        "def grade(example, completion):\n    return float(len(completion) % 2)\n"
    )
    return folder


@pytest.fixture
def base(make: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.getbasetemp() / "post-base"
    if not (folder / "model.safetensors").exists():
        run(make(folder, recipe="gpt", model=DECODER, steps=2), progress=False)
    return folder


@pytest.fixture
def tuned(make: Any, files: Path, base: Path) -> Any:
    """A small run of an objective; keywords replace its values."""

    def build(folder: Path, objective: str = "preference", **values: Any) -> Any:
        rolls = objective == "rlvr"
        kto = values.get("options", {}).get("loss") == "kto"
        name = "tasks" if rolls else "labels" if kto else "pairs"
        given: dict[str, Any] = {
            "recipe": objective,
            "objective": objective,
            "data": str(files / f"{name}.jsonl"),
            "init": str(base),
            "optim": OptimConfig(name="adamw", lr=3e-3, weight_decay=0.0),
            "eval": EvalConfig(every=3, replies=4, max_new_tokens=4),
            "steps": 6,
        }
        if rolls:
            given["rollout"] = RolloutConfig(prompts=4, group=4, max_new_tokens=4)
            given["grader"] = f"{files / 'even.py'}:grade"
            given["alarms"] = AlarmsConfig(stop=False)
        return make(folder, **{**given, **values})

    return build


def rows(folder: Path, kind: str = "train") -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    done = loop.Loop._done

    def telling(self: loop.Loop, at: int) -> None:
        done(self, at)
        if at + 1 == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.Loop, "_done", telling)


def cut_and_whole(
    make_one: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *cuts: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The step rows of a run and of one that was cut; their weights are the same bits."""
    run(make_one(tmp_path / "whole"), progress=False)
    for number, step in enumerate(cuts):
        with monkeypatch.context() as patch:
            stop_at(patch, step)
            assert run(make_one(tmp_path / "cut"), resume=number > 0, progress=False).interrupted
    assert run(make_one(tmp_path / "cut"), resume=True, progress=False).step == 6
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    return told(tmp_path / "whole"), told(tmp_path / "cut")


def told(folder: Path) -> list[dict[str, Any]]:
    """The rows of steps without times."""
    times = {"seconds", "mfu", "sampling_s", "tokens_per_s"}
    return [{k: v for k, v in row.items() if k not in times} for row in rows(folder)]


# reference ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_a_run_with_a_reference_goes_on_bit_for_bit(
    tuned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    def make_one(folder: Path) -> Any:
        return tuned(folder, options={"loss": loss})

    whole, cut = cut_and_whole(make_one, tmp_path, monkeypatch, 2, 4)
    assert whole == cut and len(whole) == 6
    # at the first step the policy is the reference: no reward either way
    assert abs(whole[0]["chosen_reward"]) < 1e-5 and abs(whole[-1]["chosen_reward"]) > 1e-4


def test_with_adapters_the_reference_is_the_tuned_model_and_not_the_base_below_it(
    tuned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    lines: list[str] = []
    monkeypatch.setattr(log, "say", lines.append)
    lora = TuneConfig(lora=LoraConfig(rank=2))
    first = {"tune": lora, "options": {"loss": "simpo"}, "optim": OptimConfig(name="adamw", lr=0.05)}
    run(tuned(tmp_path / "one", **first), progress=False)
    lines.clear()
    run(tuned(tmp_path / "two", init=str(tmp_path / "one"), tune=lora, steps=2), progress=False)
    said = "\n".join(lines)
    assert f"reference: {tmp_path / 'one'}, its adapters merged" in said and "without dropout" in said
    assert "lineage: gpt -> preference (adapters) -> preference" in said
    row = rows(tmp_path / "two")[0]  # fresh adapters change nothing: policy = reference
    assert abs(row["chosen_reward"]) < 1e-5 and abs(row["rejected_reward"]) < 1e-5
    stages = lineage.read(tmp_path / "two")
    assert [s["stage"] for s in stages] == ["gpt", "preference", "preference"]
    assert [s.get("adapters") for s in stages] == [None, 2, 2]
    for stage, folder in zip(stages[1:], ("one", "two"), strict=True):
        assert stage["hash"] == lineage.weights_hash(load(tmp_path / folder).model)


def test_another_reference_is_another_starting_point(tuned: Any, tmp_path: Path, base: Path) -> None:
    run(tuned(tmp_path / "far", steps=6, optim=OptimConfig(name="adamw", lr=0.05)), progress=False)
    run(tuned(tmp_path / "two", init=str(tmp_path / "far"), reference=str(base), steps=2), progress=False)
    assert abs(rows(tmp_path / "two")[0]["chosen_reward"]) > 1e-3
    with pytest.raises(ConfigError, match="does not read it"):
        run(tuned(tmp_path / "no", options={"loss": "simpo"}, reference=str(base)), progress=False)
    with pytest.raises(ConfigError, match="random weights"):
        run(tuned(tmp_path / "none", init=None), progress=False)


def test_the_column_stands_with_its_tokens_in_packed_rows(
    tuned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: Path
) -> None:
    seen: list[Referenced] = []
    made = Referenced.__init__

    def telling(self: Referenced, *given: Any) -> None:
        made(self, *given)
        seen.append(self)

    monkeypatch.setattr(Referenced, "__init__", telling)
    run(tuned(tmp_path / "r", steps=1), progress=False)
    batch = seen[0].batch(np.arange(seen[0].rows))
    model = load(base).model
    head = model.heads["tokens"]
    checked = 0
    for r in range(len(batch["tokens"])):
        for doc in range(batch["doc"][r].max() + 1):
            inside = batch["doc"][r] == doc
            for branch in (1, 2):
                at = np.flatnonzero(inside & ((batch["branch"][r] == 0) | (batch["branch"][r] == branch)))
                ids = torch.from_numpy(batch["tokens"][r][at])[None]
                with torch.no_grad():
                    logp = (model({"tokens": ids})[0] @ head.weight.T).double().log_softmax(-1)
                for i, place in enumerate(at):
                    expected = float(logp[i - 1, ids[0, i]]) if batch["mask"][r, place] else 0.0
                    assert batch["ref_logp"][r, place] == pytest.approx(expected, abs=1e-4)
                    checked += int(batch["mask"][r, place])
    assert checked > 50


# rollouts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rollout",
    [
        {},
        {"updates": 2},
        {"staleness": 1},
        {"staleness": 2, "keep": False},
    ],
    ids=["fresh", "divided", "stale", "staler"],
)
def test_a_run_on_rollouts_goes_on_bit_for_bit(
    tuned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rollout: dict[str, Any]
) -> None:
    def make_one(folder: Path) -> Any:
        how = RolloutConfig(prompts=4, group=4, max_new_tokens=4, **rollout)
        return tuned(folder, "rlvr", rollout=how)

    whole, cut = cut_and_whole(make_one, tmp_path, monkeypatch, 3)
    assert whole == cut and len(whole) == 6
    for row in whole:
        assert {"reward", "length", "entropy", "pass@k"} <= row.keys() and 0 <= row["reward"] <= 1
    if not rollout:
        assert all(row["drift"] < 1e-4 for row in whole)  # sampler and trainer are one forward
    if "staleness" in rollout:
        assert [row["staleness"] for row in whole] == [min(i, rollout["staleness"]) for i in range(6)]


def test_the_control_of_a_run_after_pretraining_is_its_parent(tuned: Any, tmp_path: Path, base: Path) -> None:
    result = run(tuned(tmp_path / "r", "rlvr"), progress=False)
    told = json.loads((tmp_path / "r/control.json").read_text())
    first, last = rows(tmp_path / "r", "eval")[0], rows(tmp_path / "r", "eval")[-1]
    assert told["kind"] == "parent" and told["parent"] == str(base) and told["metric"] == "pass@1"
    assert told["before"]["mean"] == first["val_pass@1"] and told["after"]["mean"] == last["val_pass@1"]
    gain = told["gain"]
    assert gain["mean"] == pytest.approx(told["after"]["mean"] - told["before"]["mean"])
    assert gain["low"] <= gain["mean"] <= gain["high"] and told["helps"] == (gain["low"] > 0)
    assert last["final"] and result.metrics["pass@1"] == last["val_pass@1"]
    assert "val_loss" not in last and result.val_loss is None


def test_an_alarm_ends_the_run_is_written_and_stays(
    tuned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(log, "say", lines.append)
    told = Rollouts.report

    def drifting(self: Rollouts, step: int) -> dict[str, float]:
        return {**told(self, step), **({"drift": 0.5} if step == 2 else {})}

    monkeypatch.setattr(Rollouts, "report", drifting)
    config = tuned(tmp_path / "r", "rlvr", alarms=AlarmsConfig())
    result = run(config, progress=False)
    assert result.step == 3 and not result.interrupted
    assert "alarm after step 3: sampler and trainer disagree" in "\n".join(lines)
    events = json.loads((tmp_path / "r/alarms.json").read_text())
    assert [(e["step"], e["name"], e["stops"]) for e in events] == [(3, "drift", True)]
    assert rows(tmp_path / "r", "event")[-1]["alarm"] == "drift"
    assert (tmp_path / "r/model.safetensors").exists()  # a run that an alarm ends has a model, too
    assert run(config, resume=True, progress=False).step == 3
    assert "an alarm has ended this run (drift" in "\n".join(lines)
    on = config.model_copy(update={"alarms": AlarmsConfig(stop=False)})
    assert run(on, resume=True, progress=False).step == 6


def test_a_rewind_throws_away_what_was_drawn_ahead(
    tuned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: list[int] = []
    forget = Rollouts.forget

    def telling(self: Rollouts, step: int) -> None:
        forgotten.append(step)
        forget(self, step)

    judged = loop.guarding.Guard.judge

    def bad(self: Any, memory: Any, loss: float, norm: float) -> Any:
        self.count = getattr(self, "count", 0) + 1
        return judged(self, memory, float("nan") if 4 <= self.count <= 6 else loss, norm)

    monkeypatch.setattr(Rollouts, "forget", telling)
    monkeypatch.setattr(loop.guarding.Guard, "judge", bad)
    from exnihilo.config import CheckpointConfig

    how = RolloutConfig(prompts=4, group=4, max_new_tokens=4, staleness=1)
    config = tuned(tmp_path / "r", "rlvr", steps=9, rollout=how, checkpoint=CheckpointConfig(every=1, keep=9))
    assert run(config, progress=False).step == 9
    assert forgotten == [0]
