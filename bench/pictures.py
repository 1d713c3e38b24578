"""Pictures: accuracy at a small budget, few labels with and without pretraining, the front end, the loader.

    python bench/pictures.py accuracy mnist [--minutes 2.5] [--seeds 0]  all labels, from random weights
    python bench/pictures.py accuracy mnist --choose            the same, judged on a part of the training
                                                                        pictures: settings are chosen here
    python bench/pictures.py pretrain fashion-mnist [--labels 1000]      few labels: random, and pretrained on
                                                                        the training pictures without labels
    python bench/pictures.py front [--rounds 10]                        files to numbers, against transformers
    python bench/pictures.py loader mnist                               how long training waits for pictures

Data: mnist, fashion-mnist (idx), cifar10-jpeg (.tar) in EXNIHILO_DATA. The test is the official one where it
is there (t10k-images...), else what is held out of the training part by a hash of each picture. Seconds are
of the processor, all threads together, so that they mean the same on a busy machine.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from common import data_folder, median, note, row

GREY = {"options.size": 28, "options.channels": 1, "options.patch": 7}
SETS: dict[str, dict[str, Any]] = {
    "mnist": {**GREY, "data.val_fraction": 1 / 6},
    "fashion-mnist": {**GREY, "data.val_fraction": 1 / 6, "options.augment": {"pad": 1, "flip": 0.5}},
    "cifar10-jpeg": {
        "data.val_fraction": 0.2,
        "options.augment": {"pad": 4, "flip": 0.5, "brightness": 0.2, "contrast": 0.2, "saturation": 0.2},
    },
}


def source(name: str) -> tuple[str, dict[str, Any]]:
    """Where a set's training pictures are, and what else of the set is to be said."""
    folder, how = data_folder() / name, dict(SETS[name])
    tests = sorted(folder.glob("t10k-images*"))
    if tests:
        how.pop("data.val_fraction")
        return str(next(iter(sorted(folder.glob("train-images*"))))), {**how, "val": str(tests[0])}
    return str(folder), how


def trained(recipe: str, data: str, run: Path, **given: Any) -> tuple[dict[str, float], float]:
    """Metrics of the held-out pictures after the last step, and the processor's seconds."""
    import exnihilo as xn

    began = time.process_time()
    xn.train(recipe, data=data, run=str(run), force=True, progress=False, **given)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if any(k.startswith("val_") for k in line)][-1]
    found = {k.removeprefix("val_"): v for k, v in last.items() if k.startswith("val_")}
    losses = [line["loss"] for line in lines if line.get("kind") == "train"][-50:]
    found |= {"step": last["step"], "train_loss": round(statistics.fmean(losses), 4)}
    return found, time.process_time() - began


def budget(a: argparse.Namespace) -> dict[str, float]:
    """Minutes of the clock where they are given, else epochs."""
    return {"minutes": a.minutes} if a.minutes else {"epochs": a.epochs}


def apart(name: str, folder: Path, share: float = 0.1) -> tuple[str, dict[str, Any]]:
    """As `source`, with a tenth of the training pictures in place of the test: two tables."""
    from exnihilo.config import DataConfig
    from exnihilo.data import examples

    data, how = source(name)
    config = DataConfig(sources=data, val_fraction=how.get("data.val_fraction", 0.0))  # type: ignore[arg-type]
    found = examples(config, None, "train", roles=("picture", "label"))
    lines = [json.dumps({"path": str(e["picture"]), "label": e["label"]}) for e in found]
    order = np.random.default_rng(1).permutation(len(lines))
    cut = int(share * len(lines))
    tables = []
    for part, chosen in (("choose", order[:cut]), ("learn", order[cut:])):
        tables.append(folder / f"{part}.jsonl")
        tables[-1].write_text("\n".join(lines[i] for i in chosen) + "\n")
    plain = {k: v for k, v in how.items() if k not in ("val", "data.val_fraction")}
    return str(tables[1]), {**plain, "val": str(tables[0])}


def accuracy(a: argparse.Namespace) -> None:
    """All labels, from random weights."""
    folder = tempfile.TemporaryDirectory()
    data, how = apart(a.set, Path(folder.name)) if a.choose else source(a.set)
    scores = []
    for seed in a.seeds:
        with tempfile.TemporaryDirectory() as name:
            found, seconds = trained(
                "picture_classification",
                data,
                Path(name) / "run",
                **{**how, **budget(a), "seed": seed, "eval.every": 1_000_000, **a.given},
            )
        scores.append(found["accuracy"])
        row(
            "pictures",
            set=a.set,
            seed=seed,
            part="choose" if a.choose else "test",
            accuracy=found["accuracy"],
            steps=found["step"],
            train_loss=found["train_loss"],
            majority=found.get("majority_accuracy"),
            cpu_s=round(seconds),
            **budget(a),
        )
    folder.cleanup()
    _interval("pictures", scores, set=a.set, part="choose" if a.choose else "test", **budget(a))


def few(name: str, count: int, seed: int, folder: Path) -> Path:
    """A table of some of a set's training pictures with their labels, as many of each class."""
    from exnihilo.config import DataConfig
    from exnihilo.data import examples

    data, how = source(name)
    config = DataConfig(sources=data, val_fraction=how.get("data.val_fraction", 0.0))  # type: ignore[arg-type]
    known: dict[str, list[str]] = {}
    for example in examples(config, None, "train", roles=("picture", "label")):
        known.setdefault(example["label"], []).append(example["picture"])
    rng = np.random.default_rng(seed)
    rows = [
        json.dumps({"path": str(path), "label": label})
        for label, paths in sorted(known.items())
        for path in rng.choice(np.array(paths), min(len(paths), count // len(known)), replace=False)
    ]
    table = folder / f"few-{seed}.jsonl"
    table.write_text("\n".join(rows) + "\n")
    return table


def held(name: str, folder: Path, most: int) -> Path:
    """A table of the pictures that are the test, of the first of them at most so many."""
    from exnihilo.config import DataConfig
    from exnihilo.data import examples

    data, how = source(name)
    val = DataConfig(sources=how["val"]) if "val" in how else None
    config = DataConfig(sources=data, val_fraction=how.get("data.val_fraction", 0.0))  # type: ignore[arg-type]
    found = examples(config, val, "val", roles=("picture", "label"))
    table = folder / "test.jsonl"
    lines = [json.dumps({"path": e["picture"], "label": e["label"]}) for e in islice(found, most or None)]
    table.write_text("\n".join(lines) + "\n")
    return table


def pretrain(a: argparse.Namespace) -> None:
    """Few labels: from random weights, and from masked pretraining on all training pictures."""
    data, how = source(a.set)
    plain = {k: v for k, v in how.items() if k not in ("val", "data.val_fraction")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        test = held(a.set, folder, a.test)
        masked = {k: v for k, v in how.items() if k != "options.augment"}
        found, seconds = trained(
            "masked_picture",
            data,
            folder / "seen",
            **{**masked, "epochs": a.masked_epochs, "eval.every": 1_000_000, **a.given},
        )
        row("pictures masked", set=a.set, loss=found["loss"], epochs=a.masked_epochs, cpu_s=round(seconds))
        scores: dict[str, list[float]] = {"random": [], "pretrained": []}
        for seed in a.seeds:
            table = few(a.set, a.labels, seed, folder)
            for kind in scores:
                more = {"init": str(folder / "seen")} if kind == "pretrained" else {}
                found, seconds = trained(
                    "picture_classification",
                    str(table),
                    folder / "run",
                    **{
                        **plain,
                        "val": str(test),
                        "epochs": a.epochs,
                        "seed": seed,
                        "control.seeds": 0,
                        "eval.every": 1_000_000,
                        **more,
                        **a.given,
                    },
                )
                scores[kind].append(found["accuracy"])
                what = {"set": a.set, "labels": a.labels, "start": kind, "seed": seed}
                row("pictures few", **what, accuracy=found["accuracy"], cpu_s=round(seconds))
        for kind, each in scores.items():
            _interval("pictures few", each, set=a.set, labels=a.labels, start=kind, epochs=a.epochs)


def _interval(bench: str, scores: list[float], **what: Any) -> None:
    """The mean with its 95% interval (Student's t) over the seeds."""
    if len(scores) < 2:
        return
    t = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}.get(len(scores), 2.0)
    half = t * statistics.stdev(scores) / math.sqrt(len(scores))
    mean = statistics.mean(scores)
    figures = {"accuracy": round(mean, 4), "low": round(mean - half, 4), "high": round(mean + half, 4)}
    row(bench, **what, seeds=len(scores), **figures)


def front(a: argparse.Namespace) -> None:
    """The processor's microseconds a picture, from files to what the model is given; and once files are
    stored, which is what an epoch pays."""
    from PIL import Image
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    from exnihilo.codec.picture.layout import Patches
    from exnihilo.codec.picture.read import pixels

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        for side, size, patch, count in ((32, 32, 4, 256), (400, 224, 16, 32)):
            paths = []
            for i in range(count):
                low = rng.integers(0, 256, (side // 8, side // 8, 3), np.uint8)
                paths.append(Path(name) / f"{side}-{size}-{i}.jpg")
                Image.fromarray(low).resize((side, side)).save(paths[-1], quality=90)
            theirs = ViTImageProcessorPil(size={"height": size, "width": size})
            layout = Patches(size, size, patch)

            def one(path: Path, layout: Patches = layout) -> np.ndarray:
                return layout.fold(pixels(path, layout.size))

            held = np.stack([one(path) for path in paths])
            sides = {
                "exnihilo": lambda p=paths, f=one, y=layout: y.vectors(np.stack(list(map(f, p)))),
                "exnihilo, stored": lambda h=held, y=layout: y.vectors(h),
                "transformers": lambda p=paths, t=theirs: t(
                    [Image.open(path).convert("RGB") for path in p], return_tensors="np"
                ),
            }
            times: dict[str, list[float]] = {what: [] for what in sides}
            for _ in range(a.rounds + 1):
                for what, call in sides.items():
                    began = time.process_time()
                    call()
                    times[what].append(time.process_time() - began)
            found = {what: round(median(each[1:]) / count * 1e6, 1) for what, each in times.items()}
            ratios = {k: round(found["transformers"] / v, 2) for k, v in found.items() if k != "transformers"}
            row("pictures front", files=f"{side}x{side} jpeg", made=size, ratios=ratios, us_a_picture=found)


def loader(a: argparse.Namespace) -> None:
    """The share of training's time in which it waits for a batch, and what making one takes."""
    from exnihilo.train.batches import Batches

    data, how = source(a.set)
    waits: list[float] = []
    makes: list[float] = []
    ends: list[float] = []
    get, make = Batches.get, Batches.make

    def timed_get(self: Batches, step: int) -> Any:
        began = time.perf_counter()
        found = get(self, step)
        ends.append(time.perf_counter())
        waits.append(ends[-1] - began)
        return found

    def timed_make(self: Batches, step: int) -> Any:
        began = time.thread_time()
        found = make(self, step)
        makes.append(time.thread_time() - began)
        return found

    Batches.get, Batches.make = timed_get, timed_make  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as name:
        given = {**how, "steps": a.steps, "eval.every": 1_000_000, **a.given}
        trained("picture_classification", data, Path(name) / "run", **given)
    skip = len(waits) // 3  # the first ones, in which the machine is got to know
    span = ends[-1] - ends[skip - 1]
    row(
        "pictures loader",
        set=a.set,
        waiting=round(sum(waits[skip:]) / span, 4),
        making_s=round(statistics.median(makes), 4),
        step_s=round(span / (len(ends) - skip), 4),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("accuracy", "pretrain", "front", "loader"))
    parser.add_argument("set", nargs="?", choices=tuple(SETS), default="mnist")
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--minutes", type=float, default=0, help="of the clock, instead of epochs")
    parser.add_argument("--masked-epochs", type=float, default=2)
    parser.add_argument("--test", type=int, default=0, help="pictures that few labels are judged on; 0: all")
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--choose", action="store_true", help="accuracy: judge on some training pictures")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", dest="more", nargs="*", default=[], help="further settings, KEY=VALUE")
    a = parser.parse_args()
    from exnihilo.config_layers import parse_value

    a.given = {key: parse_value(key, value) for key, value in (word.split("=", 1) for word in a.more)}
    note(f"data: {data_folder() / a.set}")
    {"accuracy": accuracy, "pretrain": pretrain, "front": front, "loader": loader}[a.what](a)


if __name__ == "__main__":
    main()
