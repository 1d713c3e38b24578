"""One source -> its shards: read, hash, encode and write as a stream, in constant memory.

    build(source, plan, encode, folder, workers=2, progress=progress)

The calling thread reads ahead and writes in order; `workers` threads hash and encode batches of about a
megabyte. (Encoding leaves Python's lock to the others while it runs in compiled code, which is where the time
goes; a process pool would copy every text and every id across.) At any time a few batches are in memory,
whatever the corpus's size.

The folder holds, for each split that the source has, arrays ``train.NAME`` or ``val.NAME``:

    tokens, and the items' other per-token columns as token.NAME     end   int64 [items] where each item ends
    (of a column that holds several numbers a position, all of them; meta "widths" says how many)
    item.NAME   the items' per-item columns                          hash  uint64 [items] of its document
    file, index [items] where the document stands                    preview  S48 [items] how it begins
    shingle, shingle_end   sampled windows for near-duplicates
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from exnihilo import log
from exnihilo.data.base import TEXT, Drops, Encode, Example, Item, Noted, begins
from exnihilo.data.example import readable, repaired, size_of
from exnihilo.data.shards import ArrayWriter
from exnihilo.data.shingles import shingles
from exnihilo.data.sources import Source
from exnihilo.data.split import SIDES, TRAIN, SplitPlan, group_hash, inputs_hash, text_hash, utf8
from exnihilo.errors import DataError

BATCH_CHARACTERS = 1 << 20
BATCH_EXAMPLES = 8192
PREVIEW = 48

_FIXED = {
    "end": np.int64,
    "hash": np.uint64,
    "file": np.int32,
    "index": np.int64,
    "preview": f"S{PREVIEW}",
    "shingle": np.uint64,
    "shingle_end": np.int64,
}


@dataclass
class _Batch:
    """Examples on their way; the worker fills in what comes of them."""

    examples: list[Example]
    sides: list[int | None]
    hashes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    sizes: list[int] = field(default_factory=list)
    previews: list[bytes] = field(default_factory=list)
    shingles: tuple[np.ndarray, np.ndarray] = field(default_factory=lambda: shingles([]))
    items: list[list[Item]] = field(default_factory=list)
    repaired: int = 0


def _batches(pairs: Iterable[tuple[Example, int | None]]) -> Iterator[_Batch]:
    examples: list[Example] = []
    sides: list[int | None] = []
    size = 0
    for example, side in pairs:
        size += size_of(example)
        examples.append(example)
        sides.append(side)
        if size >= BATCH_CHARACTERS or len(examples) >= BATCH_EXAMPLES:
            yield _Batch(examples, sides)
            examples, sides, size = [], [], 0
    if examples:
        yield _Batch(examples, sides)


def _place(source: Source, example: Example) -> str:
    """Where an example stands, for messages."""
    at = example.get("_at", f"record {int(example.get('_index', -1)) + 1}")
    if not at:  # the file is the record
        return source.names[int(example.get("_file", 0))]
    return f"{source.names[int(example.get('_file', 0))]}, {at}"


def is_plain(source: Source) -> bool:
    """Whether the source's examples are text and nothing else."""
    return source.roles == TEXT and set(source.fields) <= set(TEXT)


def _work(batch: _Batch, encode: Encode, plan: SplitPlan, plain: bool) -> _Batch:
    """What a worker does with a batch: pure, so that batches may be worked on in any order."""
    bodies: list[bytes] = []
    for i, example in enumerate(batch.examples):
        whole = repaired(example)
        if whole is not example:
            batch.examples[i] = whole
            batch.repaired += 1
        body = whole["text"] if plain else readable(whole)
        bodies.append(body.encode("utf-8", "surrogateescape") if "_raw" in whole else utf8(body))
    if plain:
        hashes = groups = [text_hash(b) for b in bodies]
    else:
        hashes = [inputs_hash(e) for e in batch.examples]
        groups = [group_hash(e) for e in batch.examples]
    batch.hashes = np.array(hashes, np.uint64)
    if plan.mode not in ("tail", "told"):
        batch.sides = [
            plan.side(h) if begins(e) else None for h, e in zip(groups, batch.examples, strict=True)
        ]
    batch.sizes = [len(b) for b in bodies]
    batch.previews = [b[:PREVIEW] for b in bodies]
    batch.shingles = shingles(bodies)
    batch.items = encode(batch.examples)
    if len(batch.items) != len(batch.examples):
        raise ValueError(f"encode gave {len(batch.items)} lists of items for {len(batch.examples)} examples")
    return batch


class _SideWriter:
    """Writes the items of one split. With `join`, the parts of a document become one item again."""

    def __init__(self, writer: ArrayWriter, side: str, join: bool) -> None:
        self.writer, self.side, self.join = writer, side, join
        self.tokens = self.items = self.documents = self.bytes = self.shingles = 0
        self.names: tuple[str, ...] | None = None
        self.item_names: tuple[str, ...] = ()
        self.widths: dict[str, int] = {}  # of columns that hold several numbers a position
        self.open = False  # whether an item has been begun whose ends are not written

    def append(self, name: str, values: np.ndarray) -> None:
        self.writer.append(f"{self.side}.{name}", values)

    def add(self, batch: _Batch, chosen: list[int]) -> None:
        """Appends the chosen examples of a batch."""
        items, begun, owner = [], [], []
        for i in chosen:
            first = begins(batch.examples[i])
            self.documents += first
            self.bytes += batch.sizes[i]
            for n, item in enumerate(batch.items[i]):
                items.append(item)
                # a later part goes on with the item of the part before it
                alone = not self.join or len(batch.items[i]) > 1
                begun.append(first or n > 0 or alone or not self.items)
                owner.append(i)
                self.items += begun[-1]
        if not items:
            return
        if self.names is None:
            self._learn(items[0])
        lengths = self._columns(items)
        begin = np.array(begun)
        ends = self.tokens + np.cumsum(lengths)
        # an item's end is known when the next one begins: the last one stays open
        before = np.flatnonzero(begin) - 1
        done = np.where(before >= 0, ends[before], self.tokens)
        skip = 0 if self.open or not begin.any() else 1
        self.append("end", done[skip:])
        self.tokens += int(lengths.sum())
        own = np.array(owner)[begin]
        self.append("hash", batch.hashes[own])
        for name in ("file", "index"):
            self.append(name, np.array([batch.examples[i][f"_{name}"] for i in own], np.int64))
        self.append("preview", np.array([batch.previews[i] for i in own], f"S{PREVIEW}"))
        for name in self.item_names:
            self.append(f"item.{name}", np.array([x[name] for x, b in zip(items, begun, strict=True) if b]))
        self._shingles(batch, owner, begin, skip)
        self.open = True

    def _learn(self, item: Item) -> None:
        if "tokens" not in item or not isinstance(item["tokens"], np.ndarray):
            raise ValueError(f"an item needs an array 'tokens'; it has {', '.join(item)}")
        self.names = tuple(k for k, v in item.items() if isinstance(v, np.ndarray))
        self.item_names = tuple(k for k in item if k not in self.names)
        self.widths = {k: int(item[k].shape[1]) for k in self.names if item[k].ndim == 2}  # type: ignore[union-attr]

    def _columns(self, items: list[Item]) -> np.ndarray:
        assert self.names is not None
        lengths = [len(x["tokens"]) for x in items]  # type: ignore[arg-type]
        for name in self.names:
            try:
                arrays = [x[name] for x in items]
                if name != "tokens" and [len(a) for a in arrays] != lengths:  # type: ignore[arg-type]
                    raise ValueError(f"column {name!r} is not as long as 'tokens' in every item")
                if {a.shape[1:] for a in arrays} != ({(self.widths[name],)} if name in self.widths else {()}):  # type: ignore[union-attr]
                    raise ValueError(f"column {name!r} does not hold as much a position in every item")
            except KeyError as error:
                raise ValueError(f"an item lacks the column {name!r}, which the first item has") from error
            flat = np.concatenate(arrays).reshape(-1)
            self.append(name if name == "tokens" else f"token.{name}", flat)
        return np.array(lengths, np.int64)

    def _shingles(self, batch: _Batch, owner: list[int], begin: np.ndarray, skip: int) -> None:
        """The windows of an example belong to its first item."""
        values, text = batch.shingles
        firsts = np.array([n == 0 or owner[n - 1] != o for n, o in enumerate(owner)])
        counts = np.zeros(len(batch.examples), np.int64)
        mask = np.zeros(len(batch.examples), bool)
        mask[owner] = True
        np.add.at(counts, text, 1)
        self.append("shingle", values[mask[text]])
        ends = self.shingles + np.cumsum(np.where(firsts, counts[owner], 0))
        before = np.flatnonzero(begin) - 1
        self.append("shingle_end", np.where(before >= 0, ends[before], self.shingles)[skip:])
        self.shingles = int(ends[-1])

    def finish(self) -> dict[str, Any]:
        if self.open:
            self.append("end", np.array([self.tokens]))
            self.append("shingle_end", np.array([self.shingles]))
        return {
            "documents": self.documents,
            "items": self.items,
            "tokens": self.tokens,
            "bytes": self.bytes,
            "columns": list(self.names or ("tokens",)),
            "item_columns": list(self.item_names),
            **({"widths": self.widths} if self.widths else {}),
        }


def build(
    source: Source,
    plan: SplitPlan,
    encode: Encode,
    folder: Path,
    *,
    workers: int,
    progress: log.Progress,
    join: bool = True,
) -> None:
    """Prepares one source into an empty folder.

    Args:
        join: the encoded parts of a very long document become one item; False: every item stands for itself.

    Raises:
        DataError: the source cannot be read, or the folder cannot be written.
    """
    sides = SIDES[:1] if plan.mode == "none" else SIDES
    dtypes = {f"{side}.{name}": dtype for side in sides for name, dtype in _FIXED.items()}
    writer = ArrayWriter(folder, dtypes)
    began = time.perf_counter()
    writers = [_SideWriter(writer, side, join) for side in sides]
    repaired, side, drops = 0, TRAIN, Drops()
    plain = is_plain(source)
    pending: deque[Future[_Batch]] = deque()
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="encode")

    def write(batch: _Batch) -> None:
        nonlocal repaired, side
        chosen: list[list[int]] = [[], []]
        for i, given in enumerate(batch.sides):
            side = side if given is None else given  # a later part goes where the first went
            chosen[side].append(i)
            made = batch.items[i]
            if isinstance(made, Noted) and made.note:
                drops.add(made.note, _place(source, batch.examples[i]))
        for number, indices in enumerate(chosen):
            if indices:
                writers[number].add(batch, indices)
        repaired += batch.repaired
        progress.advance(sum(batch.sizes))

    try:
        for batch in _batches(plan.assign(source.examples(drops))):
            pending.append(pool.submit(_work, batch, encode, plan, plain))
            if len(pending) > workers + 1:
                write(pending.popleft().result())
        while pending:
            write(pending.popleft().result())
        if not writers[TRAIN].items:
            raise DataError(
                f"{source.path} has no documents with text in them" + drops.summary("; "),
                expected="at least one" + (" that can be learnt from" if drops.counts else ""),
                next="check data=PATH, data.unit and the fields",
            )
        meta: dict[str, Any] = {name: w.finish() for name, w in zip(sides, writers, strict=True)}
        meta["split"] = plan.to_json()
        meta["repaired"] = repaired
        meta["dropped"] = drops.to_json()
        meta["seconds"] = time.perf_counter() - began
        writer.finish(meta)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        writer.abort()
