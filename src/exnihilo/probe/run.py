"""`exnihilo probe`: how the first token bears on the last, measured on a run, with pictures.

::

    figures = probe("runs/books", data="books/", texts=8, length=128)
    figures["first_to_last"]             # [mean, low, high] nats, a bootstrap interval over the texts

Texts are cut from documents, all equally long. Three lines are measured: the trained model, the same network
with random weights, and the trained model on the same tokens in random order (what remains then is not
syntax). All is in ``RUN/probe/``: influence.json, distance.png, map.png, text.html.

Key: N texts, T positions
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exnihilo import data as datas
from exnihilo import log
from exnihilo.config import DataConfig, RunConfig
from exnihilo.errors import DataError, UsageError
from exnihilo.interop.load import load
from exnihilo.model import build
from exnihilo.probe import influence, picture
from exnihilo.probe.subject import Subject

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec

METHODS = ("resampling", "screened", "gradient_norm", "integrated_gradients")
LONG = 512  # positions from which the map of all pairs would take too long: the last site is screened


def probe(
    run: str | Path,
    *,
    data: Any = None,
    text: str | None = None,
    texts: int = 8,
    length: int | None = None,
    draws: int = 2,
    seed: int = 0,
    device: str = "cpu",
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Measure influence on a run and draw it.

    Args:
        run: a run folder, a checkpoint or a Hugging Face folder.
        data: where texts come from, as ``data=`` of `train`; default: the run's own validation split.
        text: one text of your own instead.
        texts: how many. length: tokens of each, at most the model's context; default: 64, or the context.
        draws: swaps of each position.
        out: the folder; default RUN/probe.

    Returns:
        Figures: ``first_to_last`` (mean, low, high; nats), ``reach`` (positions before the last output that
        hold 90% of its influence), ``future`` (the largest influence from a position that must have none),
        ``untrained`` and ``shuffled`` first_to_last, ``seconds_per_text``, and the files.

    Raises:
        UsageError: fewer than two tokens, or a length beyond the context.
        DataError: no text is that long.
    """
    loaded = load(run, device=device)
    subject, codec = Subject.of(loaded.model), loaded.codec
    most = loaded.model.config.context
    length = min(64, most) if length is None else length
    if length < 2 or texts < 1 or draws < 1:
        raise UsageError(
            f"length={length}, texts={texts}, draws={draws}", expected="length 2, others 1 or above"
        )
    if length > most:
        raise UsageError(
            f"length={length}, the model's context is {most}",
            expected=f"at most {most}",
            next=f"length={most}",
        )
    source = [text] if text is not None else _texts(Path(run), data)
    rows_NT = rows(codec, source, texts, length, encoder=not subject.causal)
    log.say(f"probe: {len(rows_NT)} texts of {rows_NT.shape[1]} tokens, head {subject.head}")
    swap = None if len(rows_NT) > 1 else Vocabulary(codec)
    folder = Path(out) if out is not None else Path(run) / "probe"
    folder.mkdir(parents=True, exist_ok=True)
    found = _measure(subject, rows_NT, swap, draws, seed)
    blank = Subject(build(loaded.model.config, seed=seed, device=device), subject.head)
    mixed_NT = np.stack([np.random.default_rng([seed, n]).permuted(row) for n, row in enumerate(rows_NT)])
    lines = {
        "trained": found,
        "untrained": _measure(blank, rows_NT, swap, draws, seed),
        "trained, tokens in random order": _measure(subject, mixed_NT, swap, draws, seed),
    }
    title = f"{Path(run).name}: {subject.head}, {len(rows_NT)} texts of {rows_NT.shape[1]} tokens"
    picture.over_distance(lines, folder / "distance.png", title=title)
    if len(found.sites) > 1:
        picture.as_map(found, folder / "map.png", title=title)
    pieces = [codec.decode([int(t)], skip_special=False) for t in rows_NT[0]]
    last = np.nan_to_num(found.nats_NQT[0, -1])
    (folder / "text.html").write_text(_page(title, picture.as_text(pieces, last)), encoding="utf-8")
    first = 0 if rows_NT[0, 0] not in codec.special_ids else 1  # the first one that says anything
    figures: dict[str, Any] = {
        "run": str(run),
        "head": subject.head,
        "method": "resampling" if rows_NT.shape[1] < LONG else "screened",
        "texts": len(rows_NT),
        "length": int(rows_NT.shape[1]),
        "first_to_last": list(found.at(-1, first)),
        "reach": found.reach(),
        "future": future(found) if subject.causal else None,
        "untrained": list(lines["untrained"].at(-1, first)),
        "shuffled": list(lines["trained, tokens in random order"].at(-1, first)),
        "seconds_per_text": round(found.seconds / len(rows_NT), 4),
        "files": [str(path) for path in sorted(folder.iterdir()) if path.suffix in (".png", ".html")],
    }
    (folder / "influence.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return figures


def _measure(
    subject: Subject, rows_NT: np.ndarray, swap: influence.Swap | None, draws: int, seed: int
) -> influence.Influence:
    if rows_NT.shape[1] < LONG:
        return influence.resampling(subject, rows_NT, swap=swap, draws=draws, seed=seed)
    first = influence.screened(subject, rows_NT, swap=swap, draws=draws, seed=seed)
    missing = np.isnan(first.nats_NQT[:, 0, :2]).any()
    if not missing:
        return first
    chosen = [
        sorted({0, 1, *np.flatnonzero(~np.isnan(row)).tolist()}) for row in first.nats_NQT[:, 0]
    ]  # the first tokens are what is asked about, whatever the screen says
    return influence.resampling(
        subject, rows_NT, swap=swap, sites=[-1], positions=chosen, draws=draws, seed=seed
    )


def future(found: influence.Influence) -> float:
    """The largest influence of a position on a site before it: exactly 0, or the model leaks."""
    worst = 0.0
    for q, site in enumerate(found.sites):
        after = found.nats_QT[q, site + 1 :] if site >= 0 else np.zeros(0)
        if after.size and not np.isnan(after).all():
            worst = max(worst, float(np.nanmax(after)))
    return worst


class Vocabulary:
    """Swaps a token for any other of the vocabulary that is not special: where there is one text only."""

    def __init__(self, codec: Codec) -> None:
        special = set(codec.special_ids)
        self._ids = np.array([i for i in range(codec.vocab_size) if i not in special])

    def __call__(self, random: np.random.Generator, tokens: np.ndarray, position: int) -> int:
        """Another token."""
        choices = self._ids[self._ids != tokens[position]]
        return int(random.choice(choices)) if len(choices) else int(tokens[position])


def rows(codec: Codec, texts: Iterable[str], count: int, length: int, *, encoder: bool = False) -> np.ndarray:
    """Token ids (N, T) of the beginnings of the first `count` texts that are long enough.

    A single shorter text gives a shorter row.

    Raises:
        DataError: no text is long enough.
    """
    out: list[list[int]] = []
    ids: list[int] = []
    longest, seen = 0, 0
    for text in texts:
        ids = codec.encode(text)
        seen += 1
        if encoder and codec.cls_id is not None and codec.sep_id is not None:
            ids = [codec.cls_id, *ids[: length - 2], codec.sep_id]
        else:
            ids = [codec.bos_id, *ids]
        longest = max(longest, len(ids))
        if len(ids) >= length:
            out.append(ids[:length])
        if len(out) == count:
            break
    if not out and seen == 1 and longest > 1:
        return np.array([ids], np.int64)
    if not out:
        raise DataError(
            f"none of {seen:,} texts has {length} tokens; the longest has {longest}",
            expected="longer texts, or a smaller length",
            next=f"length={max(2, longest)}",
        )
    return np.array(out, np.int64)


def _texts(run: Path, data: Any) -> Iterator[str]:
    config: DataConfig
    side, val = "val", None
    if data is not None:
        config, side = RunConfig.model_validate({"data": data}).data, "train"
    else:
        config, val = _own(run)
    for example in islice(datas.examples(config, val, side, roles=("text",)), 20_000):
        yield str(example["text"])


def _own(run: Path) -> tuple[DataConfig, DataConfig | None]:
    """The data of a run folder, by its config.toml."""
    import tomllib

    path = next((p / "config.toml" for p in (run, *run.parents) if (p / "config.toml").exists()), None)
    if path is None:
        raise UsageError(
            f"{run} does not say what it was trained on",
            expected="data=PATH, or a text",
            next='e.g. exnihilo probe RUN data=books/ or exnihilo probe RUN "a text"',
        )
    held: Mapping[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    parts = {key: held[key] for key in ("data", "val") if key in held}
    config = RunConfig.model_validate(parts)
    return config.data, config.val


def _page(title: str, body: str) -> str:
    style = "body{font:16px/1.6 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}"
    title = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{style}</style><h1>What the last output reads</h1><p>{title}. The deeper a token's ground, "
        f"the more the output after the last token changes when it is swapped.</p>{body}</html>"
    )


def summary(figures: Mapping[str, Any]) -> Sequence[str]:
    """The figures in words."""
    mean, low, high = figures["first_to_last"]
    lines = [
        f"from the first token to the last of {figures['length']}: {mean:.4f} nats [{low:.4f}, {high:.4f}]",
        f"untrained {figures['untrained'][0]:.4f}, tokens in random order {figures['shuffled'][0]:.4f}",
        f"90% of what the last output reads lies within {figures['reach']} positions",
    ]
    if figures["future"] is not None:
        lines.append(f"from the future: {figures['future']:g} nats")
    return lines
