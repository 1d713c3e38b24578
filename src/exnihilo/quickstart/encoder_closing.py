"""Last stages of the encoder's quickstart: the comparison, its picture, an example of each, the report."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from exnihilo.quickstart.chain import Chain
from exnihilo.quickstart.encoder_tasks import SEEDS, TASKS, Task, held_out, scale_of

COLOURS = ("cyan", "magenta", "green", "yellow", "bright_blue", "bright_red")
ANSWER = "bold reverse"
SHORT = {
    "sentence_classification": "sentiment",
    "pair_classification": "entailment",
    "span_qa": "answers",
    "token_tagging": "entities",
}


def comparison(chain: Chain) -> None:
    """One table: majority, without and with pretraining; and the curves as a picture."""
    from exnihilo.quickstart.closing import show
    from exnihilo.report import plot, terminal
    from exnihilo.report.folder import open_run

    chain.head("5  what pretraining was worth")
    run = open_run(chain.run)
    drawable = terminal.can_draw(chain.out.file)
    chance = chain.figures["chance_nats"]
    curves = plot.curves(_as_loss(run.train, ""), _as_loss(run.val, "val_"))
    chain.out.print("MLM loss, nats a masked token")
    width = min(88, chain.out.width)
    chain.out.print(terminal.loss(curves, chance=chance, width=width, height=10, unicode=drawable))
    picture(run.train, run.val, chance, chain.figures["tasks"], chain.run / "loss.png")
    rows = []
    for task in TASKS:
        found = chain.figures["tasks"][task.name]
        base = found["majority"]
        rows.append(
            [
                task.name.replace("_", " "),  # folds where the terminal is narrow
                found["metric"],
                "" if base is None else f"{scale_of(task.name) * base:.1f}",
                _cell(found["without"], task),
                _cell(found["with"], task),
                {True: "yes", False: "not shown", None: ""}[found["helps"]],
            ]
        )
    table = {
        "title": "Four types, on held-out stories",
        "head": ["", "per cent", "majority", "without pretraining", "with pretraining", "helps"],
        "rows": rows,
        "note": f"mean and 95% interval (t) of {SEEDS} seeds; the same network, data, steps and learning "
        "rate with and without. yes: the interval with is above the one without.",
    }
    show(chain, table)
    chain.tables.append(table)


def _as_loss(table: Mapping[str, Sequence[float]], prefix: str) -> dict[str, Sequence[float]]:
    """A table of figures whose loss is that of masked tokens alone."""
    return {**table, f"{prefix}loss": table[f"{prefix}mlm"]}


def _cell(side: Mapping[str, Any], task: Task) -> str:
    scale = scale_of(task.name)
    mean = f"{scale * side['mean']:.1f}"
    if side["low"] is None:
        return mean
    return f"{mean} ({max(0.0, scale * side['low']):.1f}–{min(100.0, scale * side['high']):.1f})"


def examples(chain: Chain) -> None:
    """A held-out example of each type: what the model says of it, and what is true."""
    from exnihilo.predictions import load_run

    chain.head("6  an example of each, from held-out stories")
    chain.figures["examples"] = {}
    for task in TASKS:
        example = _telling(held_out(chain, task, 40))
        given = {k: v for k, v in example.items() if k not in ("label", "answers", "tags", "spans", "id")}
        said = load_run(chain.run / task.name).predict(given)
        chain.figures["examples"][task.name] = {"example": example, "prediction": said}
        chain.out.print(Text(task.name, style="bold"))
        for line in SHOW[task.name](example, said):
            chain.out.print(Text("  ").append_text(line), soft_wrap=False)
        chain.out.print()


def _telling(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first of middle length whose truth is not the dullest one."""
    for example in found:
        size = len(str(example.get("text") or example.get("context") or example.get("a")))
        kinds = {span["label"] for span in example.get("spans", ())}
        dull = example.get("label") == "neutral" or ("spans" in example and len(kinds) < 3)
        if not dull and size < 260:
            return example
    return found[0]


def classes(example: Mapping[str, Any], said: Mapping[str, Any]) -> list[Text]:
    """The text or the two texts, and the label with its probability."""
    texts = [Text(str(example[role])) for role in ("text", "a", "b") if role in example]
    right = said["label"] == example["label"]
    line = Text("-> ").append(said["label"], style="bold green" if right else "bold red")
    line.append(f" {said['probabilities'][said['label']]:.0%}")
    return [*texts, line.append(f"   (true: {example['label']})", style="dim")]


def answer(example: Mapping[str, Any], said: Mapping[str, Any]) -> list[Text]:
    """The question, and the context with the answer highlighted."""
    from exnihilo.log import safe

    context, start, end = str(example["context"]), said["start"], said["end"]
    shown = Text(safe(context))
    if start is not None and safe(context) == context:
        shown.stylize(ANSWER, start, end)
    line = Text("-> ").append(safe(said["answer"]) or "no answer", style="bold")
    line.append(f" {said['probability']:.0%}")
    gold = " or ".join(a["text"] for a in example["answers"]) or "no answer"
    question = Text(str(example["question"]), style="italic")
    return [question, shown, line.append(f"   (true: {gold})", style="dim")]


def tags(example: Mapping[str, Any], said: Mapping[str, Any]) -> list[Text]:
    """The text with its spans coloured by type, and named."""
    kinds = sorted({span["label"] for span in (*said["spans"], *example["spans"])})
    colour = dict(zip(kinds, COLOURS * (1 + len(kinds) // len(COLOURS)), strict=False))
    line, at, text = Text(), 0, said["text"]
    for span in said["spans"]:
        line.append(text[at : span["start"]])
        line.append(text[span["start"] : span["end"]], style=f"bold {colour[span['label']]}")
        line.append(f"[{span['label']}]", style=colour[span["label"]])
        at = span["end"]
    line.append(text[at:])
    own, gold = ({(s["start"], s["end"], s["label"]) for s in side["spans"]} for side in (said, example))
    return [line, Text(f"-> {len(own & gold)} of {len(gold)} right, {len(own - gold)} wrong", style="dim")]


SHOW = {
    "sentence_classification": classes,
    "pair_classification": classes,
    "span_qa": answer,
    "token_tagging": tags,
}


def picture(
    train: Mapping[str, Sequence[float]],
    val: Mapping[str, Sequence[float]],
    chance: float,
    tasks: Mapping[str, Mapping[str, Any]],
    path: Path,
) -> None:
    """Three panels: MLM loss and NSP accuracy over tokens, and the four types as bars with intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    from exnihilo.report import plot

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    loss, following, bars = figure.subplots(1, 3)
    window = max(1, len(train["mlm"]) // 40) | 1
    kept = [(x, y) for x, y in zip(train["tokens"], train["mlm"], strict=True) if math.isfinite(y)]
    x = [point[0] for point in kept]
    loss.plot(x, [point[1] for point in kept], color=plot.TRAIN, linewidth=0.6, alpha=0.5)
    loss.plot(x, plot.smooth([point[1] for point in kept], window), color="#1d4ed8", label="training")
    style: dict[str, Any] = {"color": plot.VAL, "marker": "o", "markersize": 4}
    loss.plot(val["tokens"], val["val_mlm"], label="held out", **style)
    loss.axhline(chance, color=plot.CHANCE, linestyle=":", label=f"ln V = {chance:.2f}")
    loss.set_title("masked tokens: loss, nats", loc="left")
    following.plot(val["tokens"], [100 * y for y in val["val_next_accuracy"]], label="held out", **style)
    following.axhline(50, color=plot.CHANCE, linestyle=":", label="chance 50%")
    following.set_ylim(40, 100)
    following.set_title("next sentence: right, per cent", loc="left")
    for axes in (loss, following):
        axes.set_xlabel("tokens seen", color=plot.SOFT)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plot.short(value)))
        axes.legend(frameon=False, fontsize=9)
    _bars(bars, tasks)
    for axes in (loss, following, bars):
        axes.grid(True, axis="y", color=plot.GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130, facecolor="white")


def _bars(axes: Any, tasks: Mapping[str, Mapping[str, Any]]) -> None:
    from exnihilo.report import plot

    sides = (("majority", "#d1d5db"), ("without", plot.TRAIN), ("with", "#1d4ed8"))
    for number, (side, colour) in enumerate(sides):
        for place, (name, found) in enumerate(tasks.items()):
            scale, value = scale_of(name), found[side]
            mean = value["mean"] if isinstance(value, Mapping) else value or 0.0
            half = [0.0, 0.0]
            if isinstance(value, Mapping) and value["low"] is not None:
                half = [scale * min(mean, mean - value["low"]), scale * (value["high"] - mean)]
            label = {"majority": side}.get(side, f"{side} pretraining") if place == 0 else None
            axes.bar(place + 0.27 * (number - 1), scale * mean, 0.25, color=colour, label=label,
                     yerr=[[half[0]], [half[1]]], error_kw={"elinewidth": 1, "ecolor": plot.INK})  # fmt: skip
    axes.set_xticks(range(len(tasks)), [SHORT.get(name, name) for name in tasks])
    axes.set_ylim(0, 118)
    axes.set_title("four types, per cent", loc="left")
    axes.legend(frameon=False, fontsize=9, ncols=3, loc="upper left", columnspacing=0.8, handlelength=1.2)


def report(chain: Chain) -> None:
    """Figures as JSON, the page, and what to do next."""
    from exnihilo.report.page import write

    chain.figures["tables"] = chain.tables
    chain.figures["seconds"] = round(chain.seconds, 1)
    path = chain.run / "quickstart.json"
    path.write_text(json.dumps(chain.figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page = write(chain.run)
    chain.head(f"done in {int(chain.seconds) // 60} min {int(chain.seconds) % 60:02d} s")
    chain.say(f"encoder {chain.run}  (also a Hugging Face folder)")
    for task in TASKS:
        chain.say(f"        {chain.run / task.name}")
    chain.say(f"report  {page}")
    chain.say(f"plot    {chain.run / 'loss.png'}")
    chain.say("next    ask them, and train on files of your own:")
    for line in _next(chain):
        chain.say(f"  {line}")


def _next(chain: Chain) -> list[str]:
    told = chain.figures["examples"]
    lines = [f"exnihilo predict {chain.run} {shlex.quote('One rainy [MASK], Clara was at the market.')}"]
    roles = {"sentence_classification": ("text",), "pair_classification": ("a", "b"),
             "span_qa": ("question", "context"), "token_tagging": ("text",)}  # fmt: skip
    for name, wanted in roles.items():
        texts = [str(told[name]["example"][role]) for role in wanted]
        lines.append(f"exnihilo predict {chain.run / name} " + " ".join(shlex.quote(t) for t in texts))
    lines.append("exnihilo train bert data=PATH minutes=15 run=runs/bert")
    lines.append("exnihilo train token_tagging init=runs/bert data=train.conll val=dev.conll")
    return lines
