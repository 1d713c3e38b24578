"""Pieces of documents -> the columns of a batch.

`rows` takes any pieces, `of_items` those of items in memory (`Dataset.batch` has its own way to the same
columns, straight from its shards), `simplify` what any of them gives::

    rows([plan.pieces(r) for r in ids], fetch, row=plan.row, pad_id=0)
    simplify(dataset.batch(ids))

Key: B rows, T+1 tokens a row. Every batch has

    tokens  int64 (B, T+1)  ids; `pad_id` where there is no piece
    doc     int32 (B, T+1)  0, 1, 2 ... by piece within the row; -1 at padding
    pos     int64 (B, T+1)  place within the piece, from 0; 0 at padding

and each further per-token column of the items, (B, T+1) or (B, T+1, numbers a position), 0 at padding. Two
pieces of one document that meet in a row count as two documents: each was cut for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from exnihilo.data.base import Item

Piece = tuple[int, int, int]  # document, start, length
Fetch = Callable[[int, int, int], Mapping[str, np.ndarray]]


def rows(
    pieces: Sequence[Sequence[Piece]],
    fetch: Fetch,
    *,
    row: int,
    pad_id: int,
    columns: Mapping[str, np.dtype | type] | None = None,
) -> dict[str, np.ndarray]:
    """Lays pieces out as rows.

    Args:
        pieces: for each row its pieces, from left to right.
        fetch: (document, start, length) -> its columns, `length` entries each; has at least "tokens".
        row: tokens of a row, T+1.
        pad_id: the id that fills the rest of a row.
        columns: name -> dtype of the further per-token columns that `fetch` gives.

    Returns:
        The columns above.

    Raises:
        ValueError: the pieces of a row are longer than the row, or `fetch` gave another length.

    Example:
        >>> text = np.arange(10, 20)
        >>> def fetch(document, start, length): return {"tokens": text[start : start + length]}
        >>> batch = rows([[(0, 0, 3), (0, 5, 2)]], fetch, row=6, pad_id=0)
        >>> batch["tokens"].tolist(), batch["doc"].tolist(), batch["pos"].tolist()
        ([[10, 11, 12, 15, 16, 0]], [[0, 0, 0, 1, 1, -1]], [[0, 1, 2, 0, 1, 0]])
    """
    B = len(pieces)
    out: dict[str, np.ndarray] = {
        "tokens": np.full((B, row), pad_id, np.int64),
        "doc": np.full((B, row), -1, np.int32),
        "pos": np.zeros((B, row), np.int64),
    }
    for name, dtype in (columns or {}).items():
        out[name] = np.zeros((B, row), dtype)
    ramp = np.arange(row, dtype=np.int64)
    read = ("tokens", *(columns or ()))
    for b, row_pieces in enumerate(pieces):
        at = 0
        for d, (document, start, length) in enumerate(row_pieces):
            end = at + length
            if end > row:
                raise ValueError(f"pieces of {end} tokens in a row of {row}")
            values = fetch(document, start, length)
            for name in read:
                if len(values[name]) != length:
                    raise ValueError(
                        f"document {document}: column {name!r} has {len(values[name])} of {length} entries"
                    )
                out[name][b, at:end] = values[name]
            out["doc"][b, at:end] = d
            out["pos"][b, at:end] = ramp[:length]
            at = end
    return out


def of_items(
    pieces: Sequence[Sequence[Piece]],
    items: Sequence[Item],
    *,
    row: int,
    pad_id: int,
    frame: tuple[int, int] | None = None,
) -> dict[str, np.ndarray]:
    """`rows` of items in memory, with the columns that a `Dataset` of them has.

    Whole numbers become int64, and a number of an item stands at each of its tokens.

    Args:
        pieces: for each row its pieces; `document` is an index into `items`.
        frame: tokens at the start and at the end of an item that each piece of it keeps; None: none.

    Example:
        >>> item = {"tokens": np.arange(5, 8), "label": 1}
        >>> of_items([[(0, 0, 3)]], [item], row=4, pad_id=0)["label"].tolist()
        [[1, 1, 1, 0]]
    """
    kinds = {name: np.asarray(value) for name, value in items[0].items()} if items else {}
    columns = {n: _kind(k) for n, k in kinds.items() if n != "tokens"}

    def fetch(document: int, start: int, length: int) -> dict[str, np.ndarray]:
        out = {}
        for name in ("tokens", *columns):
            value = np.asarray(items[document][name])
            part = value[start : start + length] if value.ndim else np.full(length, value)
            if frame and value.ndim:
                first, last = frame
                part = part.copy()
                part[:first], part[length - last :] = value[:first], value[len(value) - last :]
            out[name] = part
        return out

    return rows(pieces, fetch, row=row, pad_id=pad_id, columns=columns)


def _kind(value: np.ndarray) -> np.dtype:
    """Of a column: ids are int64; what holds several numbers a position stays, and says how many."""
    if value.ndim == 2:
        return np.dtype((value.dtype, value.shape[1:]))
    return np.dtype(np.int64) if value.dtype.kind in "iu" else value.dtype


def simplify(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Drops `doc` and `pos` where each row is one document without padding: plain attention is then the same.

    Example:
        >>> full = {"tokens": np.ones((2, 4)), "doc": np.zeros((2, 4)), "pos": np.tile(np.arange(4), (2, 1))}
        >>> sorted(simplify(full))
        ['tokens']
    """
    doc = columns.get("doc")
    if doc is None or doc.any():
        return dict(columns)
    return {name: value for name, value in columns.items() if name not in ("doc", "pos")}
