"""Preferences: what they do to what is generated, and wrong labels.

    python bench/preference_world.py world [--loss rpo dpo]         # a known property, before and after
    python bench/preference_world.py flips [--seeds 3] [--share .3] # dpo and robust dpo under flipped pairs

A model is fine-tuned on dialogues of the embedded world, whose replies are polite, plain or rude in equal
shares (``--start``: one that was; a seed is of the pairs, their flips, their order and the draws). Pairs
prefer polite ones and differ in nothing else. Measured is how many of the replies that it then generates
(temperature 1) are polite, to questions about people whom no dialogue or pair was about. With flipped pairs
dpo stops at the share of labels that are right, σ(βΔ) = 1 − share; robust dpo knows the share, and aims at
the true labels.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from common import row

DRAWS = 3  # replies to each question
SHAPE = {
    "codec.kind": "bpe",
    "codec.vocab_size": 512,
    "model.depth": 4,
    "model.width": 128,
    "model.heads": 4,
    "model.context": 128,
}
QUIET = {"compile": "off", "progress": False, "eval.samples": 0, "eval.replies": 0, "checkpoint.best": False}


def tuned(folder: Path, a: argparse.Namespace) -> Path:
    """The model that preferences start from: given, or trained now."""
    import exnihilo as xn
    from exnihilo.world import World
    from exnihilo.world.lessons import School, drawn

    if a.start is not None:
        return a.start
    school, run = School(World(0)), folder / "sft"
    lessons = {json.dumps(e): e for e in drawn(school.lesson, 6000, 0, 1)}
    data = folder / "lessons.jsonl"
    data.write_text("\n".join(lessons) + "\n")
    settings = {**SHAPE, **QUIET, "optim.lr": 2e-3, "batch.tokens": 2048, "steps": a.tuning}
    xn.train("sft", data=str(data), run=str(run), **settings)
    return run


def pairs_file(folder: Path, seed: int, share: float, count: int) -> Path:
    """Pairs, a share of them the wrong way round."""
    from exnihilo.world import World
    from exnihilo.world.lessons import School, drawn
    from exnihilo.world.rng import Draws

    school, d = School(World(0)), Draws(seed, 7)
    found = list({json.dumps(e): e for e in drawn(school.pair, count, seed, 2)}.values())
    turned = [d.below(1000) < round(1000 * share) for _ in found]
    lines = [
        {**e, "chosen": e["rejected"], "rejected": e["chosen"]} if turn else e
        for e, turn in zip(found, turned, strict=True)
    ]
    path = folder / f"pairs-{seed}-{share}.jsonl"
    path.write_text("\n".join(json.dumps(e) for e in lines) + "\n")
    return path


def held_out(folder: Path) -> Path:
    """Pairs about people of whom no other pair is, none turned."""
    from exnihilo.world import World
    from exnihilo.world.lessons import School, drawn

    school = School(World(0))
    path = folder / "held-out.jsonl"
    found = {json.dumps(e): e for e in drawn(lambda d: school.pair(d, held_out=True), 200, 99)}
    path.write_text("\n".join(found) + "\n")
    return path


def rate(run: Path, seed: int) -> dict[str, float]:
    """Share of polite replies to held-out questions, drawn at temperature 1, with its interval."""
    from exnihilo.codec.chat import chat
    from exnihilo.infer import generate
    from exnihilo.infer.interval import bootstrap
    from exnihilo.interop.load import load
    from exnihilo.world import World
    from exnihilo.world.lessons import School, manner

    loaded = load(run)
    speaker = chat(loaded.codec)
    asked = [q.question for q in School(World(0)).questions()]
    prompts = [speaker.prompt([{"role": "user", "content": q}]) for q in asked for _ in range(DRAWS)]
    made = generate(
        loaded.model, loaded.codec, prompts, max_new_tokens=40, temperature=1.0, seed=seed, rows=128,
        eos=speaker.stop_ids,
    )  # fmt: skip
    values = [float(manner(speaker.reply(m.ids)) == "polite") for m in made]
    each = [sum(values[i : i + DRAWS]) / DRAWS for i in range(0, len(values), DRAWS)]  # of a question
    low, high = bootstrap(each)
    stopped = sum(m.finish_reason != "length" for m in made) / len(made)
    return {
        "polite": sum(values) / len(values),
        "low": low,
        "high": high,
        "stops": stopped,
        "replies": len(made),
    }


def prefer(start: Path, data: Path, val: Path, run: Path, seed: int, steps: int, **options: Any) -> Any:
    """A run of the recipe."""
    import exnihilo as xn

    settings = {
        **QUIET, "optim.lr": 2e-4, "batch.tokens": 2048, "steps": steps,
        **{f"options.{k}": v for k, v in options.items()},
    }  # fmt: skip
    return xn.train(
        "preference", init=str(start), data=str(data), val=str(val), run=str(run), seed=seed, **settings
    )


def last_figures(run: Path) -> dict[str, float]:
    """The last evaluation of a run."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [r for r in rows if "val_accuracy" in r]
    keys = ("val_accuracy", "val_margin", "val_chosen_logp", "val_rejected_logp")
    return {k.removeprefix("val_"): round(found[-1][k], 4) for k in keys}


def world(folder: Path, a: argparse.Namespace) -> None:
    """A row a seed and loss: the generated rate before and after, with the margin."""
    val, start = held_out(folder), tuned(folder, a)
    for seed in range(a.seeds):
        before = rate(start, seed)
        for loss in a.loss:
            run = folder / f"world-{seed}-{loss}"
            result = prefer(start, pairs_file(folder, seed, 0.0, 3000), val, run, seed, a.steps, loss=loss)
            after = rate(run, seed)
            row(
                "preference world", seed=seed, loss=loss, steps=result.step, seconds=round(result.seconds, 1),
                before=before, after=after, held_out=last_figures(run),
            )  # fmt: skip


def flips(folder: Path, a: argparse.Namespace) -> None:
    """A row a seed, β and loss; then what robust gains over dpo, with a paired interval over seeds."""
    from statistics import mean, stdev

    val, start = held_out(folder), tuned(folder, a)
    gains: dict[float, list[float]] = {}
    for seed in range(a.seeds):
        for beta in a.beta:
            got: dict[str, float] = {}
            for name, share, options in (
                ("dpo, no flips", 0.0, {"loss": "dpo"}),
                ("dpo", a.share, {"loss": "dpo"}),
                ("robust", a.share, {"loss": "robust", "smoothing": a.share}),
            ):
                run = folder / f"flips-{seed}-{beta}-{name.replace(', ', '-').replace(' ', '-')}"
                prefer(
                    start,
                    pairs_file(folder, seed, share, 3000),
                    val,
                    run,
                    seed,
                    a.steps,
                    beta=beta,
                    **options,
                )
                found = rate(run, seed)
                got[name] = found["polite"]
                row("preference flips", seed=seed, beta=beta, loss=name, **found, held_out=last_figures(run))
            gains.setdefault(beta, []).append(got["robust"] - got["dpo"])
    student = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # 97.5% quantiles
    for beta, found in gains.items():
        half = (
            student.get(len(found), 2.0) * stdev(found) / len(found) ** 0.5
            if len(found) > 1
            else float("nan")
        )
        middle = mean(found)
        row(
            "preference flips",
            beta=beta,
            share=a.share,
            seeds=len(found),
            robust_minus_dpo=round(middle, 4),
            low=round(middle - half, 4),
            high=round(middle + half, 4),
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["world", "flips"])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.3, help="of labels that are flipped")
    parser.add_argument("--loss", nargs="+", default=["rpo"], help="world: dpo, rpo ...")
    parser.add_argument("--beta", type=float, nargs="+", default=[0.5])
    parser.add_argument("--start", type=Path, help="a tuned model of the world, e.g. the quickstart's sft")
    parser.add_argument("--tuning", type=int, default=800, help="steps of fine-tuning, where there is none")
    parser.add_argument("--folder", type=Path, help="where to keep runs; default: nowhere")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        folder = a.folder or Path(tmp)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("EXNIHILO_CACHE", str(folder / "cache"))
        (world if a.what == "world" else flips)(folder, a)


if __name__ == "__main__":
    main()
