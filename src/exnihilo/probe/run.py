"""`exnihilo probe`: how the first input bears on the last output, measured on a run, with pictures.

::

    figures = probe("runs/books", data="books/", texts=8, length=128)
    figures["first_to_last"]             # [mean, low, high] nats, a bootstrap interval over the texts

Texts are cut from documents, all equally long; sounds, pictures and series are those of the run's validation
split, as its objective encodes them. Three lines are measured: the trained model, the same network with
random weights, and the trained model on the same content in random order (what remains then is not order). A
run that was trained on a task whose truth is known is judged by it. All is in ``RUN/probe/``: influence.json,
distance.png, map.png, and the example itself, coloured (text.html, spectrogram.png, patches.png, series.png).

Key: N texts, T positions
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exnihilo import log
from exnihilo.errors import UsageError
from exnihilo.interop.load import Loaded, load
from exnihilo.model import build
from exnihilo.objective import registry
from exnihilo.objective.base import Objective
from exnihilo.probe import examples, faith, influence, picture, surfaces
from exnihilo.probe.examples import texts as rows
from exnihilo.probe.rows import Rows
from exnihilo.probe.subject import Subject
from exnihilo.probe.tasks import Task
from exnihilo.probe.trust import doubts, future, summary

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec

__all__ = ["LONG", "Vocabulary", "future", "probe", "rows", "summary"]

LONG = 512  # positions from which the map of all pairs would take too long: the last site is screened
SCREEN = {"candidates": 32, "rest": 32}  # positions of a long text that are swapped
CONTROL = {"candidates": 8, "rest": 16}  # of the lines beside it
LENGTH = 64  # tokens of a text where none is given
_SOON = 2.0  # seconds without a word


@dataclass
class Probed:
    """What is measured: a subject, its examples, and what is known of them."""

    subject: Subject
    codec: Codec
    rows: Rows
    swap: influence.Swap | None
    draws: int
    block: int
    seed: int
    told: faith.Known | None = None
    task: Task | None = None
    ask: list[int] = field(default_factory=list)

    @property
    def long(self) -> bool:
        """Whether all pairs would take too long."""
        return max(self.rows.lengths) >= LONG

    @property
    def first(self) -> int:
        """The first position that says anything: no mark."""
        return self.rows.first(0, set(self.codec.special_ids))

    def measure(self, subject: Subject, what: Rows, name: str) -> influence.Influence:
        """Influence of all positions on all sites, or of a long text on its last."""
        ways: dict[str, Any] = {"swap": self.swap, "seed": self.seed, "progress": _progress(name)}
        if not self.long:
            return influence.resampling(subject, what, draws=self.draws, block=self.block, **ways)
        some = SCREEN if name == "trained" else CONTROL
        return influence.screened(subject, what, draws=self.draws, also=self.ask, **some, **ways)


def probe(
    run: str | Path,
    *,
    data: Any = None,
    text: str | None = None,
    texts: int = 8,
    length: int | None = None,
    draws: int = 2,
    block: int = 1,
    seed: int = 0,
    device: str = "cpu",
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Measure influence on a run and draw it.

    Args:
        run: a run folder, a checkpoint or a Hugging Face folder.
        data: where examples come from, as ``data=`` of `train`; default: the run's own validation split.
        text: one text of your own instead; of a run that hears or sees the path of a file.
        texts: how many. length: positions of each, at most the model's context; default: 64 tokens of a text,
            all of anything else.
        draws: swaps of each position. block: neighbours that are swapped together.
        out: the folder; default RUN/probe.

    Returns:
        Figures: ``first_to_last`` (mean, low, high; nats), ``reach`` (positions before the last output that
        hold 90% of its influence), ``future`` (the largest influence from a position that must have none),
        ``untrained`` and ``shuffled`` first_to_last, ``truth`` (of a run whose truth is known, how the map
        fares), ``doubts``, ``seconds_per_text``, ``forwards``, and the files.

    Raises:
        UsageError: fewer than two tokens, or a length beyond the context.
        DataError: no text is that long, or no example can be read.
    """
    if (length is not None and length < 2) or texts < 1 or draws < 1 or block < 1:
        raise UsageError(
            f"length={length}, texts={texts}, draws={draws}, block={block}",
            expected="length 2, others 1 or above",
        )
    loaded = load(run, device=device)
    this = _choose(loaded, Path(run), data, text, texts, length)
    this.draws, this.block, this.seed = draws, block, seed
    subject, held = this.subject, this.rows
    this.ask = [this.first, this.first + 1] if max(held.lengths) > this.first + 1 else [this.first]
    size = f"{min(held.lengths)} to {max(held.lengths)}"
    size = str(max(held.lengths)) if min(held.lengths) == max(held.lengths) else size
    log.say(f"probe: {len(held)} examples of {size} positions, head {subject.head}")
    folder = Path(out) if out is not None else Path(run) / "probe"
    folder.mkdir(parents=True, exist_ok=True)
    blank = subject.like(build(loaded.model.config, seed=seed, device=device))
    found = this.measure(subject, held, "trained")
    lines = {
        "trained": found,
        "untrained": this.measure(blank, held, "untrained"),
        "trained, in random order": this.measure(subject, held.shuffled(seed), "in random order"),
    }
    title = f"{Path(run).name}: {subject.head}, {len(held)} examples of {size} positions"
    _draw(this, loaded, lines, folder, title)
    figures: dict[str, Any] = {
        "run": str(run),
        "head": subject.head,
        "whole": subject.single,
        "method": "screened" if this.long else "resampling",
        "texts": len(held),
        "length": max(held.lengths),
        "first": this.first,
        "first_to_last": list(found.at(-1, this.first)),
        "total": list(found.total()),
        "untrained_total": list(lines["untrained"].total()),
        "reach": found.reach(),
        "future": future(found, held) if subject.causal else None,
        "beyond": _beyond(found, subject.window),
        "untrained": list(lines["untrained"].at(-1, this.first)),
        "shuffled": list(lines["trained, in random order"].at(-1, this.first)),
        "seconds_per_text": round(found.seconds / len(held), 4),
        "forwards": found.forwards,
        "truth": _judged(this, found),
    }
    figures["doubts"] = doubts(figures)
    figures["files"] = [str(p) for p in sorted(folder.iterdir()) if p.suffix in (".png", ".html")]
    (folder / "influence.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return figures


def _choose(loaded: Loaded, run: Path, data: Any, text: str | None, count: int, length: int | None) -> Probed:
    """The subject, and the examples that it is probed with."""
    codec, model = loaded.codec, loaded.model
    context = model.config.context
    if length is not None and length > context:
        raise UsageError(
            f"length={length}, the model's context is {context}",
            expected=f"at most {context}",
            next=f"length={context}",
        )
    objective = _speaks(loaded)
    if objective is not None:
        subject = Subject.of(model, objective)
        source = examples.examples(run, data, objective)
        if text is not None:
            source = _with(examples.one(objective, text), run, data, objective)
        held = examples.encoded(objective, codec, model, source, count)
        return Probed(subject, codec, held if length is None else held.cut(length), None, 2, 1, 0)
    subject = Subject.of(model)
    task = examples.task_of(run, data, length or context) if text is None else None
    if task is not None:
        told = faith.known(task, count, codec=codec)
        swap = influence.Others(told.rows_NT, told.classes_V)
        return Probed(subject, codec, Rows.of(told.rows_NT), swap, 2, 1, 0, told, task)
    found = [text] if text is not None else (str(e["text"]) for e in examples.examples(run, data, None))
    rows_NT = rows(codec, found, count, length or min(LENGTH, context), encoder=not subject.causal)
    swap = None if len(rows_NT) > 1 else Vocabulary(codec)
    return Probed(subject, codec, Rows.of(rows_NT), swap, 2, 1, 0)


def _with(mine: Mapping[str, Any], run: Path, data: Any, objective: Objective) -> Iterable[Mapping[str, Any]]:
    """The example that is asked about, and others, whose positions its own are swapped for."""
    yield mine
    if data is not None or (run / "config.toml").exists():
        yield from examples.examples(run, data, objective)


def _speaks(loaded: Loaded) -> Objective | None:
    """The objective of a run, where it says how inputs are read or outputs are meant; None: texts in, and a
    distribution over the vocabulary out."""
    saved = loaded.objective
    if saved is None:
        return None
    heads = set(loaded.model.config.outputs)
    if not loaded.model.config.inputs and heads & {"tokens", "mlm"}:
        return None
    return registry.create(
        saved["objective"],
        saved.get("options") or {},
        length=saved.get("length") or loaded.model.config.context,
        facts=saved.get("facts") or {},
    )


def _draw(
    this: Probed, loaded: Loaded, lines: Mapping[str, influence.Influence], folder: Path, title: str
) -> None:
    """All pictures."""
    for old in (*picture.FILES, *surfaces.FILES):
        (folder / old).unlink(missing_ok=True)
    found = lines["trained"]
    picture.over_distance(lines, folder / "distance.png", title=title, whole=this.subject.single)
    if len(found.sites) > 1:
        picture.as_map(found, folder / "map.png", title=title)
    length = this.rows.lengths[0]
    last_T = np.nan_to_num(found.on(-1)[0][0])[:length]
    if not this.rows.inputs:
        pieces = [this.codec.decode([int(t)], skip_special=False) for t in this.rows.items[0]["tokens"]]
        page = picture.page(title, picture.as_text(pieces, last_T))
        (folder / "text.html").write_text(page, encoding="utf-8")
        return
    surfaces.draw(this.rows.items[0], this.rows.inputs, last_T, folder, this.subject, title=title)


def _judged(this: Probed, found: influence.Influence) -> dict[str, Any] | None:
    """How the map fares where the truth is known."""
    if this.told is None or this.task is None:
        return None
    method = "screened" if this.long else "resampling"
    right = faith.accuracy(this.subject, this.told)
    held = faith.score(found, this.told, method=method, task=this.task.name, right=right)
    return {
        "task": this.task.name,
        "accuracy": held.accuracy,
        "hit": held.hit,
        "false_positives": held.false_positives,
        "nats": held.nats,
        "trusted": held.trusted,
        "verdict": held.verdict,
    }


def _beyond(found: influence.Influence, window: int | None) -> float | None:
    """The largest influence from farther than window × layers, which must be 0; None where all is seen."""
    if window is None or found.sites[0] < 0:
        return None
    nats_QT = np.nan_to_num(found.nats_QT)
    far_QT = np.abs(np.array(found.sites)[:, None] - np.arange(nats_QT.shape[1])) > window
    return float(nats_QT[far_QT].max()) if far_QT.any() else None


def _progress(name: str) -> Callable[[int, int], None]:
    """Says how far it is, each two seconds."""
    import time

    last = time.monotonic()

    def tell(done: int, count: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _SOON and done < count:
            last = time.monotonic()
            log.say(f"probe: {name}, {done} of {count}")

    return tell


class Vocabulary:
    """Swaps a token for any other of the vocabulary that is not special: where there is one text only."""

    def __init__(self, codec: Codec) -> None:
        special = set(codec.special_ids)
        self._ids = np.array([i for i in range(codec.vocab_size) if i not in special])

    def __call__(self, random: np.random.Generator, tokens: np.ndarray, position: int) -> int:
        """Another token."""
        choices = self._ids[self._ids != tokens[position]]
        return int(random.choice(choices)) if len(choices) else int(tokens[position])
