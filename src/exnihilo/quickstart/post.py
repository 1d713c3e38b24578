"""Stages after pretraining, on the embedded world: instructions, preferences, and rewards, each with its
control.

Each is one run of its recipe from the stage before, in ``RUN/NAME``, on files in ``RUN/examples`` as a user
would have them, and one control run of as many steps, in ``RUN/control/NAME``:

- sft: the same lessons from random weights: what was learnt in them alone;
- preference: the same pairs with half of them, drawn at random, the other way round;
- rlvr: the same puzzles with answers in random orders: rewards as frequent, of which nothing can be learnt.

Every model answers the same held-out prompts (`measures`). On a slower machine the runs are shorter.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from exnihilo import config_layers
from exnihilo.quickstart import measures
from exnihilo.quickstart.chain import CLOSING, TOTAL, Chain
from exnihilo.quickstart.tokens import EXAMPLES
from exnihilo.world.lessons import drawn
from exnihilo.world.rng import Draws

T = TypeVar("T")
CONTROL = "control"
OVERHEAD = 4.0  # seconds of a run beside its steps, and of the measuring after it
LEAST = 2.0  # seconds of training, on however slow a machine


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: of its recipe and of its folder. after: the stage whose model it starts from.
        title, control: what it does and what its control is, for people.
        gains: the measure it should raise.
        data, val, shuffled: files of `EXAMPLES`; shuffled is its control's data, "" where that has none.
        settings: what it changes in its recipe.
    """

    name: str
    after: str
    title: str
    control: str
    gains: str
    data: str
    val: str
    shuffled: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


STAGES = (
    Stage(
        "sft",
        "base",
        "instructions: supervised fine-tuning on dialogues",
        "from random weights",
        "answers",
        "lessons",
        "lessons.val",
        settings={"optim.lr": 2e-3, "batch.tokens": 2048},
    ),
    Stage(
        "preference",
        "sft",
        "preferences: polite replies rather than rude ones",
        "shuffled pairs",
        "polite",
        "pairs",
        "pairs.val",
        "pairs.shuffled",
        settings={"optim.lr": 2e-4, "batch.tokens": 2048},
    ),
    Stage(
        "rlvr",
        "preference",
        "rewards: sorting three numbers, right or wrong",
        "shuffled answers",
        "sorts",
        "puzzles",
        "puzzles.val",
        "puzzles.shuffled",
        settings={
            "optim.lr": 1e-3,
            "grader": "exact",
            "rollout.prompts": 32,
            "rollout.group": 8,
            "rollout.max_new_tokens": 12,
            "eval.replies": 64,
            "alarms.entropy": 0.0,  # one reply is right: where it is found, nothing is left to explore
        },
    ),
)
BY_NAME = {stage.name: stage for stage in STAGES}
# of training, on a machine that is fast enough; the control takes as long
SECONDS = {"sft": 34.0, "preference": 7.0, "rlvr": 65.0}
COUNTS = {"lessons": 6000, "pairs": 3000}
HELD_OUT = {"lessons": 120, "pairs": 120}


def cost(stage: Stage) -> float:
    """Seconds of a stage and its control, on a machine that is fast enough."""
    return 2 * (SECONDS[stage.name] + OVERHEAD)


def planned() -> float:
    """Seconds of all stages."""
    return sum(map(cost, STAGES))


# examples ------------------------------------------------------------------------------------------


def write_examples(folder: Path, seed: int) -> None:
    """Lessons, pairs and puzzles as files, and the shuffled ones of the controls."""
    school = measures.school()
    d = Draws(seed, 0x5F)
    pairs = different(drawn(school.pair, COUNTS["pairs"], seed, 0xBA1))
    puzzles = d.shuffled(school.puzzles(held_out=False))
    files: dict[str, Iterable[Mapping[str, Any]]] = {
        "lessons": different(drawn(school.lesson, COUNTS["lessons"], seed, 0x1E5)),
        "lessons.val": different(drawn(_held_out(school.lesson), HELD_OUT["lessons"], seed, 0x1E6)),
        "pairs": pairs,
        "pairs.val": different(drawn(_held_out(school.pair), HELD_OUT["pairs"], seed, 0xBA2)),
        "pairs.shuffled": [_turned(pair) if d.below(2) else pair for pair in pairs],
        "puzzles": puzzles,
        "puzzles.val": school.puzzles(),
        "puzzles.shuffled": [{**p, "answer": " ".join(d.shuffled(p["numbers"]))} for p in puzzles],
    }
    for name, rows in files.items():
        write_rows(folder / f"{name}.jsonl", rows)


def different(rows: Iterable[T]) -> list[T]:
    """Each row once: readers leave repeated ones out, and say so."""
    return list({json.dumps(row): row for row in rows}.values())


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _held_out(make: Callable[..., Any]) -> Callable[[Draws], Any]:
    return lambda d: make(d, held_out=True)


def _turned(pair: Mapping[str, str]) -> dict[str, str]:
    return {**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]}


# stages --------------------------------------------------------------------------------------------


def untaught(chain: Chain) -> None:
    """What random weights and the base model answer to the prompts of all later stages."""
    assert chain.random is not None and chain.base is not None and chain.codec is not None
    write_examples(chain.run / EXAMPLES, chain.seed)
    for name, model in (("random", chain.random), ("base", chain.base)):
        chain.found[name] = measures.measure(model, chain.codec, chat=False, seed=chain.seed)


def sft(chain: Chain) -> None:
    """Supervised fine-tuning."""
    go(chain, BY_NAME["sft"])


def preference(chain: Chain) -> None:
    """Preference tuning."""
    go(chain, BY_NAME["preference"])


def rlvr(chain: Chain) -> None:
    """Reinforcement learning with verifiable rewards."""
    go(chain, BY_NAME["rlvr"])


def go(chain: Chain, stage: Stage) -> None:
    """A stage's run, its control, and what both answer."""
    number = 7 + STAGES.index(stage)
    chain.head(f"{number}  {stage.title}")
    minutes = seconds_of(chain, stage) / 60
    began = time.perf_counter()
    result = train(chain, stage, {"minutes": round(minutes, 4)})
    if result.interrupted:
        chain.result = result
        return
    answer(chain, stage.name, chain.run / stage.name)
    told = chain.found[stage.name][stage.gains]
    before = chain.found[stage.after][stage.gains]
    chain.say(f"{SAID[stage.gains]}: {before['share']:.1%} before, {told['share']:.1%} now")
    for question, reply in list(chain.found[stage.name]["replies"].items())[
        -2 if stage.name != "rlvr" else -1 :
    ]:
        chain.say(f"  {question}\n  > {reply}")
    from exnihilo.train.progress import shown

    with shown(True) as display:
        display.start(f"control: {stage.control}, {result.step} steps")
        control = train(chain, stage, {"steps": result.step}, control=True)
    if control.interrupted:
        chain.result = control
        return
    answer(chain, f"{stage.name} control", chain.run / CONTROL / stage.name)
    other = chain.found[f"{stage.name} control"][stage.gains]
    chain.say(f"control ({stage.control}, as many steps): {other['share']:.1%}")
    chain.figures.setdefault("stages", {})[stage.name] = {
        "steps": result.step,
        "tokens": result.tokens,
        "train_seconds": round(result.seconds, 1),
        "seconds": round(time.perf_counter() - began, 1),
        "metrics": result.metrics,
    }


SAID = {
    "answers": "right answers about people of whom no lesson was",
    "polite": "polite replies",
    "sorts": "rows of numbers in order",
}


def seconds_of(chain: Chain, stage: Stage) -> float:
    """Of a stage's training: as planned, or its share of what is left."""
    if chain.minutes is not None:
        return SECONDS[stage.name]
    ahead = sum(map(cost, STAGES[STAGES.index(stage) :]))
    left = TOTAL - CLOSING - chain.seconds
    return max(LEAST, SECONDS[stage.name] * min(1.0, left / ahead))


def train(chain: Chain, stage: Stage, budget: Mapping[str, Any], control: bool = False) -> Any:
    """Run a stage's recipe, or its control."""
    from exnihilo.train import run

    folder = chain.run / EXAMPLES
    chosen: dict[str, Any] = {
        "run": chain.run / (f"{CONTROL}/{stage.name}" if control else stage.name),
        "init": chain.run / stage.after,
        "seed": chain.seed,
        "device": chain.device,
        "data": folder / f"{stage.shuffled if control and stage.shuffled else stage.data}.jsonl",
        "val": folder / f"{stage.val}.jsonl",
        "threads": chain.config.threads,
        "compile": "off",
        "checkpoint.best": False,
        "eval.replies": 0,  # `measures` asks all stages the same
        **stage.settings,
        **budget,
    }
    if control:
        chosen |= {"eval.every": budget["steps"], "eval.replies": 0}
        if stage.name == "rlvr":
            chosen["alarms.enabled"] = False
        if not stage.shuffled:
            del chosen["init"]
            chosen |= {"codec.path": chain.run / stage.after, **shape(chain)}
    config, origins = config_layers.load(stage.name, settings=chosen)
    origins = {key: "quickstart" if value == "python" else value for key, value in origins.items()}
    return run(config, origins=origins, progress=not control)


def shape(chain: Chain) -> dict[str, Any]:
    """Settings of the base model's shape, for a model without its weights."""
    assert chain.base is not None
    config = chain.base.config
    names = ("family", "depth", "width", "heads", "kv_heads", "head_dim", "mlp_width", "context", "tied")
    return {f"model.{name}": getattr(config, name) for name in names}


def answer(chain: Chain, name: str, folder: Path) -> None:
    """Ask a stage's model."""
    from exnihilo.interop.load import load

    loaded = load(folder)
    chain.found[name] = measures.measure(loaded.model, loaded.codec, chat=True, seed=chain.seed)
