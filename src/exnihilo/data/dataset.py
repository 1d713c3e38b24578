"""A split that is ready to train on: fixed-length rows over memory-mapped tokens.

    batch = dataset.batch(order.rows(step, rows_per_step))      # columns of numpy arrays

Row ids count through the sources in their order. Nothing is held in memory but the packing plans' maps.

Key: B rows, R tokens a row (context + lookahead)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from exnihilo.data.cache import digest
from exnihilo.data.order import Order
from exnihilo.data.report import PackReport
from exnihilo.data.shards import Shard
from exnihilo.errors import DataError


class DocRef(NamedTuple):
    """Where a document of a row comes from: source, file, its number in the file (from 0), how it begins."""

    source: str
    file: str
    index: int
    preview: str


class Store:
    """One split of one prepared source: arrays by their short names."""

    def __init__(self, shard: Shard, side: str) -> None:
        self.shard, self.side = shard, side
        self.meta = shard.meta[side]
        self.documents, self.items = int(self.meta["documents"]), int(self.meta["items"])
        self.tokens, self.bytes = int(self.meta["tokens"]), int(self.meta["bytes"])
        self.columns: tuple[str, ...] = tuple(self.meta["columns"])
        self.item_columns: tuple[str, ...] = tuple(self.meta["item_columns"])
        self.widths: dict[str, int] = dict(self.meta.get("widths", {}))

    def __getitem__(self, name: str) -> np.ndarray:
        full = f"{self.side}.{name}"
        return self.shard[full] if full in self.shard else np.zeros(0, np.uint8)

    def column(self, name: str) -> np.ndarray:
        """A per-token column; those of items have a name of their own, so that any may be called "end"."""
        flat = self[name if name == "tokens" else f"token.{name}"]
        return flat.reshape(-1, self.widths[name]) if name in self.widths else flat

    def lengths(self) -> np.ndarray:
        """Tokens of each item, int64."""
        return np.diff(self["end"], prepend=0)

    @property
    def hash(self) -> str:
        return digest(self.shard.hash, self.side)


@dataclass(frozen=True)
class Part:
    """One source in a data set: its items, how they are packed, and the names of its files."""

    name: str
    files: tuple[str, ...]
    store: Store
    pack: Shard

    @property
    def rows(self) -> int:
        return int(self.pack.meta["rows"])

    @property
    def frame(self) -> tuple[int, int] | None:
        """How many tokens of an item's beginning and of its end each of its pieces begins and ends with."""
        frame = self.pack.meta["frame"]
        return None if frame is None else (int(frame[0]), int(frame[1]))


class Dataset:
    """Rows of ``context + lookahead`` tokens.

    Args:
        parts: the sources.
        context: positions that a model sees.
        lookahead: tokens that a row holds beyond them: 1 for next-token prediction.
        weights: shares of the sources in a mixture; None: each row once an epoch.
        pad_id: the token that fills a row's rest.
        seed: of `order`.

    Attributes:
        row: tokens of a row, context + lookahead.
        rows, tokens, documents: totals (tokens of the documents, each counted once).
        source_names, source_rows, weights: by source; weights add up to 1.
        hash: of the content and the packing: the same on every machine.
        report: figures of the packing.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        context: int,
        weights: Sequence[float] | None = None,
        pad_id: int = 0,
        seed: int = 0,
        lookahead: int = 1,
    ) -> None:
        self.parts, self.context, self.pad_id, self.seed = tuple(parts), context, pad_id, seed
        self.row = context + lookahead
        self.source_names = tuple(p.name for p in self.parts)
        self.source_rows = tuple(p.rows for p in self.parts)
        self.rows = sum(self.source_rows)
        self.tokens = sum(p.store.tokens for p in self.parts)
        self.documents = sum(p.store.items for p in self.parts)
        self.mixed = weights is not None
        shares = weights if weights is not None else self.source_rows
        whole = float(sum(shares)) or 1.0
        self.weights = tuple(float(w) / whole for w in shares)
        self.hash = digest([(p.store.hash, p.pack.hash) for p in self.parts], self.row, pad_id)
        self.columns: dict[str, np.dtype] = {}
        for part in self.parts:
            store = part.store
            arrays = {name: store.column(name) for name in store.columns}
            arrays |= {name: store[f"item.{name}"] for name in store.item_columns}
            for name, array in arrays.items():
                self.columns[name] = _wider(self.columns.get(name), array, name)
        self.columns["tokens"] = np.dtype(np.int64)
        self.report = self._report()
        self._first_row = np.concatenate([[0], np.cumsum(self.source_rows)]).astype(np.int64)

    def __len__(self) -> int:
        return self.rows

    def _report(self) -> PackReport:
        packs = [p.pack.meta for p in self.parts]
        places = max(1, self.rows * self.row)

        def mean(key: str) -> float:
            return sum(m[key] * m["rows"] for m in packs) * self.row / places

        cropped = sum(m["cropped"] * p.store.tokens for m, p in zip(packs, self.parts, strict=True))
        return PackReport(
            documents=self.documents,
            tokens=self.tokens,
            bytes=sum(p.store.bytes for p in self.parts),
            rows=self.rows,
            cropped=cropped / max(1, self.tokens),
            padded=mean("padded"),
            repeated=mean("repeated"),
        )

    def order(self, seed: int | None = None) -> Order:
        """The order of rows: by weights where the sources are mixed, else each row once an epoch. A source
        without a row (of this length) has no share."""
        seed = self.seed if seed is None else seed
        if not self.mixed:
            return Order(self.source_rows, None, seed)
        there = [(n, w) for n, w in zip(self.source_rows, self.weights, strict=True) if n]
        return Order([n for n, _ in there], [w for _, w in there], seed)

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of some rows.

        Args:
            rows: global row ids, integers (B,).

        Returns:
            tokens int64 (B, R), `pad_id` at padding; doc int32 (B, R), 0, 1, 2 ... within the row, -1 at
            padding; pos int64 (B, R), from 0 in each piece of a document; source int64 (B,); and the items'
            further columns (B, R) or (B, R, numbers a position), 0 at padding, where a number of an item
            stands at each of its tokens.

        Raises:
            IndexError: a row that there is not.

        Example:
            >>> dataset.batch(np.arange(8))["tokens"].shape     # doctest: +SKIP
            (8, 257)
        """
        rows = np.asarray(rows, np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= self.rows):
            raise IndexError(f"rows {rows.min()}..{rows.max()} of a data set of {self.rows}")
        shape = (len(rows), self.row)
        out = {name: np.zeros(shape, dtype) for name, dtype in self.columns.items()}
        out["tokens"].fill(self.pad_id)
        out["doc"] = np.full(shape, -1, np.int32)
        out["pos"] = np.zeros(shape, np.int64)
        source = np.searchsorted(self._first_row, rows, side="right") - 1
        out["source"] = source.astype(np.int64)
        for s in np.unique(source).tolist():
            at = np.flatnonzero(source == s)
            self._fill(out, at, self.parts[s], rows[at] - self._first_row[s])
        return out

    def _fill(self, out: dict[str, np.ndarray], at: np.ndarray, part: Part, rows: np.ndarray) -> None:
        """Copies one source's rows to their places, all pieces at once."""
        pack, store = part.pack, part.store
        begin = pack["row_start"][rows].astype(np.int64)
        count = pack["row_start"][rows + 1].astype(np.int64) - begin
        first = np.cumsum(count) - count  # of each row's pieces, among those of all rows
        rank = np.arange(int(count.sum())) - np.repeat(first, count)
        piece = np.repeat(begin, count) + rank
        item = pack["doc"][piece].astype(np.int64)
        length = pack["length"][piece].astype(np.int64)
        end = store["end"]
        where = np.where(item > 0, end[np.maximum(item - 1, 0)], 0) + pack["start"][piece].astype(np.int64)
        before = np.cumsum(length) - length  # tokens of the pieces before, over all rows
        place = np.repeat(at * self.row - before[first], count) + before
        pos = np.arange(int(length.sum())) - np.repeat(before, length)
        to = np.repeat(place, length) + pos
        source = np.repeat(where, length) + pos
        if part.frame is not None:  # a piece of an item stands between the item's own ends
            for i in range(part.frame[0]):
                source[before + i] = np.where(item > 0, end[np.maximum(item - 1, 0)], 0) + i
            for i in range(1, part.frame[1] + 1):
                source[before + length - i] = end[item] - i
        out["pos"].reshape(-1)[to] = pos
        out["doc"].reshape(-1)[to] = np.repeat(rank, length)
        for name in store.columns:
            flat = out[name].reshape(-1, *out[name].shape[2:])  # several numbers a position, or one
            flat[to] = store.column(name)[source]
        for name in store.item_columns:
            out[name].reshape(-1)[to] = np.repeat(store[f"item.{name}"][item], length)

    def refs(self, row: int) -> list[DocRef]:
        """The documents of a row, from left to right."""
        s = int(np.searchsorted(self._first_row, row, side="right")) - 1
        if not 0 <= row < self.rows:
            raise IndexError(f"row {row} of a data set of {self.rows}")
        part = self.parts[s]
        local = row - int(self._first_row[s])
        a, b = (int(part.pack["row_start"][i]) for i in (local, local + 1))
        return [self.ref(s, int(item)) for item in part.pack["doc"][a:b]]

    def ref(self, source: int, item: int) -> DocRef:
        """Where an item of a source comes from."""
        part = self.parts[source]
        file, index = int(part.store["file"][item]), int(part.store["index"][item])
        preview = bytes(part.store["preview"][item]).decode("utf-8", "ignore")
        return DocRef(part.name, part.files[file], index, " ".join(preview.split()))

    def verify(self) -> None:
        """Compares every file with its hash: reads all of them.

        Raises:
            DataError: one is altered.
        """
        for part in self.parts:
            part.store.shard.verify()
            part.pack.verify()


def _wider(known: np.dtype | None, array: np.ndarray, name: str) -> np.dtype:
    """The type of a column over all sources: ids as int64; what holds several numbers a position as it is
    stored, with their number."""
    if array.ndim == 1:
        kind = np.dtype(np.int64) if array.dtype.kind in "iu" else array.dtype
        return np.promote_types(kind if known is None else known, kind)
    if known is None:
        return np.dtype((array.dtype, array.shape[1:]))
    if known.shape != array.shape[1:]:
        raise DataError(
            f"column {name!r} holds {array.shape[1:]} a position in one source, {known.shape} in another",
            expected="sources that were encoded with the same options",
        )
    return np.dtype((np.promote_types(known.base, array.dtype), known.shape))
