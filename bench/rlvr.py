"""What a reward teaches a model that started from random weights, against its controls.

    python bench/rlvr.py sort [--seeds 0 1 2]    # three letters in order: chance is one in six
    python bench/rlvr.py add                     # addition, a digit more than was shown, with a scratchpad
    python bench/rlvr.py short                   # half the tokens at equal accuracy: a reward for brevity

All training goes through `exnihilo.train`. What supervised tuning shows of sort is the form alone: any order.
For add it goes on in stretches until between 10 and 40% of the replies to *training* prompts are right; a
stretch that jumps over that is done again, half as long. Held-out prompts decide nothing.

Arms, all from the same supervised model of a seed, all asked the same held-out prompts, four replies each at
temperature 1:

    chance      guesses in the right form, without a model
    sft         what supervised tuning left
    rl          rewards for right answers (preset field: r − mean, clip 0.2/0.28, no KL)
    shuffled    the same, each batch's rewards dealt anew at random: what training alone does
    rejection   as many completions drawn from the supervised model as rl drew; on the right ones, supervised
                tuning over as many positions as rl trained on

One row an arm: pass@1 and pass@4 with 95% bootstrap intervals over prompts (of all seeds), stop rate,
tokens a reply, seconds, and processor seconds of training. ``gap`` is rl's lower bound less sft's upper one.
With ``--folder`` what was done stays, and is not done again: arms and seeds may come in calls of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from common import note, row

Task = dict[str, Any]
SAMPLES = 4
LAST = """def grade(example, completion):
    said = completion.split("=")[-1].split("hm ")[-1].strip()
    return float(said == example["answer"])
"""  # what stands behind the work, or behind thinking aloud


@dataclass(frozen=True)
class Family:
    """A kind of task.

    Attributes:
        tasks: seed -> (to learn the form from, to be rewarded on, held out); each {"prompt", "answer"}.
        form: (task, chance) -> the reply that supervised tuning shows. guess: a reply of chance alone.
        grader: of replies; "last": the file above. chance: of a guess in the right form; None: not known.
        context, new: positions, and new tokens of a reply.
        sft, rl: steps. lr: of rl.
        band: supervised tuning ends where the share of right replies to training prompts lies here, after
            stretches of `stretch` steps, whose rate falls to a tenth over `sft` steps; None: after `sft`.
    """

    tasks: Callable[[int], tuple[list[Task], list[Task], list[Task]]]
    form: Callable[[Task, random.Random], str]
    guess: Callable[[Task, random.Random], str]
    grader: str
    chance: float | None
    context: int
    new: int
    sft: int
    rl: int
    options: Mapping[str, Any]
    lr: float = 5e-4
    shown: int = 8000
    band: tuple[float, float] | None = None
    stretch: int = 100
    arms: tuple[str, ...] = ("chance", "sft", "rl", "shuffled", "rejection")


# the tasks --------------------------------------------------------------------------------------------------

LETTERS = "abcdefghijklmnop"


def sorting(seed: int) -> tuple[list[Task], list[Task], list[Task]]:
    """Three letters to put in order; sets of letters are divided, so that no held-out one was seen."""
    chance = random.Random(seed)
    sets = [tuple(s) for s in {tuple(sorted(p)) for p in permutations(LETTERS, 3)}]
    sets.sort()
    chance.shuffle(sets)
    kept = [[_sort(p) for s in part for p in permutations(s)] for part in (sets[:-60], sets[-60:])]
    for part in kept:
        chance.shuffle(part)
    return kept[0], kept[0], kept[1][:300]


def _sort(letters: Sequence[str]) -> Task:
    return {"prompt": " ".join(letters), "answer": " ".join(sorted(letters))}


def any_order(task: Task, chance: random.Random) -> str:
    letters = task["prompt"].split()
    chance.shuffle(letters)
    return " ".join(letters)


def talkative(task: Task, chance: random.Random) -> str:
    """The right order behind some thinking aloud, more or less of it."""
    return "hm " * chance.randint(0, 8) + task["answer"]


PLACES = 3


def adding(seed: int) -> tuple[list[Task], list[Task], list[Task]]:
    """Sums of three places: in what is shown at most two digits of each number are not zero, in what is
    rewarded and asked all three."""
    chance = random.Random(seed)

    def some() -> int:
        digits = chance.randint(1, PLACES - 1)
        return chance.randint(1, 10**digits - 1) * 10 ** chance.randint(0, PLACES - digits)

    def full() -> int:
        return int("".join(chance.choice("123456789") for _ in range(PLACES)))

    short = [_sum(some(), some()) for _ in range(8000)]
    long = list({t["prompt"]: t for t in (_sum(full(), full()) for _ in range(3300))}.values())
    return short, long[:-300], long[-300:]


def _sum(a: int, b: int) -> Task:
    """Digits from the right; the work is, place by place, both digits, what is carried in, and the result."""
    sides = [f"{n:0{PLACES}d}"[::-1] for n in (a, b)]
    steps, carry = [], 0
    for x, y in zip(*sides, strict=True):
        total = int(x) + int(y) + carry
        steps.append(f"{x}{y}{carry}{total % 10}")
        carry = total // 10
    said = f"{a + b:0{PLACES + 1}d}"[::-1]
    return {"prompt": "+".join(sides), "answer": said, "work": " ".join(steps) + "=" + said}


def any_sum(task: Task, chance: random.Random) -> str:
    """The form of the work, with digits at random."""
    return "".join(chance.choice("0123456789") if c.isdigit() else c for c in task["work"])


# arms -------------------------------------------------------------------------------------------------------


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return str(path)


def dialogue(task: Task, reply: str) -> dict[str, Any]:
    said = [{"role": "user", "content": task["prompt"]}, {"role": "assistant", "content": reply}]
    return {"messages": said}


def config(family: Family, seed: int, folder: Path, **values: Any) -> Any:
    """What all runs share."""
    from exnihilo.config import (
        CheckpointConfig,
        CodecConfig,
        ControlConfig,
        EvalConfig,
        ModelConfig,
        OptimConfig,
        RunConfig,
        ScheduleConfig,
    )

    lr, shape = values.pop("lr"), values.pop("schedule", "linear")
    given: dict[str, Any] = {
        "run": str(folder),
        "seed": seed,
        "codec": CodecConfig(kind="chars"),
        "model": ModelConfig(family="qwen3", depth=2, width=128, heads=4, context=family.context),
        "optim": OptimConfig(
            name="adamw",
            lr=lr,
            betas=(0.9, 0.95),
            weight_decay=0.0,
            schedule=ScheduleConfig(name=shape, warmup=0.05),
        ),
        "eval": EvalConfig(every=10**6, replies=0, samples=0),
        "checkpoint": CheckpointConfig(every=10**6, best=False),
        "control": ControlConfig(seeds=0),
        "device": "cpu",
        "compile": "off",
    }
    return RunConfig(**{**given, **values})


def supervised(
    family: Family, seed: int, folder: Path, rows: Sequence[Any], *, steps: int, lr: float, **values: Any
) -> Path:
    from exnihilo.config import BatchConfig, DataConfig, SourceConfig
    from exnihilo.train import run

    folder.parent.mkdir(parents=True, exist_ok=True)
    data = write(folder.with_suffix(".jsonl"), rows)
    source = DataConfig(sources=(SourceConfig(path=data),), val_fraction=0.0)
    more = {"recipe": "sft", "objective": "sft", "data": source, "batch": BatchConfig(tokens=2048), **values}
    run(config(family, seed, folder, steps=steps, lr=lr, **more), progress=False)
    return folder


def rewarded(family: Family, seed: int, folder: Path, init: Path, tasks: str, **options: Any) -> Path:
    from exnihilo.config import AlarmsConfig, DataConfig, RolloutConfig, SourceConfig
    from exnihilo.train import run

    run(
        config(
            family,
            seed,
            folder,
            recipe="rlvr",
            objective="rlvr",
            options={**family.options, **options},
            init=str(init),
            data=DataConfig(sources=(SourceConfig(path=tasks),), val_fraction=0.0),
            grader=family.grader,
            rollout=RolloutConfig(prompts=32, group=8, max_new_tokens=family.new),
            alarms=AlarmsConfig(stop=False),
            steps=family.rl,
            lr=family.lr,
            schedule="constant",
        ),
        progress=False,
    )
    return folder


def chosen(family: Family, seed: int, init: Path, tasks: Sequence[Task], count: int) -> list[dict[str, Any]]:
    """Of so many completions of the supervised model the right ones, as dialogues."""
    from exnihilo.codec.chat import chat
    from exnihilo.eval.graders import create, grade_many
    from exnihilo.infer.engine import Engine
    from exnihilo.infer.request import Request
    from exnihilo.interop.load import load

    loaded = load(init)
    speaker = chat(loaded.codec)
    asked = [tasks[i % len(tasks)] for i in range(count // 8)]
    requests = [
        Request(
            speaker.prompt([{"role": "user", "content": t["prompt"]}]),
            max_new_tokens=family.new,
            n=8,
            seed=seed,
            number=8 * i,
            stop_ids=speaker.stop_ids,
        )
        for i, t in enumerate(asked)
    ]
    drawn = Engine(loaded.model, slots=128, eos=speaker.stop_ids).run(requests)
    pairs = [(t, speaker.reply(c.ids)) for t, group in zip(asked, drawn, strict=True) for c in group]
    graded = grade_many(create(family.grader), [t for t, _ in pairs], [text for _, text in pairs])
    return [dialogue(t, text) for (t, text), g in zip(pairs, graded, strict=True) if g.right]


def positions(folder: Path) -> int:
    """That a run has trained on."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return max(int(r["tokens"]) for r in map(json.loads, lines) if r["kind"] == "train")


def tuned(family: Family, seed: int, folder: Path, shown: Sequence[Any], reward: Sequence[Task]) -> Path:
    """Supervised tuning, by steps or by the rule; its rate falls from stretch to stretch."""
    if family.band is None:
        return supervised(family, seed, folder, shown, steps=family.sft, lr=3e-3)
    low, high = family.band
    done, steps, init = 0, family.stretch, {}
    for number in range(1, 100):
        run, lr = folder.with_name(f"sft-{number}"), 3e-3 * max(0.1, 1 - done / family.sft)
        how: dict[str, Any] = {"steps": steps, "lr": lr, "schedule": "constant", **init}
        made = supervised(family, 1000 * seed + number, run, shown, **how)
        share = float(measured(family, made, reward[:64], samples=8)["right"].mean()) / 8
        note(f"seed {seed} sft {done} + {steps} steps: {share:.3f} of the replies to training prompts")
        if share > high and steps > 1:  # jumped over: from where it was, half as far
            steps //= 2
            continue
        done, init = done + steps, {"init": str(made)}
        if share >= low:
            shutil.copytree(made, folder)
            return folder
    raise SystemExit(f"seed {seed}: {done} steps of supervised tuning, and right replies are too rare")


def measured(family: Family, folder: Path, held: Sequence[Task], samples: int = SAMPLES) -> dict[str, Any]:
    """Right replies of so many to each prompt, and their means."""
    from exnihilo.eval.graders import create
    from exnihilo.eval.replies import evaluate_replies
    from exnihilo.interop.load import load

    loaded = load(folder)
    examples = [{**t, "prompt": [{"role": "user", "content": t["prompt"]}]} for t in held]
    found, replies = evaluate_replies(
        loaded.model,
        loaded.codec,
        examples,
        create(family.grader),
        samples=samples,
        max_new_tokens=family.new,
        temperature=1.0,
        seed=1,
    )
    right = np.array([r.graded.right for r in replies]).reshape(len(held), samples).sum(1)
    return {"right": right, "stop_rate": found["stop_rate"], "length": found["length"]}


def guessed(family: Family, held: Sequence[Task], seed: int) -> dict[str, Any]:
    """The figures of guesses."""
    from exnihilo.eval.graders import create, grade_many

    chance = random.Random(seed + 2)
    pairs = [(t, family.guess(t, chance)) for t in held for _ in range(SAMPLES)]
    graded = grade_many(create(family.grader), [t for t, _ in pairs], [text for _, text in pairs])
    right = np.array([g.right for g in graded]).reshape(len(held), SAMPLES).sum(1)
    length = float(np.mean([len(text) + 1 for _, text in pairs]))  # a token a character, and the end
    return {"right": right, "stop_rate": 1.0, "length": length}


def seeds_of(family: Family, seed: int, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(arm, what was measured) of one seed."""
    if family.grader == "last":
        (folder / "last.py").write_text(LAST, encoding="utf-8")
        family = replace(family, grader=f"{folder / 'last.py'}:grade")
    learn, reward, held = family.tasks(seed)
    chance = random.Random(seed + 1)
    shown = [dialogue(t, family.form(t, chance)) for t in (chance.choice(learn) for _ in range(family.shown))]
    tasks = write(folder / "tasks.jsonl", [{k: t[k] for k in ("prompt", "answer")} for t in reward])
    init = folder / "sft"

    def rl(name: str, **options: Any) -> Path:
        return rewarded(family, seed, folder / name, init, tasks, **options)

    makers: dict[str, Callable[[], Path]] = {
        "sft": lambda: tuned(family, seed, init, shown, reward),
        "rl": lambda: rl("rl"),
        "shuffled": lambda: rl("shuffled", shuffle=True),
        "rejection": lambda: rejection(family, seed, folder, init, reward),
        "plain": lambda: rl("plain", brevity=0.0),
    }
    for name in family.arms:
        kept = folder / f"{name}.json"
        if not kept.exists():
            began, used = time.perf_counter(), processor()
            made = makers[name]() if name in makers else None
            about = {"seconds": time.perf_counter() - began, "processor": processor() - used}
            found = guessed(family, held, seed) if made is None else measured(family, made, held)
            if name == "sft":
                on_training = measured(family, init, reward[:256])["right"]
                about["training_prompts"] = float(on_training.mean()) / SAMPLES
            kept.write_text(json.dumps({**found, **about, "right": found["right"].tolist()}))
        found = json.loads(kept.read_text())
        yield name, {**found, "right": np.array(found["right"])}


def processor() -> float:
    """Seconds of processor time so far, of this process and of its children that have ended."""
    return sum(os.times()[:4])


def rejection(family: Family, seed: int, folder: Path, init: Path, reward: Sequence[Task]) -> Path:
    rows = chosen(family, seed, init, reward, family.rl * 32 * 8)
    steps = max(1, positions(folder / "rl") // 2048)
    return supervised(
        family,
        seed,
        folder / "rejection",
        rows,
        steps=steps,
        lr=family.lr,
        init=str(init),
        schedule="constant",
    )


# figures ----------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("family", choices=sorted(FAMILIES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sft", type=int, help="steps of supervised tuning")
    parser.add_argument("--rl", type=int, help="steps of reinforcement learning")
    parser.add_argument("--arms", nargs="+", help="leave the others out")
    parser.add_argument("--folder", type=Path, help="keep the runs here")
    given = parser.parse_args()
    family = FAMILIES[given.family]
    changed = {"sft": given.sft, "rl": given.rl, "arms": tuple(given.arms) if given.arms else None}
    family = replace(family, **{k: v for k, v in changed.items() if v is not None})
    began = time.perf_counter()
    told: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as tmp:
        for seed in given.seeds:
            folder = (given.folder or Path(tmp)) / f"{given.family}-{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            for name, found in seeds_of(family, seed, folder):
                told.setdefault(name, []).append(found)
                share = found["right"].mean() / SAMPLES
                note(
                    f"seed {seed} {name}: pass@1 {share:.3f}, {found['length']:.1f} tokens, "
                    f"{found['seconds']:.0f} s, of a processor {found['processor']:.0f} s"
                )
    say(given.family, family, told, given.seeds, time.perf_counter() - began)


def say(
    name: str, family: Family, told: Mapping[str, list[dict[str, Any]]], seeds: Sequence[int], seconds: float
) -> None:
    from exnihilo.metrics.pass_at_k import interval, pass_at_k

    bounds = {}
    for arm, found in told.items():
        right = np.concatenate([f["right"] for f in found])
        bounds[arm] = one = interval(pass_at_k(right, SAMPLES, 1))
        row(
            "rlvr",
            family=name,
            arm=arm,
            seeds=list(seeds),
            prompts=len(right),
            **{"pass@1": [round(x, 4) for x in one]},
            **{"pass@4": [round(x, 4) for x in interval(pass_at_k(right, SAMPLES, SAMPLES))]},
            by_seed=[round(float(f["right"].mean()) / SAMPLES, 4) for f in found],
            stop_rate=round(float(np.mean([f["stop_rate"] for f in found])), 4),
            tokens=round(float(np.mean([f["length"] for f in found])), 2),
            seconds=round(float(np.mean([f["seconds"] for f in found])), 1),
            processor_s=round(float(np.mean([f["processor"] for f in found])), 1),
            **(
                {"on_training_prompts": [round(f["training_prompts"], 4) for f in found]}
                if arm == "sft"
                else {}
            ),
        )
    gaps = {}
    if "rl" in bounds and "sft" in bounds:
        gaps["gap"] = round(bounds["rl"][1] - bounds["sft"][2], 4)
    if "shuffled" in bounds and "sft" in bounds:
        gaps["shuffled_gain"] = round(bounds["shuffled"][0] - bounds["sft"][0], 4)
    row("rlvr", family=name, arm="all", chance=family.chance, **gaps, seconds=round(seconds, 1))


FAMILIES = {
    "sort": Family(sorting, any_order, any_order, "exact", 1 / 6, 32, 8, sft=250, rl=60, options={}),
    "add": Family(
        adding,
        lambda t, _: t["work"],
        any_sum,
        "last",
        None,
        64,
        32,
        sft=1000,
        rl=60,
        options={},
        lr=3e-4,
        band=(0.1, 0.4),
    ),
    "short": Family(
        sorting,
        talkative,
        any_order,
        "last",
        None,
        64,
        40,
        sft=600,
        rl=60,
        options={"brevity": 1.0},
        arms=("sft", "rl", "plain"),
    ),
}


if __name__ == "__main__":
    main()
