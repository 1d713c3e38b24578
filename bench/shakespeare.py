"""Learning on real text: tiny Shakespeare, character level, nanoGPT's 90/10 split, beside nanoGPT's own CPU
recipe.

    NANOGPT=path/to/nanoGPT python bench/shakespeare.py race [--seeds 3]     # seconds to validation loss 1.88
    python bench/shakespeare.py best [--minutes 15]                          # the lowest loss in 15 minutes

`race` runs whole processes in turn: nanoGPT's `train.py` with its published CPU settings (4 layers, 128
wide, context 64, batch 12, 2000 steps, evaluation as published), and `exnihilo train gpt`, both from
start-up to the last evaluation. Both final models are then measured on the same text: all of the last 10%,
in windows of the same length.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import data_folder, median, note, row

TARGET = 1.88
NANOGPT_RECIPE = [
    "config/train_shakespeare_char.py",
    "--device=cpu",
    "--compile=False",
    "--eval_iters=20",
    "--log_interval=100",
    "--block_size=64",
    "--batch_size=12",
    "--n_layer=4",
    "--n_head=4",
    "--n_embd=128",
    "--max_iters=2000",
    "--lr_decay_iters=2000",
    "--dropout=0.0",
]
RACE = [
    "codec.kind=chars",
    "model.depth=2",
    "model.width=128",
    "model.heads=4",
    "model.context=64",
    "batch.tokens=1024",
    "steps=240",
    "optim.lr=0.03",
    "optim.adamw_lr=0.02",
    "optim.momentum=0.9",
    "optim.schedule.cooldown=0.7",
    "eval.samples=0",
    "eval.every=1000000",
    "eval.tokens=1000000",
    "compile=off",
]
BEST = [
    "codec.kind=chars",
    "model.depth=4",
    "model.width=256",
    "model.context=256",
    "model.dropout=0.1",
    "batch.tokens=4096",
    "optim.lr=0.02",
    "optim.adamw_lr=0.02",
    "optim.schedule.cooldown=0.7",
    "eval.samples=1",
    "compile=off",
]


MEASURE = """
import sys, numpy as np, torch
sys.path.insert(0, ".")
from model import GPT, GPTConfig
saved = torch.load(sys.argv[1], map_location="cpu", weights_only=True)
model = GPT(GPTConfig(**saved["model_args"]))
model.load_state_dict(saved["model"])
model.eval()
ids = torch.from_numpy(np.fromfile(sys.argv[2], np.uint16).astype(np.int64))
rows = ids[: (len(ids) - 1) // 64 * 64].view(-1, 64), ids[1 : (len(ids) - 1) // 64 * 64 + 1].view(-1, 64)
total = 0.0
with torch.no_grad():
    for x, y in zip(rows[0].split(128), rows[1].split(128)):
        total += model(x, y)[1].item() * len(x)
print(total / len(rows[0]))
"""


def split(folder: Path) -> tuple[Path, Path]:
    text = (data_folder() / "tinyshakespeare" / "input.txt").read_text()
    cut = int(len(text) * 0.9)
    train, val = folder / "train.txt", folder / "val.txt"
    train.write_text(text[:cut])
    val.write_text(text[cut:])
    return train, val


def nanogpt(home: Path, train: Path, val: Path, out: Path) -> tuple[float, float]:
    """(seconds of the whole process, loss on all of the validation text in windows of 64)."""
    import numpy as np

    chars = sorted(set(train.read_text() + val.read_text()))
    ids = {c: i for i, c in enumerate(chars)}
    folder = home / "data" / "shakespeare_char"
    for name, path in (("train", train), ("val", val)):
        np.array([ids[c] for c in path.read_text()], np.uint16).tofile(folder / f"{name}.bin")
    # train.py reads the vocabulary's size from a pickle; without one it would use 50304
    meta = "import pickle, sys; pickle.dump({'vocab_size': int(sys.argv[1])}, open(sys.argv[2], 'wb'))"
    subprocess.run([sys.executable, "-c", meta, str(len(chars)), str(folder / "meta.pkl")], check=True)
    start = time.perf_counter()
    command = [sys.executable, "train.py", *NANOGPT_RECIPE, f"--out_dir={out}"]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(done.stderr)
    check = [sys.executable, "-c", MEASURE, str(out / "ckpt.pt"), str(folder / "val.bin")]
    told = subprocess.run(check, cwd=home, capture_output=True, text=True, check=True).stdout
    loss = float(told.strip().splitlines()[-1])
    return seconds, loss


def exnihilo(train: Path, val: Path, run: Path, settings: list[str], seed: int) -> tuple[float, float, dict]:
    """(seconds of the whole process, loss on all of the validation text, the run's figures)."""
    start = time.perf_counter()
    command = [
        "train",
        "gpt",
        f"data={train}",
        f"val={val}",
        f"run={run}",
        f"seed={seed}",
        "--json",
        *settings,
    ]
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, "-m", "exnihilo", *command],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "EXNIHILO_CACHE": cache},
        )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(done.stderr)
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    return seconds, figures["val_loss"], figures


def race(seeds: int) -> None:
    home = Path(os.environ["NANOGPT"]).resolve()
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as tmp:
        train, val = split(Path(tmp))
        for seed in range(seeds):
            s, loss, _ = exnihilo(train, val, Path(tmp) / f"run{seed}", RACE, seed)
            ours.append(s)
            row(
                "shakespeare-race",
                contender="exnihilo",
                seed=seed,
                seconds=round(s, 1),
                val_loss=round(loss, 4),
            )
            s, loss = nanogpt(home, train, val, Path(tmp) / f"nano{seed}")
            theirs.append(s)
            row(
                "shakespeare-race",
                contender="nanogpt",
                seed=seed,
                seconds=round(s, 1),
                val_loss=round(loss, 4),
            )
    row("shakespeare-race", target=TARGET, time_ratio=round(median(ours) / median(theirs), 3))


def best(minutes: float, seed: int, more: list[str]) -> None:
    with tempfile.TemporaryDirectory() as tmp:
        train, val = split(Path(tmp))
        given = {word.partition("=")[0] for word in more}
        settings = [w for w in (*BEST, f"minutes={minutes}") if w.partition("=")[0] not in given]
        settings += more
        s, loss, figures = exnihilo(train, val, Path(tmp) / "run", settings, seed)
        row(
            "shakespeare-best",
            minutes=minutes,
            seconds=round(s, 1),
            val_loss=round(loss, 4),
            settings=settings,
            figures=figures,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["race", "best"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--minutes", type=float, default=14.3, help="best: of training; the process takes less than 15"
    )
    parser.add_argument("settings", nargs="*", help="best: more key=value")
    a = parser.parse_intermixed_args()
    if not (data_folder() / "tinyshakespeare").exists():
        note("skipped: no tinyshakespeare folder; set EXNIHILO_DATA")
    elif a.what == "race":
        race(a.seeds)
    else:
        best(a.minutes, a.seed, a.settings)
