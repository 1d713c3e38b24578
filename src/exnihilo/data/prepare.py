"""Raw data -> data sets, through the cache.

    splits = prepare(config, None, encode=encode, key=key, context=256, seed=0)
    splits.train, splits.val, splits.report

Each source is prepared once for each (content, settings, encoding) and packed once for each context; both are
found again by a key made from content alone, never from names or times.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from exnihilo import log
from exnihilo.config import DataConfig
from exnihilo.data import cache as cached
from exnihilo.data import leaks, packing, pipeline, split
from exnihilo.data.base import TEXT, Drops, Encode, Example, begins
from exnihilo.data.dataset import Dataset, Part, Store
from exnihilo.data.example import repaired
from exnihilo.data.progress import Console
from exnihilo.data.report import DataReport, LeakReport, SourceReport
from exnihilo.data.shards import FORMAT, ArrayWriter, Shard
from exnihilo.data.sources import FileSource, Source, inherit, open_sources
from exnihilo.errors import ConfigError, DataError

PADDING = 0.05
"""Share of padding above which items are cut to fill gaps, where they may be."""


@dataclass(frozen=True)
class Splits:
    """What `prepare` gives."""

    train: Dataset
    val: Dataset | None
    report: DataReport


@dataclass(frozen=True)
class _Shape:
    """What packing depends on beside the lengths."""

    row: int
    overlap: int
    join: bool
    frame: tuple[int, int] | None = None


@dataclass(frozen=True)
class _Prepared:
    source: Source
    shard: Shard
    fresh: bool
    seconds: float


def workers_of(config: DataConfig) -> int:
    """Threads to read and encode with: as set, else as many as there are cores for this process."""
    if config.workers:
        return config.workers
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare(
    config: DataConfig,
    val: DataConfig | None,
    *,
    encode: Encode,
    key: str,
    context: int,
    seed: int,
    progress: log.Progress | None = None,
    cache: Path | None = None,
    pad_id: int = 0,
    overlap: int | None = None,
    roles: Sequence[str] = TEXT,
    extras: Sequence[str] = (),
    view: str = "stories",
    lookahead: int = 1,
    join: bool = True,
    frame: tuple[int, int] | None = None,
) -> Splits:
    """Reads, encodes, packs and opens the training and the validation split.

    Args:
        config: the training sources. Without `val`, `config.val_fraction` of their documents is held out.
        val: the validation sources, if they are given apart.
        encode: examples to items; must be pure, and is called from several threads.
        key: identifies `encode`: the objective with its options, and the tokenizer's hash.
        context: positions of a training row, which holds context + lookahead tokens.
        seed: of the data sets' `order`. It changes neither the split nor the packing.
        progress: where progress goes; None: to the terminal, once it takes more than two seconds.
        cache: default $EXNIHILO_CACHE, else ~/.cache/exnihilo.
        pad_id: the token that fills a row's rest.
        overlap: tokens that a piece of a long document repeats from the piece before: 1 for next-token
            prediction. Default: as `lookahead`.
        roles: what each example must have.
        extras: roles that are read where the data has them.
        view: which view of the embedded world gives these roles.
        lookahead: tokens that a row holds beyond its positions: 1 for next-token prediction, else 0.
        join: the parts of a very long document become one item again, and items that do not fit into a row
            or a gap are cut; False: every item stands for itself, whole, and must fit into a row.
        frame: without `join`: where rows would stay too empty, items are cut to fill gaps, too, and each
            piece keeps so many tokens of its item's beginning and of its end: (1, 1) for [CLS] piece [SEP].

    Raises:
        DataError: a source or the cache cannot be used; a split without a row; a validation split that lies
            wholly in the training split.
        ConfigError: weights that cannot be.

    Example:
        >>> prepare(config, None, encode=f, key="k", context=256, seed=0)   # doctest: +SKIP
    """
    began = time.perf_counter()
    root = cached.folder(cache)
    progress = progress or Console()
    reading: dict[str, Any] = {"roles": roles, "extras": extras, "view": view, "cache": root}
    sources = open_sources(config, **reading)
    val_sources = open_sources(inherit(val, config), **reading) if val else []
    fraction = 0.0 if val else config.val_fraction
    held = [_prepared(s, fraction, encode, key, join, root, progress) for s in sources]
    apart = [_prepared(s, 0.0, encode, key, join, root, progress) for s in val_sources]
    steps = lookahead if overlap is None else overlap
    shape = _Shape(context + lookahead, sum(frame) if frame else steps, join, frame)
    parts = [_part(p, "train", shape, root, progress) for p in held]
    _enough(parts, shape)
    weights = resolve_weights(config, [p.store.tokens for p in parts])
    laid: dict[str, Any] = {"context": context, "lookahead": lookahead, "pad_id": pad_id, "seed": seed}
    train = Dataset(parts, weights=weights, **laid)
    others: Dataset | None = None
    notes: list[str] = []
    leak: LeakReport | None = None
    if apart or fraction > 0:
        side = "train" if apart else "val"
        found = [_part(p, side, shape, root, progress) for p in apart or held]
        others = Dataset(found, **laid)
        if others.rows == 0:
            raise DataError(
                f"the validation split has {others.tokens} tokens: not one row with something to predict",
                expected="at least a few lines of text",
                next="a larger data.val_fraction, more data, or val=PATH",
            )
        leak = _leak(train, others, root, progress)
        notes += _judge(leak, bool(apart))
        if others.tokens < shape.row and lookahead:
            notes.append(f"the validation split has {others.tokens} tokens, less than one row of {shape.row}")
    else:
        notes.append("no validation split: data.val_fraction=0 and no val=PATH")
    progress.stop()
    bytes_, seconds = _speed([p for p in (*held, *apart) if p.fresh])
    report = DataReport(
        sources=tuple(_source_report(p, w) for p, w in zip(held, train.weights, strict=True)),
        val_sources=tuple(_source_report(p, 0.0) for p in apart),
        train=train.report,
        val=others.report if others else None,
        leak=leak,
        seconds=time.perf_counter() - began,
        bytes_per_second=bytes_ / seconds if seconds else None,
        cache=str(root),
        notes=tuple(notes),
    )
    for line in report.lines():
        log.say(line)
    return Splits(train, others, report)


def examples(
    config: DataConfig,
    val: DataConfig | None,
    side: Literal["train", "val"],
    *,
    roles: Sequence[str] = TEXT,
    extras: Sequence[str] = (),
    view: str = "stories",
    cache: Path | None = None,
    drops: Drops | None = None,
) -> Iterator[Example]:
    """The examples of one side, before any encoding: the same split as `prepare` makes.

    Args:
        config, val, roles, extras, view, cache: as for `prepare`.
        side: of the split. With `val`, ``val`` is all of it and ``train`` all of `config`.
        drops: counts the records that are left out (of both sides, where one source has both).

    Yields:
        Roles to values; keys that begin with ``_`` say where an example comes from.

    Raises:
        DataError: as `prepare`.

    Example:
        >>> world = DataConfig(sources="world:30", val_fraction=0.2)
        >>> next(examples(world, None, "train", roles=("text", "label"), view="sentiment"))["label"]
        'neutral'
    """
    root = cached.folder(cache)
    apart = val is not None and side == "val"
    chosen = inherit(val, config) if val is not None and apart else config
    fraction = 0.0 if val is not None else config.val_fraction
    if side == "val" and not apart and fraction <= 0:
        return
    wanted = split.VAL if side == "val" and not apart else split.TRAIN
    for source in open_sources(chosen, roles=roles, extras=extras, view=view, cache=root):
        plan = split_plan(source, fraction, root, workers_of(chosen))
        current = split.TRAIN
        for example, given in plan.assign(source.examples(drops)):
            whole = repaired(example)
            if given is not None:
                current = given
            elif begins(example):
                current = plan.side(split.group_hash(whole))
            if current == wanted:
                yield whole


def split_plan(source: Source, fraction: float, root: Path, workers: int) -> split.SplitPlan:
    """How a source is divided; remembered by its content."""
    if source.told:
        return split.SplitPlan("told", fraction, note=source.told if fraction > 0 else "nothing is held out")
    path = root / "splits" / f"{cached.digest(source.fingerprint(root, workers), fraction, FORMAT)}.json"
    known = cached.read_json(path) if fraction > 0 else None
    if isinstance(known, dict):
        return split.SplitPlan(**known)
    drops = Drops()
    plan = split.make(
        source.examples(drops),
        fraction=fraction,
        plain=pipeline.is_plain(source),
        where=source.path,
        drops=drops,
    )
    if fraction > 0:
        cached.write_json(path, plan.to_json())
    return plan


def _prepared(
    source: Source, fraction: float, encode: Encode, key: str, join: bool, root: Path, progress: log.Progress
) -> _Prepared:
    """The shards of a source: found in the cache, or made."""
    workers = workers_of(source.config)
    print_ = source.fingerprint(root, workers)
    plan = split_plan(source, fraction, root, workers)
    name = cached.digest(print_, key, plan.to_json(), join, FORMAT)
    began = time.perf_counter()
    with cached.building(root / "prepared", name) as fresh:
        if fresh is not None:
            plain = source.size if _uncompressed(source) else None
            progress.start(f"prepare {source.name}", total=plain, unit="bytes")
            pipeline.build(source, plan, encode, fresh, workers=workers, progress=progress, join=join)
            if source.fingerprint(root, workers) != print_:
                raise DataError(
                    f"{source.path} was changed while it was read",
                    expected="files that stay as they are",
                    next="run again when they are complete",
                )
    shard = Shard(root / "prepared" / name)
    return _Prepared(source, shard, fresh is not None, time.perf_counter() - began)


def _uncompressed(source: Source) -> bool:
    return isinstance(source, FileSource) and not any(
        n.endswith((".gz", ".zst", ".parquet")) for n in source.names
    )


def _part(prepared: _Prepared, side: str, shape: _Shape, root: Path, progress: log.Progress) -> Part:
    """A split of a source with its packing plan, which is found in the cache or made."""
    store = Store(prepared.shard, side)
    method = hashlib.sha256(Path(packing.__file__).read_bytes()).hexdigest()
    name = cached.digest(store.hash, shape.row, shape.overlap, shape.join, shape.frame, method, FORMAT)
    with cached.building(root / "packs", name) as fresh:
        if fresh is not None:
            progress.start(f"pack {prepared.source.name}")
            lengths = store.lengths()
            if not shape.join and lengths.size and int(lengths.max()) > shape.row:
                raise ValueError(f"an item of {int(lengths.max())} tokens does not fit a row of {shape.row}")
            # at most so much padding, by cutting: never items of their own
            most = PADDING if shape.join or shape.frame else 1.0
            plan = packing.plan(lengths, shape.row, overlap=shape.overlap, max_padding=most)
            writer = ArrayWriter(fresh)
            for array in ("row_start", "doc", "start", "length"):
                writer.append(array, np.asarray(getattr(plan, array)))
            figures = {name: float(getattr(plan, name)) for name in ("padded", "repeated", "cropped", "cut")}
            writer.finish({"rows": len(plan.row_start) - 1, "frame": shape.frame, **figures})
    return Part(prepared.source.name, prepared.source.names, store, Shard(root / "packs" / name))


def _enough(parts: Sequence[Part], shape: _Shape) -> None:
    tokens = sum(p.store.tokens for p in parts)
    if tokens < shape.row and shape.join:  # items that stand for themselves may leave a row half empty
        raise DataError(
            f"the training split has {tokens} tokens, but a row takes {shape.row} (model.context and one)",
            expected="at least one row of text",
            next=f"give more data, or model.context={max(2, tokens // 2)} or less",
        )
    for part in parts:
        if part.rows == 0:
            raise DataError(
                f"source {part.name} has {part.store.tokens} tokens: not one row with something to predict",
                expected="at least a few words",
                next="leave it out, or give more data",
            )


def resolve_weights(config: DataConfig, sizes: Sequence[float]) -> list[float] | None:
    """Shares of the sources in the mixture; None where each is to be seen in proportion to its size.

    Weights that are given are shares. What they leave of 1 is divided among the other sources in proportion
    to size^(1 / temperature); if all are given, they may have any scale.

    Example:
        >>> resolve_weights(DataConfig(sources=["a", "b"], temperature=2), [100, 400])
        [0.3333333333333333, 0.6666666666666666]
    """
    given = [s.weight for s in config.sources]
    if all(w is None for w in given) and (config.temperature == 1 or len(given) == 1):
        return None
    fixed = sum(w for w in given if w is not None)
    if None not in given:
        return [w / fixed for w in given if w is not None]
    if fixed >= 1:
        raise ConfigError(
            f"the weights that are given add up to {fixed:g}, which leaves nothing for the other sources",
            expected="shares that add up to less than 1, or a weight for every source",
            next="set data.sources' weights",
        )
    powers = [
        0.0 if w is not None else float(n) ** (1 / config.temperature)
        for w, n in zip(given, sizes, strict=True)
    ]
    whole = sum(powers)
    return [w if w is not None else (1 - fixed) * p / whole for w, p in zip(given, powers, strict=True)]


def _leak(train: Dataset, val: Dataset, root: Path, progress: log.Progress) -> LeakReport:
    """Compares the splits; the answer is remembered by their content."""
    stores = [[p.store for p in d.parts] for d in (train, val)]
    method = (leaks.LEAST, leaks.SHARE, FORMAT)
    path = root / "leaks" / f"{cached.digest([[s.hash for s in group] for group in stores], method)}.json"
    known = cached.read_json(path)
    if not isinstance(known, dict):
        progress.start("look for leaks")
        report, first = leaks.compare(*stores)
        known = {
            **{k: getattr(report, k) for k in ("documents", "exact", "near", "overlap")},
            "first": first,
        }
        cached.write_json(path, known)
    first = known.pop("first")
    refs = tuple(tuple(val.ref(s, i)) for s, i in first)
    return replace(LeakReport(**known), examples=refs)


def _judge(leak: LeakReport, apart: bool) -> list[str]:
    """Says what leaks; refuses a validation split that was given and lies wholly in the training split."""
    if apart and leak.exact == leak.documents:
        raise DataError(
            f"all {leak.documents} validation documents are also training documents",
            expected="val=PATH with documents that are not in data=PATH",
            next="leave val out: a share of data is then held out by document hash",
        )
    if not leak.exact and not leak.near:
        return []
    first = leak.examples[0]
    text = (
        f"leak: {leak.exact} of {leak.documents} validation documents are also training documents, "
        f"{leak.near} nearly so ({leak.share:.1%}; {leak.overlap:.1%} of all passages). "
        "The validation loss is too low by what is remembered. "
        f"First: {first[1]}, document {first[2]}: {first[3]!r}"
    )
    log.warn(text)
    return [text]


def _speed(fresh: Sequence[_Prepared]) -> tuple[int, float]:
    total = sum(int(p.shard.meta[s]["bytes"]) for p in fresh for s in split.SIDES if s in p.shard.meta)
    return total, sum(p.seconds for p in fresh)


def _source_report(p: _Prepared, weight: float) -> SourceReport:
    train, val = p.shard.meta["train"], p.shard.meta.get("val")
    plan = p.shard.meta["split"]
    held_out = int(val["documents"]) if val else 0
    if val and plan["mode"] == "tail":
        # one document may have been cut in two: it is counted once, where it begins
        last, first = Store(p.shard, "train"), Store(p.shard, "val")
        held_out -= all(last[n][-1] == first[n][0] for n in ("file", "index"))
    return SourceReport(
        name=p.source.name,
        path=p.source.path,
        kind=p.source.kind,
        files=len(p.source.names),
        skipped=dict(p.source.skipped),
        fields=dict(p.source.fields),
        split=str(plan["note"]) if plan["mode"] != "none" else "",
        documents=int(train["documents"]),
        held_out=held_out,
        tokens=int(train["tokens"]),
        held_out_tokens=int(val["tokens"]) if val else 0,
        bytes=int(train["bytes"]) + (int(val["bytes"]) if val else 0),
        repaired=int(p.shard.meta["repaired"]),
        dropped=p.shard.meta["dropped"],
        format=p.source.format,
        weight=weight,
        cached=not p.fresh,
    )
