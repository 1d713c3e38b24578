"""After pretraining, two gloo processes do what one does: a reference, KTO's prelude, rollouts.

Gradients are those of the whole batch however it is cut; rollouts follow from (weights, seed, number) alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from exnihilo.config import RunConfig
from exnihilo.train import metrics, run

SCRIPT = """
import json, sys
from exnihilo.config import RunConfig
from exnihilo.train import run

for line in json.loads(sys.argv[1]):
    run(RunConfig.model_validate(line["config"]), resume=line["resume"], progress=False)
"""
SMALL = {
    "codec": {"kind": "bytes"},
    "model": {"depth": 1, "width": 32, "heads": 2, "context": 64},
    "batch": {"tokens": 3 * 128, "micro_tokens": 128},
    "optim": {"name": "adamw", "lr": 3e-3, "weight_decay": 0.0},
    "eval": {"every": 100, "replies": 4, "max_new_tokens": 4, "samples": 0},
    "steps": 4,
    "threads": 1,
    "dtype": "fp32",
    "compile": "off",
}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def settings(folder: Path, root: Path, objective: str, **values: Any) -> dict[str, Any]:
    data = {"preference": "pairs", "rlvr": "tasks"}[objective]
    if values.get("options", {}).get("loss") == "kto":
        data = "labels"
    made = {
        **SMALL,
        "run": str(folder),
        "recipe": objective,
        "objective": objective,
        "data": str(root / f"{data}.jsonl"),
        "init": str(root / "base"),
    }
    if objective == "rlvr":
        made["rollout"] = {"prompts": 5, "group": 4, "max_new_tokens": 4}
        made |= {"grader": f"{root / 'even.py'}:grade", "alarms": {"stop": False}}
    return {**made, **values}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXNIHILO_CACHE", str(tmp_path / "cache"))
    pairs = [
        {"prompt": f"say {a}{b}", "chosen": f"{a}!", "rejected": f"{b}?"} for a in "abcdefgh" for b in "xyz"
    ]
    write(tmp_path / "pairs.jsonl", pairs)
    sides = ("chosen", "rejected")
    labels = [
        {"prompt": p["prompt"], "completion": p[s], "label": s == "chosen"} for p in pairs for s in sides
    ]
    write(tmp_path / "labels.jsonl", labels)
    write(tmp_path / "tasks.jsonl", [{"prompt": p["prompt"], "answer": p["chosen"]} for p in pairs])
    (tmp_path / "even.py").write_text(
        "def grade(example, completion):\n    return float(len(completion) % 2)\n"
    )
    (tmp_path / "text.txt").write_text("\n\n".join(p["prompt"] + " " + p["chosen"] for p in pairs) * 4)
    first = {**SMALL, "run": str(tmp_path / "base"), "data": str(tmp_path / "text.txt"), "steps": 2}
    run(RunConfig.model_validate(first), progress=False)
    return tmp_path


def two_workers(tmp_path: Path, *runs: tuple[dict[str, Any], bool]) -> None:
    script = tmp_path / "worker.py"
    script.write_text(SCRIPT)
    what = json.dumps([{"config": config, "resume": resume} for config, resume in runs])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, str(script), what],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]


def figures(folder: Path) -> list[tuple[int, float, float]]:
    found = [r for r in metrics.rows(folder / "metrics.jsonl") if r["kind"] == "train"]
    return [(r["step"], r["loss"], r["grad_norm"]) for r in found]


def test_two_workers_are_one_with_a_reference_a_prelude_and_rollouts(root: Path) -> None:
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "dpo": ("preference", {}),
        "kto": ("preference", {"options": {"loss": "kto"}}),
        "rl": ("rlvr", {}),
        "stale": ("rlvr", {"rollout": {"prompts": 5, "group": 4, "max_new_tokens": 4, "staleness": 1}}),
    }
    apart = []
    for name, (objective, values) in kinds.items():
        run(RunConfig.model_validate(settings(root / name, root, objective, **values)), progress=False)
        mode = {"mode": "replicate" if name == "stale" else "fsdp"}
        apart.append((settings(root / f"{name}2", root, objective, parallel=mode, **values), False))
    # and elastic: what one worker began, two go on with
    begun = settings(root / "grow", root, "rlvr", steps=2)
    run(RunConfig.model_validate(begun), progress=False)
    grown = {**begun, "steps": 4, "optim": {**SMALL["optim"], "schedule": {"name": "constant"}}}
    constant = {**grown, "steps": 2, "run": str(root / "grow2")}
    run(RunConfig.model_validate(constant), progress=False)
    whole = {**grown, "run": str(root / "grown")}
    run(RunConfig.model_validate(whole), progress=False)
    two_workers(root, *apart, ({**grown, "run": str(root / "grow2")}, True))
    for one, two in [*((name, f"{name}2") for name in kinds), ("grown", "grow2")]:
        expected, found = figures(root / one), figures(root / two)
        assert [r[0] for r in found] == [r[0] for r in expected] == [1, 2, 3, 4]
        for a, b in zip(expected, found, strict=True):
            assert b[1] == pytest.approx(a[1], abs=1e-4), (two, a, b)
            assert b[2] == pytest.approx(a[2], rel=2e-2, abs=1e-4), (two, a, b)
