"""Last stage of the world's chain: one table of what each stage gained, the claim, and their picture.

The claim, tested on the run's own figures: a base model has knowledge and no values of its own; the final
model has both. Knowledge: right answers about people of whom no lesson was about, more than guessing gives.
Values: how often a reply is polite. The talk in the text of pretraining is polite in half of its answers and
rude in the other half, so a half is what it looks like to prefer nothing; a preference is a share whose
interval lies above it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exnihilo.quickstart import measures
from exnihilo.quickstart.chain import Chain
from exnihilo.quickstart.post import STAGES
from exnihilo.world.lessons import CHANCE, SHARE

WHAT = {
    "recall": "recalls facts: 1 right of 4",
    "knows": "knows facts about people",
    "answers": "answers about people",
    "polite": "replies politely",
    "sorts": "sorts three numbers",
}
COLOURS = {"knows": "#1d4ed8", "polite": "#15803d", "sorts": "#b45309"}
ORDER = ("random", "base", *(stage.name for stage in STAGES))


def chances() -> dict[str, float]:
    """What knowing nothing, preferring nothing and ordering nothing give."""
    guess = measures.school().guessing()
    return {"recall": 0.25, "knows": guess, "answers": guess, "polite": SHARE, "sorts": CHANCE}


def gains(chain: Chain) -> None:
    """The table and the claim."""
    from exnihilo.quickstart.closing import show

    chain.head("10  what each stage gained")
    rows = table(chain.figures.get("recall"), chain.found)
    chain.figures.update(gains=rows, measured=chain.found, claim=claim(chain.found))
    shown = {
        "title": "Each stage, on held-out prompts: per cent",
        "head": ["", "it should gain", "chance", "before", "after", "control", ""],
        "rows": [_row(row) for row in rows],
        "note": "95% intervals over prompts. Controls take as many steps: lessons from random weights, pairs "
        "whose sides are drawn at random, answers in random orders.",
    }
    values = {
        "title": "Knowledge and values: per cent of replies to questions about people in no lesson",
        "head": ["", "right", "polite", "rude", "right and polite"],
        "rows": [_values(name, chain.found[name]) for name in ORDER],
        "note": f"right: greedy replies, guessing gives {chances()['knows']:.1%}. polite, rude: drawn at "
        f"temperature 1; in the text of pretraining and in the lessons each is {SHARE:.1%}.",
    }
    for each in (shown, values):
        show(chain, each)
        chain.tables.append(each)
    chain.out.print()
    for line in told(chain.found, chain.figures["claim"]):
        chain.say(line)


def table(recall: Mapping[str, Any] | None, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a stage: its measure by chance, before it, after it, and of its control."""
    chance = chances()
    rows: list[dict[str, Any]] = []
    if recall is not None:
        rows.append(
            {"stage": "base", "gains": "recall", "chance": chance["recall"], "before": recall["random"],
             "after": recall["base"], "control": recall["random"], "against": "random weights"}
        )  # fmt: skip
    for stage in STAGES:
        name = stage.gains
        rows.append(
            {"stage": stage.name, "gains": name, "chance": chance[name], "before": found[stage.after][name],
             "after": found[stage.name][name], "control": found[f"{stage.name} control"][name],
             "against": stage.control}
        )  # fmt: skip
    return rows


def claim(found: Mapping[str, Any]) -> dict[str, bool]:
    """The claim's parts, each True or False by the figures' intervals, and whether all hold."""
    base, final, chance = found["base"], found[ORDER[-1]], chances()
    parts = {
        "base_knows": base["knows"]["low"] > chance["knows"],
        "base_prefers_nothing": base["polite"]["low"] <= chance["polite"] <= base["polite"]["high"],
        "final_knows": final["knows"]["low"] > chance["knows"],
        "final_prefers": final["polite"]["low"] > chance["polite"],
    }
    return {**parts, "holds": all(parts.values())}


def told(found: Mapping[str, Any], parts: Mapping[str, bool]) -> list[str]:
    """The claim in words."""
    base, final = found["base"], found[ORDER[-1]]

    def verdict(*names: str) -> str:
        return "yes" if all(parts[name] for name in names) else "not shown"

    return [
        "A base model has knowledge, and no values of its own: "
        f"{verdict('base_knows', 'base_prefers_nothing')} "
        f"({base['knows']['share']:.0%} right; {base['polite']['share']:.0%} polite, as its text is).",
        f"The final model has both: {verdict('final_knows', 'final_prefers')} "
        f"({final['knows']['share']:.0%} right, {final['polite']['share']:.0%} polite).",
    ]


def _row(row: Mapping[str, Any]) -> list[str]:
    return [
        row["stage"], WHAT[row["gains"]], f"{100 * row['chance']:.1f}", f"{100 * row['before']['share']:.1f}",
        cell(row["after"]), f"{100 * row['control']['share']:.1f}", row["against"],
    ]  # fmt: skip


def cell(value: Mapping[str, float]) -> str:
    """A share with its interval.

    >>> cell({"share": 0.5, "low": 0.4, "high": 0.605})
    '50.0 (40.0–60.5)'
    """
    return f"{100 * value['share']:.1f} ({100 * value['low']:.1f}–{100 * value['high']:.1f})"


def _values(name: str, found: Mapping[str, Any]) -> list[str]:
    return [name, cell(found["knows"]), cell(found["polite"]), f"{100 * found['rude']['share']:.1f}",
            f"{100 * found['both']['share']:.1f}"]  # fmt: skip


def stages(chain: Chain) -> list[dict[str, Any]]:
    """The stages as ``chain.json`` names them, for the page."""
    rows = {row["stage"]: row for row in chain.figures["gains"]}
    base = {"name": "base", "folder": "base", "objective": "causal_lm", "init": None,
            "title": "pretraining on stories and talk", "steps": chain.figures["steps"],
            "tokens": chain.figures["tokens"], "seconds": chain.figures["train_seconds"]}  # fmt: skip
    out = [base]
    for stage in STAGES:
        known = chain.figures["stages"][stage.name]
        out.append(
            {"name": stage.name, "folder": stage.name, "objective": stage.name, "init": stage.after,
             "title": stage.title.partition(": ")[2], "steps": known["steps"], "tokens": known["tokens"],
             "seconds": known["train_seconds"]}
        )  # fmt: skip
    for entry in out:
        row = rows.get(entry["name"])
        entry["replies"] = chain.found[entry["name"]]["replies"]
        entry["gains"] = []
        if row is not None:
            entry["gains"] = [
                {"what": f"{WHAT[row['gains']]}, per cent", "before": 100 * row["before"]["share"],
                 "after": 100 * row["after"]["share"]},
            ]  # fmt: skip
    return out


# picture -------------------------------------------------------------------------------------------


def picture(chain: Chain, path: Path) -> None:
    """Three panels: pretraining's loss, each measure after each stage, the reward as it rises."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from exnihilo.report import plot
    from exnihilo.report.folder import open_run

    figure = Figure(figsize=(14, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    loss, bars, reward = figure.subplots(1, 3, width_ratios=(1, 1.35, 1))
    base = open_run(chain.run / "base")
    _loss(loss, base, chain.figures)
    _measures(bars, chain.found)
    _rewards(reward, chain.run)
    for axes in (loss, bars, reward):
        axes.grid(True, axis="y", color=plot.GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130, facecolor="white")


def _loss(axes: Any, base: Any, figures: Mapping[str, Any]) -> None:
    from matplotlib.ticker import FuncFormatter

    from exnihilo.report import plot

    curves = plot.curves(base.train, base.val)
    axes.plot(curves.train_x, curves.train, color=plot.TRAIN, linewidth=0.8, label="training")
    axes.plot(curves.val_x, curves.val, color=plot.VAL, marker="o", markersize=4, label="held-out stories")
    axes.axhline(figures["chance_nats"], color=plot.CHANCE, linestyle=":", label="knows nothing: ln V")
    axes.axhline(figures["floor_nats"], color=plot.FLOOR, linestyle="--", label="entropy floor")
    axes.set_title("1  pretraining: loss, nats a token", loc="left")
    axes.set_xlabel("tokens seen", color=plot.SOFT)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plot.short(value)))
    axes.legend(frameon=False, fontsize=9)


def _measures(axes: Any, found: Mapping[str, Any]) -> None:
    chance = chances()
    for name, colour in COLOURS.items():
        points = [found[stage][name] for stage in ORDER]
        y = [100 * p["share"] for p in points]
        error = [
            [100 * (p["share"] - p["low"]) for p in points],
            [100 * (p["high"] - p["share"]) for p in points],
        ]
        axes.errorbar(range(len(ORDER)), y, yerr=error, color=colour, marker="o", markersize=5, capsize=3,
                      label=WHAT[name])  # fmt: skip
        axes.axhline(100 * chance[name], color=colour, linestyle=":", linewidth=0.9)
    for stage in STAGES:
        value = found[f"{stage.name} control"][stage.gains]["share"]
        axes.plot(ORDER.index(stage.name), 100 * value, marker="o", markersize=9, markerfacecolor="none",
                  color=COLOURS.get(stage.gains, "#6b7280"), linestyle="none",
                  label="its control (dotted: chance)" if stage is STAGES[0] else None)  # fmt: skip
    axes.set_xticks(range(len(ORDER)), ORDER)
    axes.set_ylim(-3, 128)
    axes.set_yticks(range(0, 101, 20))
    axes.set_title("2  held-out prompts, after each stage: per cent", loc="left")
    axes.legend(frameon=False, fontsize=9, ncols=2, loc="upper left")


def _rewards(axes: Any, run: Path) -> None:
    from exnihilo.report import plot
    from exnihilo.report.folder import open_run

    for folder, colour, label in (("rlvr", COLOURS["sorts"], "right answers"),
                                  ("control/rlvr", plot.TRAIN, "shuffled answers")):  # fmt: skip
        train = open_run(run / folder).train
        name = next((n for n in ("reward", "reward_mean") if n in train), None)
        if name is not None:
            y = plot.smooth([100 * value for value in train[name]], 5)
            axes.plot(train["step"], y, color=colour, label=label)
    axes.axhline(100 * CHANCE, color=plot.CHANCE, linestyle=":", label="chance")
    axes.set_ylim(-3, 103)
    axes.set_title("3  rewards: share of right replies while it tries", loc="left")
    axes.set_xlabel("step", color=plot.SOFT)
    axes.legend(frameon=False, fontsize=9)
