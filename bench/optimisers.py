"""Muon against AdamW on real text, each at its best rate: the lowest loss in equal time.

    python bench/optimisers.py [--minutes 2] [--seeds 3] [--steps N] [KEY=VALUE ...]

Data: childrens-stories (BPE of 2048). First every rate of both optimisers runs once on seed 0; then the best
rate of each runs on further seeds, in turn. `--steps` gives both as many steps instead of as many minutes,
for machines that are not quiet: then compare `seconds` on a quiet one too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import data_folder, note, row

# contender -> (its settings, the rates it is tried at)
CONTENDERS: dict[str, tuple[tuple[str, ...], tuple[float, ...]]] = {
    "muon": (("optim.name=muon",), (0.01, 0.02, 0.04)),
    "muon, embeddings at 0.01": (("optim.name=muon", "optim.adamw_lr=0.01"), (0.02,)),
    "adamw": (("optim.name=adamw",), (0.0015, 0.003, 0.006)),
}
SETTINGS = [
    "codec.vocab_size=2048",
    "model.depth=3",
    "model.width=192",
    "model.context=128",
    "batch.tokens=2048",
    "eval.samples=0",
    "eval.every=1000000",
    "eval.tokens=100000",
    "compile=off",
]


def train(run: Path, settings: list[str], cache: Path) -> dict:
    """The figures of one run, whole process."""
    folder = data_folder() / "childrens-stories"
    command = ["train", "gpt", f"data={folder / 'train.txt'}", f"val={folder / 'valid.txt'}", f"run={run}"]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "exnihilo", *command, *settings, "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "EXNIHILO_CACHE": str(cache)},
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return {
        "process_s": round(time.perf_counter() - start, 1),
        **json.loads(done.stdout.strip().splitlines()[-1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("settings", nargs="*")
    a = parser.parse_intermixed_args()
    if not (data_folder() / "childrens-stories").exists():
        note("skipped: no childrens-stories folder; set EXNIHILO_DATA")
        return
    budget = f"steps={a.steps}" if a.steps else f"minutes={a.minutes}"
    losses: dict[tuple[str, float], list[float]] = {}

    def once(name: str, lr: float, seed: int) -> None:
        with tempfile.TemporaryDirectory() as tmp:
            settings = [*SETTINGS, *a.settings, budget, *CONTENDERS[name][0], f"optim.lr={lr}"]
            figures = train(Path(tmp) / "run", [*settings, f"seed={seed}"], cache)
        losses.setdefault((name, lr), []).append(figures["val_loss"])
        row(
            "optimisers",
            contender=name,
            lr=lr,
            seed=seed,
            val_loss=round(figures["val_loss"], 4),
            steps=figures["step"],
            seconds=round(figures["seconds"], 1),
        )

    with tempfile.TemporaryDirectory() as kept:
        cache = Path(kept)
        for turn in range(max(len(rates) for _, rates in CONTENDERS.values())):
            for name, (_, rates) in CONTENDERS.items():
                if turn < len(rates):
                    once(name, rates[turn], 0)
        best = {
            name: min(rates, key=lambda lr, name=name: losses[name, lr][0])
            for name, (_, rates) in CONTENDERS.items()
        }
        for seed in range(1, a.seeds):
            for name, lr in best.items():
                once(name, lr, seed)
    for name, lr in best.items():
        found = losses[name, lr]
        row(
            "optimisers",
            contender=name,
            best_lr=lr,
            seeds=len(found),
            budget=budget,
            val_loss=round(statistics.mean(found), 4),
            spread=round(max(found) - min(found), 4),
        )


if __name__ == "__main__":
    main()
