"""The same documents in shorter rows: what a curriculum of lengths trains on before it comes to long ones.

    short = shorter(dataset, 64, join=True, frame=None)     # nothing is read or encoded again

Documents that do not fit are cut where they may be; items that stand for themselves are left out of the
shorter rows, and counted by the caller (`Dataset.documents`).
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from exnihilo.data import cache as cached
from exnihilo.data import packing
from exnihilo.data.dataset import Dataset, Part
from exnihilo.data.shards import FORMAT, ArrayWriter, Shard
from exnihilo.errors import DataError

PADDING = 0.05
"""As `prepare`: the share of padding above which documents are cut to fill gaps, where they may be."""


def shorter(
    dataset: Dataset,
    context: int,
    *,
    join: bool,
    frame: tuple[int, int] | None = None,
    cache: Path | None = None,
) -> Dataset:
    """A data set of the same items in rows of `context` positions.

    Args:
        dataset: the one with the full length.
        context: positions of a row, at most the data set's.
        join, frame: how items may be cut; see `prepare`.
        cache: where packings are kept; default as for `prepare`.

    Raises:
        DataError: no item fits.

    Example:
        >>> shorter(dataset, 64, join=True).context     # doctest: +SKIP
        64
    """
    lookahead = dataset.row - dataset.context
    row = context + lookahead
    parts = [_packed(p, row, sum(frame) if frame else lookahead, join, frame, cache) for p in dataset.parts]
    out = Dataset(
        parts,
        context=context,
        weights=dataset.weights if dataset.mixed else None,
        pad_id=dataset.pad_id,
        seed=dataset.seed,
        lookahead=lookahead,
    )
    if out.rows == 0:
        least = min((int(p.store.lengths().min()) for p in parts if p.store.items), default=0)
        raise DataError(
            f"no item fits into rows of {context} positions: the shortest has {least} tokens",
            expected="lengths that some of the data has",
            next=f"begin with batch.lengths of {least} or more, or add shorter items to data=",
        )
    return out


def _packed(
    part: Part, row: int, overlap: int, join: bool, frame: tuple[int, int] | None, cache: Path | None
) -> Part:
    """A source in rows of another length: the packing is found in the cache, or made."""
    store, root = part.store, cached.folder(cache)
    method = hashlib.sha256(Path(packing.__file__).read_bytes()).hexdigest()
    name = cached.digest(store.hash, row, overlap, join, frame, method, FORMAT, "fitting")
    with cached.building(root / "packs", name) as fresh:
        if fresh is not None:
            lengths = store.lengths()
            if not join and frame is None:
                lengths = np.where(lengths <= row, lengths, 0)  # what has no tokens gets no place
            most = PADDING if join or frame else 1.0
            plan = packing.plan(lengths, row, overlap=overlap, max_padding=most)
            writer = ArrayWriter(fresh)
            for array in ("row_start", "doc", "start", "length"):
                writer.append(array, np.asarray(getattr(plan, array)))
            figures = {name: float(getattr(plan, name)) for name in ("padded", "repeated", "cropped", "cut")}
            writer.finish({"rows": len(plan.row_start) - 1, "frame": frame, **figures})
    return replace(part, pack=Shard(root / "packs" / name))


def fitting(dataset: Dataset, context: int, *, join: bool, frame: tuple[int, int] | None = None) -> int:
    """How many items rows of `context` positions have a place for."""
    if join or frame is not None:
        return dataset.documents
    row = context + dataset.row - dataset.context
    return sum(int((p.store.lengths() <= row).sum()) for p in dataset.parts)
