"""Two gloo processes under torchrun do what one does, and a run cut at one worker goes on at two.

Both engines (FSDP2 and replication) are held against one process; an odd number of rows a step leaves one
worker with fewer, and dropout is off, so that the sums are the same but for their order.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from exnihilo.train import loop, metrics, run

SCRIPT = """
import json, sys
from exnihilo.config import RunConfig
from exnihilo.train import run

for line in json.loads(sys.argv[1]):
    run(RunConfig.model_validate(line["config"]), resume=line["resume"], progress=False)
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = random.Random(5)
    words = ["".join(draw.choice("aeiklmnorst") for _ in range(draw.randint(2, 6))) for _ in range(40)]
    text = "\n\n".join(" ".join(draw.choice(words) for _ in range(draw.randint(4, 20))) for _ in range(300))
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "one.txt").write_text(text[: len(text) // 2])
    (folder / "two.txt").write_text(text[len(text) // 2 :])
    return folder


def settings(run_folder: Path, corpus: Path, **values: Any) -> dict[str, Any]:
    return {
        "run": str(run_folder),
        "data": [str(corpus / "one.txt"), str(corpus / "two.txt")],
        "codec": {"kind": "bytes"},
        "model": {"depth": 2, "width": 32, "context": 32},
        "batch": {"tokens": 7 * 32, "micro_tokens": 64},
        "eval": {"every": 4, "tokens": 640, "samples": 1},
        "checkpoint": {"every": 4},
        "steps": 8,
        "ema": 0.9,
        "threads": 1,
        "dtype": "fp32",
        "compile": "off",
        **values,
    }


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


def rows(folder: Path) -> list[tuple[Any, ...]]:
    found = [r for r in metrics.rows(folder / "metrics.jsonl") if r["kind"] != "event"]
    return [(r["kind"], r["step"], r.get("loss", r.get("val_loss")), r.get("grad_norm", 0.0)) for r in found]


def test_two_workers_are_one(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from exnihilo.config import RunConfig

    monkeypatch.setenv("EXNIHILO_CACHE", str(tmp_path / "cache"))
    one = RunConfig.model_validate(settings(tmp_path / "one", corpus))
    run(one, progress=False)
    with monkeypatch.context() as patch:  # cut a second run, at one worker, after step 3
        done = loop.Loop._done

        def telling(self: loop.Loop, at: int) -> None:
            done(self, at)
            if at + 1 == 3:
                os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr(loop.Loop, "_done", telling)
        cut = settings(tmp_path / "cut", corpus)
        assert run(RunConfig.model_validate(cut), progress=False).interrupted
    replicate = settings(tmp_path / "replicate", corpus, parallel={"mode": "replicate"})
    two_workers(tmp_path, (settings(tmp_path / "fsdp", corpus), False), (replicate, False), (cut, True))
    expected = rows(tmp_path / "one")
    assert [r[1] for r in expected if r[0] == "train"] == list(range(1, 9))
    for name in ("fsdp", "replicate", "cut"):
        found = rows(tmp_path / name)
        assert [r[:2] for r in found] == [r[:2] for r in expected], name
        for a, b in zip(expected, found, strict=True):
            assert b[2] == pytest.approx(a[2], abs=2e-5), (name, a, b)
            assert b[3] == pytest.approx(a[3], rel=1e-3), (name, a, b)
    last = "checkpoints/step-00000008"
    for stem in ("model", "ema", "optim"):  # whole tensors, whoever wrote them
        a, b = (load_file(tmp_path / n / last / f"{stem}.safetensors") for n in ("one", "fsdp"))
        assert a.keys() == b.keys()
        for key in a:
            torch.testing.assert_close(a[key], b[key], rtol=1e-2, atol=2e-3)
    texts = [(tmp_path / n / "samples/step-00000000.txt").read_text() for n in ("one", "fsdp")]
    assert texts[0] == texts[1]
    # and back: what two workers wrote, one reads
    again = settings(tmp_path / "fsdp", corpus, steps=9)
    assert run(RunConfig.model_validate(again), resume=True, progress=False).step == 9
