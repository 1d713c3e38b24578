"""Long rows and long dependencies: memory of one forward, and tasks that need the first tokens at the end.

    python bench/long_range.py memory [--lengths 4096 16384 65536]
    python bench/long_range.py recall [--seeds 3] [--steps 300] [--folder DIR] [--arms curriculum local]
    python bench/long_range.py mqar [--seeds 3] [--steps 700] [--folder DIR] [--arms grows straight]

memory: each row in a process of its own; the most memory that the process held while it made one forward over
T tokens, above what it held before (ru_maxrss), beside what one T×T mask in float32 would take. recall: the
first of T tokens must be named at the end. The arms have equal tokens and steps: rows that grow from 64 to
4096 (*curriculum*), the same with windows of 64 in both layers (*local*: a control, at chance above 128), and
rows of 4096 from the first step on (*straight*). Accuracy is by length, on texts that were not trained on
(`--suite retrieval`). mqar: multi-query associative recall (mqar.py), in rows of 256 with 16 pairs of 256
keys and values, on 1,000 texts of another seed. The first of two layers is local (a position and the one
before it), and rows grow: 16 with 4 pairs of 16 keys, then 64 with 16 of all 256, then 256. The arm
*straight* has the same layers, steps and tokens a step, but rows of 256 alone. Controls: chance, and a value
of the text.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from common import ROOT, note, row

KINDS: dict[str, dict[str, Any]] = {
    "causal": {},
    "window": {"window": 512, "global_every": 4},
    "sinks": {"window": 512, "global_every": 4, "sinks": True},
    "documents": {},
}
COMMAND = [sys.executable, "-m", "exnihilo"]
LENGTHS = (64, 256, 1024, 4096)
SHORT = ((64, 16, 512, 16_000), (16, 4, 32, 30_000))
"""Of MQAR: length, pairs, vocabulary and number of the shorter texts."""


def one(kind: str, T: int, depth: int) -> None:
    """One forward, measured in this process."""
    from exnihilo.config import ModelConfig
    from exnihilo.model import build, parameters, resolve

    config = resolve(ModelConfig(depth=depth, vocab_size=4096, context=T, **KINDS[kind]))
    model, head_room = build(config, seed=0).eval(), 64
    tokens_1T = torch.randint(0, 4096, (1, T), generator=torch.Generator().manual_seed(0))
    raw = {"tokens": tokens_1T}
    if kind == "documents":  # sixteen of them in a row
        raw["doc"] = (torch.arange(T) * 16 // T)[None]
        raw["pos"] = (torch.arange(T) % -(-T // 16))[None]
    with torch.inference_mode():
        model({name: value[:, :256] for name, value in raw.items()})
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begun = time.perf_counter()
        hidden_BTD = model(raw)
        model.heads["tokens"].logits(hidden_BTD[:, -head_room:])  # type: ignore[operator]
        seconds = time.perf_counter() - begun
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {
                "kind": kind,
                "T": T,
                "parameters": parameters(config),
                "depth": config.depth,
                "width": config.width,
                "peak_mb": round((most - before) / 1024),
                "process_mb": round(most / 1024),
                "square_mask_mb": round(4 * T * T / 2**20),
                "seconds": round(seconds, 2),
            }
        )
    )


def memory(a: argparse.Namespace) -> None:
    """Rows of `one`, each of a process."""
    for T in a.lengths:
        for kind in a.kinds:
            command = [sys.executable, __file__, "one", kind, str(T), "--depth", str(a.depth)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            row("long_range.memory", **json.loads(done.stdout.splitlines()[-1]))


def called(*words: str) -> str:
    """What `exnihilo` says, from the repository's root, so that bench.mqar is found."""
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def recall(a: argparse.Namespace) -> None:
    """First-token recall at lengths up to 4096."""
    sources = [f"recall:copy_first:{n}" + (":500" if n == 4096 else "") for n in LENGTHS]
    stages = [[0.3, 64], [0.2, 256], [0.2, 1024], [0.3, 4096]]
    for seed in range(a.first, a.first + a.seeds):
        for arm in a.arms:
            run = a.folder / f"recall-{arm}-{seed}"
            words = [
                f"data={json.dumps(sources)}",
                "model.context=4096",
                "batch.tokens=8192",
                "model.depth=2",
            ]
            words += ["model.width=64", "model.heads=2", "model.rope_theta=500000", "dtype=fp32"]
            words += ["eval.every=100000", "compile=off", f"steps={a.steps}", f"seed={seed}", f"run={run}"]
            words += [f"batch.lengths={json.dumps(stages)}"] if arm != "straight" else []
            words += [f"model.window={64 if arm == 'local' else 'none'}", "model.global_every=none"]
            note(f"{run}: exnihilo train recall {' '.join(words)}")
            begun, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            called("train", "recall", *words)
            took = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent = took.ru_utime + took.ru_stime - used.ru_utime - used.ru_stime
            minutes = (time.perf_counter() - begun) / 60
            asked = ["eval", str(run), "--suite", "retrieval=recall:copy_first", "max_examples=200", "--json"]
            found = json.loads(called(*asked))
            figures = found["suites"]["retrieval"]
            row(
                "long_range.recall",
                arm=arm,
                seed=seed,
                steps=a.steps,
                accuracy={
                    str(n): figures.get(f"accuracy_{n}") for n in LENGTHS if f"accuracy_{n}" in figures
                },
                texts_of_each_length=200,
                chance=figures["guessed_accuracy"],
                minutes=round(minutes, 2),
                processor_minutes=round(spent / 60, 2),
            )


def mqar(a: argparse.Namespace) -> None:
    """Multi-query associative recall: rows that grow, from four pairs of sixteen keys to the task itself."""
    import mqar as task

    a.folder.mkdir(parents=True, exist_ok=True)
    for seed, arm in itertools.product(range(a.first, a.first + a.seeds), a.arms):
        name = f"mqar-{a.length}-{a.pairs}-{arm}-{seed}"
        train, val, run = (a.folder / f"{name}{end}" for end in (".train.txt", ".val.txt", ""))
        given = {"length": a.length, "pairs": a.pairs, "vocabulary": a.vocabulary}
        task.write(val, texts=1000, seed=2 * seed + 1, **given)
        task.write(train, texts=a.texts, seed=2 * seed, **given)
        if arm == "grows":  # short texts stand in the same file: equal tokens a step, equal steps
            for length, pairs, vocabulary, texts in SHORT:
                more = {"length": length, "pairs": pairs, "vocabulary": min(vocabulary, a.vocabulary)}
                task.write(train, texts=texts, seed=2 * seed, append=True, **more)
        words = ["objective=bench.mqar", f"data={train}", f"val={val}", "data.unit=line", "val.unit=line"]
        words += [f"model.context={a.length}", f"batch.tokens={a.tokens}", "model.depth=2", "model.width=64"]
        words += ["model.heads=2", "model.window=2", "model.global_every=2", "dtype=fp32", "compile=off"]
        words += [f"steps={a.steps}", f"seed={seed}", "eval.every=100000", f"run={run}", "codec.sample_mb=50"]
        words += [f"optim.lr={a.lr}"] if a.lr else []
        if arm == "grows":
            stages = [[0.15, SHORT[1][0]], [0.35, SHORT[0][0]], [0.5, a.length]]
            words += [f"batch.lengths={json.dumps(stages)}"]
        note(f"{run}: exnihilo train recall {' '.join(words)}")
        begun, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        called("train", "recall", *words)
        took = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = took.ru_utime + took.ru_stime - used.ru_utime - used.ru_stime
        lines = [json.loads(s) for s in (run / "metrics.jsonl").read_text().splitlines()]
        last = [line for line in lines if "val_accuracy" in line][-1]
        row(
            "long_range.mqar",
            arm=arm,
            seed=seed,
            **given,
            steps=a.steps,
            tokens_a_step=a.tokens,
            accuracy=round(last["val_accuracy"], 4),
            queries=1000 * a.pairs,
            chance=round(2 / a.vocabulary, 4),
            of_the_text=round(1 / a.pairs, 4),
            minutes=round((time.perf_counter() - begun) / 60, 2),
            processor_minutes=round(spent / 60, 2),
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    part = parts.add_parser("memory")
    part.add_argument("--lengths", type=int, nargs="+", default=[4096, 16384, 65536])
    part.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    part.add_argument("--depth", type=int, default=4)
    part = parts.add_parser("one")
    part.add_argument("kind", choices=list(KINDS))
    part.add_argument("T", type=int)
    part.add_argument("--depth", type=int, default=4)
    part = parts.add_parser("recall")
    part.add_argument("--seeds", type=int, default=3)
    part.add_argument("--first", type=int, default=0, help="the first seed")
    part.add_argument("--steps", type=int, default=300)
    part.add_argument("--folder", type=Path, default=Path("runs/long_range"))
    part.add_argument(
        "--arms", nargs="+", choices=["curriculum", "straight", "local"], default=["curriculum", "local"]
    )
    part = parts.add_parser("mqar")
    part.add_argument("--seeds", type=int, default=3)
    part.add_argument("--first", type=int, default=0, help="the first seed")
    part.add_argument("--steps", type=int, default=700)
    part.add_argument("--texts", type=int, default=10_000)
    part.add_argument("--tokens", type=int, default=4096, help="of a step")
    part.add_argument("--arms", nargs="+", choices=["grows", "straight"], default=["grows"])
    part.add_argument("--length", type=int, default=256)
    part.add_argument("--pairs", type=int, default=16)
    part.add_argument("--vocabulary", type=int, default=512)
    part.add_argument("--lr", type=float, default=0.0, help="default: the recipe's")
    part.add_argument("--folder", type=Path, default=Path("runs/long_range"))
    a = parser.parse_args()
    if a.part == "one":
        one(a.kind, a.T, a.depth)
    else:
        {"memory": memory, "recall": recall, "mqar": mqar}[a.part](a)


if __name__ == "__main__":
    main()
