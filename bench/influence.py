"""Influence where the truth is known: how often each measure finds it, and what resampling costs.

    python bench/influence.py faith --folder runs/recall --seeds 3    # trains seven tasks, then judges
    python bench/influence.py zero                                    # future, and beyond window × layers
    python bench/influence.py cost --lengths 64,256,1024,4096         # seconds and forwards, with the screen

`faith` trains `recipe recall` on each task (only where the run is not there yet; variables with four layers
and three times the steps) and judges on texts that training has not seen, interleaved over the measures:
resampling (the reference), screened, gradient norm, integrated gradients, and for comparison alone rollout,
last-layer attention and gradient × input, which is computed here and not offered. *hit*: the true position
comes first in a text; *false*: share of the positions that cannot matter, that get more than a quarter of the
largest; *control*: the same in an untrained network, held against the trained one's truth.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import common
from exnihilo.config import ModelConfig
from exnihilo.interop.load import Loaded, load
from exnihilo.model import build
from exnihilo.probe import faith, influence, tasks
from exnihilo.probe.found import Influence
from exnihilo.probe.gradients import frozen
from exnihilo.probe.subject import Subject, detached
from exnihilo.probe.trust import future

SHOWN = ("resampling", "screened", "gradient_norm", "integrated_gradients", "rollout", "last_layer")
TEXTS = 64
COST: dict[str, Any] = {"depth": 4, "width": 128, "heads": 4}


def gradient_times_input(subject: Subject, rows_NT: np.ndarray) -> Influence:
    """|gradient of the likeliest outcome's log-probability · embedding|: for comparison alone."""
    begun = time.perf_counter()
    rows = influence.Rows.of(rows_NT)
    out_NT = np.zeros(rows_NT.shape)
    with influence.quiet(subject), torch.enable_grad(), frozen(subject):
        for n in range(len(rows)):
            raw = rows.batch(n, subject.device)
            seq = subject.embed(raw)
            x_1TD = seq.x_BTD.detach().requires_grad_(True)
            logp_V = subject.after(detached(seq, x_1TD), [rows_NT.shape[1] - 1], raw).logp()[0, 0]
            (grad_1TD,) = torch.autograd.grad(logp_V.max(), x_1TD)
            out_NT[n] = (grad_1TD * x_1TD).sum(-1)[0].abs().detach().numpy()
    seconds = time.perf_counter() - begun
    return Influence(out_NT[:, None], (rows_NT.shape[1] - 1,), seconds, 3 * len(rows))


def wilson(hits: float, count: int) -> tuple[float, float]:
    """95% interval of a share."""
    z = 1.96
    middle = (hits + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(hits * (1 - hits) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return round(max(0.0, middle - half), 4), round(min(1.0, middle + half), 4)


def run_of(task: str, seed: int, args: argparse.Namespace) -> Loaded:
    """The run of a task and seed, trained where it is not there yet."""
    import exnihilo as xn

    path = Path(args.folder) / f"{task}-{args.length}-{seed}"
    if not (path / "config.json").exists():
        begun = time.perf_counter()
        more: dict[str, Any] = {"steps": args.steps} if args.steps else {}
        if task == "variable_tracking":  # a chain of two steps: twice the layers (recipes/recall.py)
            more = {"steps": 3 * (args.steps or 500), "model__depth": 4}
        found = xn.train(
            "recall",
            data=f"recall:{task}:{args.length}",
            model__context=args.length,
            seed=seed,
            run=str(path),
            progress=False,
            compile="off",
            **more,
        )
        common.row(
            "influence training",
            task=task,
            seed=seed,
            steps=found.step,
            accuracy=found.metrics.get("accuracy"),
            loss=found.val_loss,
            seconds=round(time.perf_counter() - begun, 1),
        )
    return load(path)


def measures(subject: Subject, told: faith.Known, seed: int) -> dict[str, Callable[[], Influence]]:
    """What is compared, by name."""
    swap = influence.Others(told.rows_NT, told.classes_V)
    ways: dict[str, Callable[[], Influence]] = {
        name: lambda name=name: faith.measure(subject, told.rows_NT, name, swap=swap, seed=seed)
        for name in SHOWN
    }
    return {**ways, "gradient_x_input": lambda: gradient_times_input(subject, told.rows_NT)}


def judged(args: argparse.Namespace) -> None:
    """Rows of hits and false positives, each measure on each task, over the seeds."""
    names = args.tasks.split(",") if args.tasks else list(tasks.NAMES)
    for name in names:
        task = tasks.make(name, length=args.length)
        found: dict[str, list[faith.Faith]] = {}
        controls: list[float] = []
        for seed in range(args.seeds):
            loaded = run_of(name, seed, args)
            subject = Subject(loaded.model, "tokens")
            told = faith.known(task, TEXTS, 10_000 + seed, loaded.codec)
            right = faith.accuracy(subject, told)
            for method, way in measures(subject, told, seed).items():
                found.setdefault(method, []).append(
                    faith.score(way(), told, method=method, task=name, right=right)
                )
                common.note(f"{name} {seed} {method} {found[method][-1].hit:.3f}")
            controls.append(control(loaded, told, found["resampling"][-1].nats, seed))
        for method, each in found.items():
            hit = float(np.mean([f.hit for f in each]))
            common.row(
                "influence faith",
                task=name,
                length=args.length,
                method=method,
                seeds=args.seeds,
                texts=TEXTS * args.seeds,
                accuracy=round(float(np.mean([f.accuracy for f in each])), 4),
                hit=round(hit, 4),
                hit_interval=wilson(hit, TEXTS * args.seeds),
                false_positives=round(float(np.mean([f.false_positives for f in each])), 5),
                nats=round(float(np.mean([f.nats for f in each])), 4),
                seconds_a_text=round(float(np.mean([f.seconds for f in each])) / TEXTS, 4),
                forwards_a_text=each[0].forwards // TEXTS,
                **({"control_false": round(float(np.mean(controls)), 5)} if method == "resampling" else {}),
            )


def control(loaded: Loaded, told: faith.Known, nats: float, seed: int) -> float:
    """Share of positions of an untrained network's map that look like a dependency, on the trained one's
    scale."""
    blank = Subject(build(loaded.model.config, seed=seed + 1), "tokens")
    swap = influence.Others(told.rows_NT, told.classes_V)
    found = influence.resampling(blank, told.rows_NT, swap=swap, sites=[-1], draws=2, seed=seed)
    return float((found.nats_NQT > faith.SHARE * nats).mean())


def zero(args: argparse.Namespace) -> None:
    """What cannot be seen has exactly no influence: the future, and what lies beyond window × layers."""
    del args
    random = np.random.default_rng(0)
    kinds: tuple[tuple[str, dict[str, Any]], ...] = (
        ("qwen3", {}),
        ("gpt2", {}),
        ("llama", {}),
        ("qwen3", {"window": 8}),
        ("qwen3", {"window": 8, "sinks": True}),
    )
    for family, more in kinds:
        shape = ModelConfig(family=family, depth=3, width=64, heads=2, context=128, vocab_size=64, **more)
        subject = Subject.of(build(shape, seed=0))
        found = influence.resampling(subject, random.integers(0, 64, (4, 96)), draws=2)
        far = np.array(found.sites)[:, None] - np.arange(96)
        window = subject.window
        beyond = found.nats_QT[far > window].max() if window is not None else None
        seen = found.nats_QT[(far >= 0) & (far <= (window or 96))]
        common.row(
            "influence zero", family=family, **more, window_x_layers=window, future=future(found),
            beyond=beyond, least_of_the_seen=float(seen.min()), pairs=int(found.nats_QT.size),
            states_moved_that_cannot_see=unseen(subject, random.integers(0, 64, 96)),
        )  # fmt: skip


def unseen(subject: Subject, tokens_T: np.ndarray) -> float:
    """The largest change of a hidden state by a swap that it cannot see, without any rounding: a text and its
    copies, each with one token swapped, in one forward."""
    T = len(tokens_T)
    rows_ST = np.repeat(tokens_T[None], T + 1, 0)
    rows_ST[np.arange(1, T + 1), np.arange(T)] = (tokens_T + 1) % 64
    with influence.quiet(subject), torch.no_grad():
        hidden_STD = subject.model({"tokens": torch.from_numpy(rows_ST)})
    moved_TT = (hidden_STD[1:] - hidden_STD[:1]).abs().amax(-1).numpy()  # swapped position, site
    far_TT = np.arange(T)[None] - np.arange(T)[:, None]
    hidden_TT = (far_TT < 0) | (far_TT > (subject.window or T))
    return float(moved_TT[hidden_TT].max())


def cost(args: argparse.Namespace) -> None:
    """Seconds and forwards of the last output of one text: all positions, and screened ones."""
    for length in map(int, args.lengths.split(",")):
        shape = ModelConfig(context=max(128, length), vocab_size=512, **COST)
        subject = Subject.of(build(shape, seed=0))
        rows_NT = np.random.default_rng(0).integers(0, 512, (2, length))
        all_positions = length <= args.most
        ways: dict[str, Callable[[], Influence]] = {
            "screened": lambda rows=rows_NT, s=subject: influence.screened(s, rows[:1], also=[0]),
        }
        if all_positions:
            ways["resampling"] = lambda rows=rows_NT, s=subject: influence.resampling(
                s, rows[:1], sites=[-1], draws=2
            )
        held: dict[str, list[Influence]] = {name: [] for name in ways}
        for turn in range(args.rounds + 1):
            for name, way in ways.items():
                found = way()
                if turn:
                    held[name].append(found)
        for name, each in held.items():
            seconds = common.median([f.seconds for f in each])
            common.row(
                "influence cost",
                length=length,
                method=name,
                draws=2,
                seconds=round(seconds, 3),
                forwards=each[0].forwards,
                ms_a_forward=round(1000 * seconds / each[0].forwards, 2),
                **COST,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("faith", "zero", "cost"))
    parser.add_argument("--folder", default="runs/recall")
    parser.add_argument("--tasks", default="")
    parser.add_argument("--length", type=int, default=tasks.LENGTH)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lengths", default="64,256,1024,4096")
    parser.add_argument("--most", type=int, default=1024, help="longest text whose positions are all swapped")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    {"faith": judged, "zero": zero, "cost": cost}[args.what](args)


if __name__ == "__main__":
    main()
