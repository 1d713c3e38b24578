"""Exactness: a run that is killed (SIGKILL) at random moments and resumed ends with the very bits of one
that was not.

    python bench/resume.py [--trials 20] [--seed 0] [--steps 60]

Each trial starts the same small run, kills its process at random moments (between steps, in one, while a
checkpoint is written), resumes it until it ends, and compares all tensors of its last checkpoint, weights,
optimiser and averaged weights, with those of the uncut run; and its metrics, row by row. One JSON row a
trial, then one for all.

Processes are forked from one that has imported everything, so that a trial costs no start-up.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import load_file

from exnihilo.config import (
    BatchConfig,
    CheckpointConfig,
    CodecConfig,
    DataConfig,
    EvalConfig,
    ModelConfig,
    RunConfig,
    SourceConfig,
)
from exnihilo.errors import ExNihiloError
from exnihilo.train import run as train
from exnihilo.train.metrics import rows
from exnihilo.train.runfolder import commit

LOADED = ("model", "optim", "ema")


def config(run: Path, data: Path, steps: int) -> RunConfig:
    """A run of a few seconds that saves, evaluates and averages often; its measured choices are given."""
    return RunConfig(
        run=str(run),
        data=DataConfig(sources=(SourceConfig(path=str(data)),)),
        codec=CodecConfig(kind="bytes"),
        model=ModelConfig(depth=1, width=64, context=32, dropout=0.1),
        batch=BatchConfig(tokens=256, micro_tokens=128),
        checkpoint=CheckpointConfig(every=7),
        eval=EvalConfig(every=20, tokens=256),
        steps=steps,
        ema=0.99,
        seed=3,
        threads=1,
        dtype="fp32",
        compile="off",
    )


def text(path: Path) -> None:
    """A corpus with something to learn, from a fixed seed."""
    draw = random.Random(7)
    words = ["".join(draw.choice("abcdefghijklmnop") for _ in range(draw.randint(2, 7))) for _ in range(300)]
    lines = (" ".join(draw.choice(words) for _ in range(draw.randint(5, 30))) for _ in range(3000))
    path.write_text("\n\n".join(lines))


def start(run: Path, data: Path, steps: int, *, resume: bool) -> int:
    """Train in a forked process; returns its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 0
    try:
        os.setpgrp()
        train(config(run, data, steps), resume=resume, progress=False)
    except ExNihiloError as error:
        print(error, file=sys.stderr)
        code = 1
    finally:
        os._exit(code)


def finish(child: int) -> int:
    """Wait for a process; its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@dataclass(frozen=True)
class Moment:
    """When to kill: some seconds after a number of metrics rows is written, or at the next save after that.

    Rows, so that it does not depend on how busy the machine is.
    """

    rows: int
    seconds: float
    at_save: bool


def trial(folder: Path, data: Path, steps: int, moments: list[Moment]) -> list[dict[str, object]]:
    """Train with a SIGKILL at each of these moments, then to the end; returns what each cut hit."""
    cuts: list[dict[str, object]] = []
    for moment in moments:
        child = start(folder, data, steps, resume=(folder / "config.toml").exists())
        done, end = False, None
        while not done:
            done = os.waitpid(child, os.WNOHANG) != (0, 0)
            if end is None and written(folder) >= moment.rows:
                end = time.monotonic() + moment.seconds
            if end is not None and time.monotonic() >= end and (saving(folder) or not moment.at_save):
                break
            time.sleep(0.0002)
        if done:
            break
        os.kill(child, signal.SIGKILL)
        finish(child)
        step = max((r["step"] for r in rows(folder / "metrics.jsonl")), default=None)
        cuts.append({"step": step, "seconds after": round(moment.seconds, 4), "saving": saving(folder)})
        if not (folder / "config.toml").exists():  # cut in preparation: there is nothing to resume yet
            shutil.rmtree(folder, ignore_errors=True)
    code = finish(start(folder, data, steps, resume=(folder / "config.toml").exists()))
    if code:
        raise SystemExit(f"a resumed run ended with {code}")
    return cuts


def written(folder: Path) -> int:
    """Metrics rows that are on disk."""
    try:
        return (folder / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def saving(folder: Path) -> bool:
    """Whether a checkpoint is being written, or was when the process was killed."""
    try:
        return any(name.startswith(".writing-") for name in os.listdir(folder / "checkpoints"))
    except FileNotFoundError:
        return False


def differences(a: Path, b: Path, steps: int) -> list[str]:
    """Tensors of the last checkpoints that are not equal bit for bit, and metrics rows that differ."""
    found = []
    name = f"checkpoints/step-{steps:08d}"
    for stem in LOADED:
        x, y = load_file(a / name / f"{stem}.safetensors"), load_file(b / name / f"{stem}.safetensors")
        if x.keys() != y.keys():
            found.append(f"{stem}: names")
        found += [f"{stem}: {k}" for k in x.keys() & y.keys() if x[k].tobytes() != y[k].tobytes()]
    name = "model.safetensors"
    if (a / name).read_bytes() != (b / name).read_bytes():
        found.append(name)
    keys = ("kind", "step", "loss", "lr", "grad_norm", "val_loss")
    told = [[{k: r.get(k) for k in keys} for r in rows(f / "metrics.jsonl")] for f in (a, b)]
    if told[0] != told[1]:
        found.append("metrics.jsonl")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    steps: int = arguments.steps
    for name in ("torch._dynamo", "torch._refs"):  # what torch imports late, so that each process need not
        importlib.import_module(name)
    draw = random.Random(arguments.seed)
    where = {
        "bench": "resume",
        "commit": commit(),
        "device": f"cpu, {platform.machine()}, {os.cpu_count()} cores",
    }
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        os.environ["EXNIHILO_CACHE"] = str(base / "cache")
        data = base / "corpus.txt"
        text(data)
        finish(start(base / "warm", data, 1, resume=False))  # fills the data cache
        begun = time.monotonic()
        finish(start(base / "whole", data, steps, resume=False))
        length = time.monotonic() - begun
        equal = hit = 0
        for number in range(arguments.trials):
            run = base / f"cut-{number}"
            count = draw.choice((1, 1, 2))
            moments = [
                Moment(draw.randint(0, steps), draw.uniform(0, 2 * length / steps), draw.random() < 0.4)
                for _ in range(count)
            ]
            cuts = trial(run, data, steps, moments)
            wrong = differences(base / "whole", run, steps)
            equal += not wrong
            hit += any(bool(c["saving"]) for c in cuts)
            row = {**where, "trial": number, "cuts": cuts, "identical": not wrong, "differs": wrong[:5]}
            print(json.dumps(row), flush=True)
            shutil.rmtree(run)
    total = {**where, "trials": arguments.trials, "identical": equal, "cut while saving": hit}
    print(json.dumps({**total, "steps": steps, "uncut_seconds": round(length, 2)}), flush=True)
    return 0 if equal == arguments.trials else 1


if __name__ == "__main__":
    raise SystemExit(main())
