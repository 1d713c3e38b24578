"""Stage of the encoder's quickstart: four types of fine-tuning, each with its control runs.

Each type is one run of its recipe from the pretrained encoder, and `SEEDS` - 1 more with other seeds, and
as many from random weights: the same network, tokenizer, data, steps and learning rate. One rate for both
keeps it short; it is the default for random weights, so the comparison does not lean towards pretraining.
Few labels, as is usual: what little text with labels cannot teach must come from pretraining.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exnihilo import config_layers
from exnihilo.interop.files import read_json
from exnihilo.quickstart import encoder
from exnihilo.quickstart.chain import Chain

SEEDS = 3  # of each side: the fewest whose interval says something
FOLDER = "examples"  # in the run folder: the labelled examples as files
TOKENS = 1024  # of a step
OVERHEAD = 1.5  # seconds of a run beside its steps: reading, building, validating, saving
LEAST_STEPS = 10


@dataclass(frozen=True)
class Task:
    """One type: which view of the world, how many examples, and how long it trains."""

    name: str  # of the recipe
    view: str  # of the world
    what: str  # it finds out, for people
    train: int  # examples
    val: int
    steps: int  # of each run, on a machine that is fast enough
    options: dict[str, Any] = field(default_factory=dict)


TASKS = (
    Task("sentence_classification", "sentiment", "the mood a paragraph ends in, of 3", 600, 500, 100),
    Task("pair_classification", "entailment", "does B follow from A, of 3", 4000, 900, 100),
    Task("span_qa", "qa", "the answer to a question, in a paragraph", 6000, 500, 150),
    Task("token_tagging", "entities", "people, places, things, animals, food", 300, 300, 150),
)


def tune(chain: Chain) -> None:
    """Fine-tune each type with and without pretraining."""
    chain.head("4  fine-tuning: four types, each with and without pretraining")
    write_examples(chain)
    chain.figures["tasks"] = {}
    expected = {task.name: estimate(chain, task) for task in TASKS}
    chain.figures["steps_planned"] = {task.name: task.steps for task in TASKS}
    slow = 1.0  # seconds a second that was expected
    spent = planned = 0.0
    for number, task in enumerate(TASKS):
        left = encoder.TOTAL - encoder.CLOSING - chain.seconds
        ahead = slow * sum(expected[other.name] for other in TASKS[number:])
        share = 1.0 if chain.minutes is not None else min(1.0, left / ahead)
        began = time.perf_counter()
        if not fine_tune(chain, task, max(LEAST_STEPS, round(share * task.steps))):
            return
        spent += time.perf_counter() - began
        planned += share * expected[task.name]
        slow = spent / planned


def estimate(chain: Chain, task: Task) -> float:
    """Seconds of a type's runs, by the pace of pretraining."""
    pace = chain.figures["tokens"] / max(1e-3, chain.figures["train_seconds"])
    return 2 * SEEDS * (OVERHEAD + task.steps * TOKENS / pace)


def fine_tune(chain: Chain, task: Task, steps: int) -> bool:
    """A type's run and its control runs; False where it was told to stop."""
    from exnihilo.optim.create import optim_default
    from exnihilo.train import run
    from exnihilo.train.progress import shown

    assert chain.base is not None
    folder = chain.run / task.name
    chosen = {
        "run": folder,
        "init": chain.run,
        "seed": chain.seed,
        "device": chain.device,
        "data": chain.run / FOLDER / f"{task.view}.train.jsonl",
        "val": chain.run / FOLDER / f"{task.view}.val.jsonl",
        "options": task.options,
        "steps": steps,
        "batch.tokens": TOKENS,
        "batch.micro_tokens": TOKENS,
        "optim.lr": optim_default("adamw", chain.base.config.width or 128, "learn"),
        "compile": "off",
        "control.seeds": SEEDS,
        "eval.every": steps,
        "eval.tokens": 1024,  # on the way; the last one reads all
        "checkpoint.best": False,
        "threads": chain.config.threads,
    }
    config, origins = config_layers.load(task.name, settings=chosen)
    origins = {key: "quickstart" if value == "python" else value for key, value in origins.items()}
    began = time.perf_counter()
    with shown(True) as display:
        display.start(f"{task.name}: {2 * SEEDS} runs of {steps} steps")
        result = run(config, origins=origins, progress=False)
    if result.interrupted:
        chain.result = result
        return False
    seconds = time.perf_counter() - began
    found = read_json(folder / "control.json")
    chain.figures["tasks"][task.name] = {**found, "metrics": result.metrics, "seconds": round(seconds, 1)}
    scale = scale_of(task.name)
    sides = [f"{scale * found[side]['mean']:.1f}" for side in ("without", "with")]
    base = "" if found["majority"] is None else f"majority {scale * found['majority']:.1f}, "
    chain.say(
        f"{task.name}: {found['metric']} {base}without pretraining {sides[0]}, with {sides[1]}; "
        f"{2 * SEEDS} runs of {steps} steps in {seconds:.0f} s"
    )
    return True


def scale_of(name: str) -> float:
    """What makes the metric of a type per cent: those of span_qa are, as its official scorer has them."""
    return 1.0 if name == "span_qa" else 100.0


def write_examples(chain: Chain) -> None:
    """The labelled examples as files, as a user would have them; for validation, from held-out stories."""
    from exnihilo.world import HELD_OUT, World

    folder = chain.run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    world = World(0)
    for task in TASKS:
        for side, count, first in (("train", task.train, 0), ("val", task.val, HELD_OUT)):
            lines = []
            for values in made(world, task.view, first):
                lines.append(json.dumps(values, ensure_ascii=False) + "\n")
                if len(lines) == count:
                    break
            (folder / f"{task.view}.{side}.jsonl").write_text("".join(lines), encoding="utf-8")
    chain.say(
        "labelled examples: "
        + "; ".join(f"{task.view} {task.train:,}, {task.val:,} held out" for task in TASKS)
    )


def made(world: Any, view: str, first: int) -> Iterator[dict[str, Any]]:
    """Examples of a view, story by story; at most four of a story, so that there are many stories."""
    from exnihilo.world.views import VIEWS

    index = first
    while True:
        found = [short(v) if view == "qa" else v for v in VIEWS[view].make(world.document(index))]
        whole = [values for values in found if values is not None]
        step = max(1, len(whole) // 4)
        yield from whole[index % step :: step]
        index += 1


def short(values: dict[str, Any]) -> dict[str, Any] | None:
    """A question with the one paragraph that answers it; None for one without an answer."""
    if not values["answers"]:
        return None
    context, [answer] = values["context"], values["answers"]
    begin = context.rfind("\n\n", 0, answer["start"])
    begin = 0 if begin < 0 else begin + 2
    end = context.find("\n\n", answer["start"])
    part = context[begin : end if end >= 0 else len(context)]
    return {**values, "context": part, "answers": [{**answer, "start": answer["start"] - begin}]}


def held_out(chain: Chain, task: Task, count: int) -> list[dict[str, Any]]:
    """The first validation examples of a type."""
    path = Path(chain.run) / FOLDER / f"{task.view}.val.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()[:count]
    return [json.loads(line) for line in lines]
