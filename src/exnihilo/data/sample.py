"""Text of the training split for training a tokenizer: an even sample of the sources and their files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from exnihilo.config import DataConfig
from exnihilo.data import cache as cached
from exnihilo.data import split
from exnihilo.data.base import TEXT, Example, begins
from exnihilo.data.example import readable, repaired
from exnihilo.data.prepare import resolve_weights, split_plan, workers_of
from exnihilo.data.sources import Source, open_sources

OPEN_FILES = 64


def texts(
    config: DataConfig,
    *,
    limit_bytes: int,
    val: DataConfig | None = None,
    cache: Path | None = None,
    roles: Sequence[str] = TEXT,
    extras: Sequence[str] = (),
    view: str = "stories",
    writes: Sequence[str] = (),
) -> Iterator[str]:
    """Text of the training split alone, to train a tokenizer on: an even sample of about `limit_bytes`.

    Sources take turns by their weights; within one, files take turns in an order that is drawn from their
    numbers, so each file gives about the same share of itself. A document comes in parts where it is very
    long.

    Args:
        val: the validation data that is given apart, if so; nothing is held out then.
        roles, extras, view: as for `prepare`; of several roles the inputs are given, as one text.
        writes: roles that are no inputs and are read all the same.

    Raises:
        DataError: as `prepare`.
    """
    root = cached.folder(cache)
    sources = open_sources(config, roles=roles, extras=extras, view=view, cache=root)
    fraction = 0.0 if val else config.val_fraction
    sizes = [float(s.size or limit_bytes) for s in sources]
    whole = sum(sizes)
    weights = resolve_weights(config, sizes) or [n / whole for n in sizes]
    share = min(1.0, limit_bytes / whole)
    streams = [_sample(s, split_plan(s, fraction, root, workers_of(config)), share, writes) for s in sources]
    used = [0.0] * len(sources)
    alive = set(range(len(sources)))
    left = limit_bytes
    while alive and left > 0:
        s = min(alive, key=lambda i: (used[i] / weights[i], i))
        text = next(streams[s], None)
        if text is None:
            alive.discard(s)
            continue
        if len(text) > left:  # a character has at least one byte
            text = text[:left]
        size = len(text.encode("utf-8", "replace"))
        used[s] += size
        left -= size
        yield text


def _sample(source: Source, plan: split.SplitPlan, share: float, writes: Sequence[str] = ()) -> Iterator[str]:
    """Training texts of a source, its files taking turns."""
    if plan.mode == "tail":  # a few documents, divided in their order
        yield from (
            _body(repaired(e), writes) for e, side in plan.assign(source.examples()) if side == split.TRAIN
        )
        return
    count = len(source.names)
    order = sorted(range(count), key=lambda i: hashlib.blake2b(str(i).encode(), digest_size=8).digest())
    # a quota bounds what one file gives, so that the files behind it have their turn; none where all fit
    quota = None if share >= 1 or count <= OPEN_FILES else (source.size or 0) * share / count + (64 << 10)
    for start in range(0, count, OPEN_FILES):
        streams = [
            (_train_only(source.read(f), plan, writes), [0]) for f in order[start : start + OPEN_FILES]
        ]
        while streams:
            for pair in list(streams):
                text = next(pair[0], None)
                if text is None or (quota is not None and pair[1][0] > quota):
                    streams.remove(pair)
                    continue
                pair[1][0] += len(text)
                yield text


def _train_only(
    examples: Iterator[Example], plan: split.SplitPlan, writes: Sequence[str] = ()
) -> Iterator[str]:
    side = split.TRAIN
    for example in map(repaired, examples):
        if begins(example):
            side = plan.side(split.group_hash(example))
        if side == split.TRAIN:
            yield _body(example, writes)


def _body(example: Example, writes: Sequence[str]) -> str:
    """The inputs, and what is to be written."""
    more = [str(example[role]) for role in writes if example.get(role) is not None]
    return "\n".join([readable(example), *more]) if more else readable(example)
