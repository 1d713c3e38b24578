"""Stages after training: what it wrote as it learned, what it scores, and the report."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from rich.table import Table

from exnihilo.quickstart.chain import Chain

SHOWN = 4  # texts shown, from the first to the last
LENGTH = 420  # characters of each
T = TypeVar("T")


def texts(chain: Chain) -> None:
    """What the model wrote at intervals, from babble on."""
    chain.head("4  what it wrote, as it learned")
    files = sorted((chain.base_run / "samples").glob("step-*.txt"))
    for file in spread(files, SHOWN):
        step = int(file.stem.removeprefix("step-"))
        text = file.read_text(encoding="utf-8").strip()
        what = "random weights" if step == 0 else f"after {step:,} steps"
        chain.out.print(f"[bold]{what}[/bold]")
        cut = text[:LENGTH] + (" ..." if len(text) > LENGTH else "")
        chain.say("\n".join("  " + line for line in cut.splitlines()))


def spread(items: list[T], count: int) -> list[T]:
    """`count` of the items: the first, the last, and between them more of the early ones, where most changes.

    >>> spread(list(range(11)), 4)
    [0, 1, 4, 10]
    """
    if len(items) <= count:
        return items
    last = len(items) - 1
    places = [round(last * (i / (count - 1)) ** 2) for i in range(count)]
    return [items[i] for i in dict.fromkeys(places)]


def scores(chain: Chain) -> None:
    """The curve, and random weights against the base model, each with its interval and its chance level."""
    from exnihilo.report import plot, terminal
    from exnihilo.report.folder import open_run

    chain.head("5  what it has learned")
    run = open_run(chain.base_run)
    curves = plot.curves(run.train, run.val)
    floor, chance = chain.figures.get("floor_nats"), chain.figures.get("chance_nats")
    where = "the embedded world" if chain.world else str(chain.data)
    plot.png(curves, chain.run / "loss.png", floor=floor, chance=chance, title=f"Loss on {where}")
    width = min(88, chain.out.width)
    drawable = terminal.can_draw(chain.out.file)
    chain.out.print(terminal.loss(curves, floor=floor, chance=chance, width=width, unicode=drawable))
    if chain.world:
        from exnihilo.quickstart.world_scores import score
    else:
        from exnihilo.quickstart.own_scores import score
    chain.tables = score(chain)
    for table in chain.tables:
        show(chain, table)


def show(chain: Chain, table: dict[str, Any]) -> None:
    """One table of figures."""
    shown = Table(title=table["title"], title_justify="left", title_style="bold", caption=table.get("note"),
                  caption_justify="left", box=None, pad_edge=False, padding=(0, 3, 0, 0))  # fmt: skip
    for index, name in enumerate(table["head"]):
        shown.add_column(name, justify="left" if index == 0 else "right")
    for row in table["rows"]:
        shown.add_row(*row)
    chain.out.print()
    chain.out.print(shown)


def report(chain: Chain) -> None:
    """The final model at the run's root, figures as JSON, the page, and what to do next."""
    from exnihilo.report.page import write

    if chain.world:
        finish(chain)
    chain.figures["tables"] = chain.tables
    chain.figures["seconds"] = round(chain.seconds, 1)
    path = chain.run / "quickstart.json"
    path.write_text(json.dumps(chain.figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page = write(chain.run)
    chain.head(f"done in {int(chain.seconds) // 60} min {int(chain.seconds) % 60:02d} s")
    chain.say(f"run     {chain.run}  (also a Hugging Face folder)")
    chain.say(f"report  {page}")
    chain.say(f"plot    {chain.run / ('chain.png' if chain.world else 'loss.png')}")
    if chain.world:
        chain.say("next    talk to it, let the base model write, and train on files of your own:")
        chain.say(f'  exnihilo chat {chain.run} "{_question()}"')
        chain.say(f'  exnihilo sample {chain.base_run} "One rainy morning, Clara" temperature=0.8')
        chain.say("  exnihilo train chat data=PATH sft=PATH preference=PATH prompts=PATH grader=number")
    else:
        chain.say("next    let it write, and train on files of your own:")
        chain.say(f'  exnihilo sample {chain.run} "{_beginning(chain)}" temperature=0.8')
        chain.say(f"  exnihilo train gpt data={chain.data} minutes=15 run=runs/mine")


def _question() -> str:
    """About somebody of whom no lesson was."""
    from exnihilo.quickstart.measures import school

    return school().questions()[0].question


def finish(chain: Chain) -> None:
    """Put the last stage's model at the run's root; say which stages there were (``chain.json``); draw
    them."""
    from exnihilo.quickstart import gains, post
    from exnihilo.stages.walk import publish, write

    publish(chain.run / post.STAGES[-1].name, chain.run)
    write(chain.run, {"stages": gains.stages(chain)})
    gains.picture(chain, chain.run / "chain.png")


def _beginning(chain: Chain) -> str:
    """First words of a held-out text, as a prompt that a shell takes as it is."""
    from exnihilo.quickstart.own_scores import held_out_text

    for line in held_out_text(chain, 4000).splitlines()[1:]:  # the first may begin inside a word
        words = line.split()[:3]
        if len(words) == 3 and all(word.isalpha() for word in words):
            return " ".join(words)
    return "The"
