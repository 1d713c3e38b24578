"""Questions about pictures and sounds: new combinations, and what is left when they are swapped.

    python bench/mixed.py train [--minutes 4] [--seeds 0 1 2]     the embedded world, held out by combination
    python bench/mixed.py score --run RUN                         the same questions to a run that is there
    python bench/mixed.py speed [--rounds 5]                      milliseconds of patches and log-mel frames

The held-out questions are about combinations of thing, colour and number that no training example shows, and
about sounds that follow each other as in none. Controls: the same model given the picture (the sound, both)
of another question of the same kind, and the most frequent training answer of each question. Two cores;
quiet.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import interleave, median, note, row

Example = dict[str, Any]


def held_out(count: int) -> list[Example]:
    """Questions of the world about what is new, behind all training documents."""
    from types import SimpleNamespace

    from exnihilo.world.document import HELD_OUT
    from exnihilo.world.pictures import NEW
    from exnihilo.world.scenes import scenes

    new = {f"bucket {b}" for b in NEW}
    out: list[Example] = []
    number = HELD_OUT
    while len(out) < count:
        [example] = scenes(SimpleNamespace(index=number))  # type: ignore[arg-type]
        number += 1
        if example["_group"] in new:
            out.append({k: v for k, v in example.items() if k != "_group"})
    return out


def kind_of(example: Example) -> str:
    seen, heard = "picture" in example, "sound" in example
    return "both" if seen and heard else "picture" if seen else "sound"


def swapped(examples: Sequence[Example], roles: Sequence[str]) -> list[Example]:
    """Each question with the picture, the sound or both of the next of its kind: what is asked, and what is
    given with it, stay alike."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, example in enumerate(examples):
        groups.setdefault((kind_of(example), *example["question"].split()[:2]), []).append(i)
    out = [dict(example) for example in examples]
    for members in groups.values():
        for at, i in enumerate(members):
            other = examples[members[(at + 1) % len(members)]]
            out[i] |= {role: other[role] for role in roles if role in other}
    return out


def spread(values: Sequence[float]) -> tuple[float, float]:
    """95% interval of a mean over seeds (Student)."""
    n = len(values)
    if n < 2:
        return (math.nan, math.nan)
    mean = sum(values) / n
    t = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}.get(n, 2.2)
    half = t * math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)
    return round(mean - half, 4), round(mean + half, 4)


def scored(run: Path, count: int, seed: int, seconds: float | None) -> dict[str, float]:
    """Rows of a run on what is new: as it is asked, with what is given swapped, and guessed."""
    import exnihilo as xn
    from exnihilo.infer.interval import wilson

    examples = held_out(count)
    given = {
        "asked": examples,
        "picture swapped": swapped(examples, ("picture",)),
        "sound swapped": swapped(examples, ("sound",)),
        "both swapped": swapped(examples, ("picture", "sound")),
    }
    model = xn.load(run)
    objective: Any = model.predictor().objective
    out: dict[str, float] = {}
    for name, asked in given.items():
        found = objective.score(model.predict(asked), examples)
        figures = {k: round(v, 4) for k, v in found.items()}
        low, high = wilson(found["accuracy"] * count, count)
        row(
            "mixed", seed=seed, given=name, **figures, low=round(low, 4), high=round(high, 4), seconds=seconds
        )
        out |= {f"{name}: {key}": value for key, value in found.items()}
    guessed = objective.majority(examples)
    row("mixed", seed=seed, given="question alone", **{k: round(v, 4) for k, v in guessed.items()})
    return out | {f"question alone: {key}": value for key, value in guessed.items()}


def score(a: argparse.Namespace) -> None:
    """The same of a run that is there."""
    scored(Path(a.run), a.count, -1, None)


def train(a: argparse.Namespace) -> None:
    """Accuracy on what is new, and with what is seen or heard swapped."""
    import exnihilo as xn

    seen: dict[str, list[float]] = {}
    for seed in a.seeds:
        with tempfile.TemporaryDirectory() as folder:
            run, began = Path(folder) / "run", time.perf_counter()
            budget = {"steps": a.steps} if a.steps else {"minutes": a.minutes}
            kept = {"data.val_fraction": 0.125, "run": str(run), "seed": seed, "progress": False}
            kept |= {"eval.every": 10**6, "control.seeds": 0}  # one evaluation, at the end
            xn.train("media_qa", data=a.data, **kept, **budget, **a.given)
            seconds = round(time.perf_counter() - began, 1)
            for key, value in scored(run, a.count, seed, seconds).items():
                seen.setdefault(key, []).append(value)
    for key, values in seen.items():
        name, _, metric = key.partition(": ")
        if metric != "f1":
            mean = round(sum(values) / len(values), 4)
            row("mixed", given=name, metric=metric, mean=mean, interval=spread(values), seeds=len(values))


def speed(a: argparse.Namespace) -> None:
    """Milliseconds for 64 examples: pixels to patches, samples to log-mel frames."""
    import torch

    from exnihilo.codec.picture.patches import patchify
    from exnihilo.codec.sound.layout import Frames
    from exnihilo.codec.sound.mel import log_mel
    from exnihilo.world.pictures import render
    from exnihilo.world.sounds import render as play

    images = [render(f"world:red-kite@13:{i}", 64) for i in range(64)]
    waves = [torch.from_numpy(play(f"world:bell:{i}")) for i in range(64)]
    layout = Frames()
    sides = {
        "patches": lambda: [patchify(image, 8) for image in images],
        "log-mel": lambda: [layout.cut(frames) for frames in log_mel(waves)],
    }
    for name, seconds in interleave(sides, a.rounds).items():
        row("mixed front", what=name, examples=64, milliseconds=round(1000 * median(seconds), 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("train", "score", "speed"))
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--steps", type=int, default=0, help="instead of minutes")
    parser.add_argument("--count", type=int, default=1000, help="held-out questions")
    parser.add_argument("--run", default="", help="of score")
    parser.add_argument("--data", default="world")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], help="further settings, KEY=VALUE")
    a = parser.parse_args()
    from exnihilo.config_layers import parse_value

    a.given = {key: parse_value(key, value) for key, value in (word.split("=", 1) for word in a.set)}
    note("data: the embedded world")
    {"train": train, "score": score, "speed": speed}[a.what](a)


if __name__ == "__main__":
    main()
