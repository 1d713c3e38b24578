"""The world's examples as files: pictures as PNG, sounds as WAV, the rest as lines of JSON.

    written = write("scenes", Path("scenes"), count=200)    # scenes.jsonl, pictures/, sounds/
    # then: exnihilo train media_qa data=scenes/scenes.jsonl

What is written is what the view gives (`views`), with paths in the place of names, relative to the folder,
and what it keeps on one side of a split as ``group``. The same numbers give the same bytes. Without optional
packages: both formats need nothing but zlib.

Formats: PNG (ISO/IEC 15948), RIFF WAVE.
"""

from __future__ import annotations

import io
import json
import struct
import wave
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from exnihilo.errors import ExNihiloError, UsageError, nearest

from .pictures import render as draw
from .sounds import render as play
from .views import VIEWS
from .world import World


def write(
    view: str,
    out: str | Path,
    *,
    count: int = 200,
    start: int = 0,
    kind: str | None = None,
    size: int = 64,
    rate: int = 16_000,
    force: bool = False,
    told: Callable[[int], None] = lambda rows: None,
) -> dict[str, int]:
    """Writes the examples of some documents.

    Args:
        view: one of `views.VIEWS`.
        out: the folder; files in it are left alone.
        count, start: which documents: start .. start + count - 1.
        kind: of a view that has kinds, one of them.
        size: pixels of a picture's side. rate: samples of a sound a second.
        force: write over the view's table.
        told: called with the rows that are written, after each.

    Returns:
        {"rows", "pictures", "sounds"}.

    Raises:
        UsageError: no such view or kind, a count below 1, a table that is there already.
        ExNihiloError: the folder cannot be written.

    Example:
        >>> write("scenes", "scenes", count=20)     # doctest: +SKIP
        {'rows': 20, 'pictures': 14, 'sounds': 11}
    """
    folder, made = Path(out), _examples(view, kind, start, count)
    if not 8 <= size <= 4096 or not 1000 <= rate <= 192_000:
        raise UsageError(
            f"size={size}, rate={rate}", expected="8 to 4096 pixels, 1000 to 192000 samples a second"
        )
    table = folder / f"{view}.jsonl"
    if table.exists() and not force:
        raise UsageError(f"{table} exists", expected="a new folder", next="--force writes over it")
    found = {"rows": 0, "pictures": 0, "sounds": 0}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with table.open("w", encoding="utf-8", newline="\n") as file:
            for number, values in enumerate(made, start):
                row = dict(values)
                for role, bytes_ in (("picture", lambda n: png(draw(n, size))),
                                     ("sound", lambda n: wav(play(n, rate), rate))):  # fmt: skip
                    if role in row:
                        suffix = "png" if role == "picture" else "wav"
                        path = Path(f"{role}s") / f"{number:06}.{suffix}"
                        (folder / path.parent).mkdir(exist_ok=True)
                        (folder / path).write_bytes(bytes_(row[role]))
                        row[role] = path.as_posix()
                        found[f"{role}s"] += 1
                if "_group" in row:
                    row["group"] = row.pop("_group")
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                found["rows"] += 1
                told(found["rows"])
    except OSError as error:
        raise ExNihiloError(f"{folder} cannot be written: {error.strerror or error}") from error
    return found


def _examples(view: str, kind: str | None, start: int, count: int) -> Iterator[dict[str, Any]]:
    if view not in VIEWS:
        raise UsageError(
            f"the world has no view {view!r}", expected=nearest(view, VIEWS), next="exnihilo world --help"
        )
    if kind is not None and kind not in VIEWS[view].kinds:
        kinds = ", ".join(VIEWS[view].kinds) or "none"
        raise UsageError(f"the view {view} has no kind {kind!r}", expected=f"one of its kinds: {kinds}")
    if count < 1 or start < 0:
        raise UsageError(f"count={count}, start={start}", expected="count >= 1, start >= 0")
    chosen = VIEWS[view].of(kind) if kind is not None else VIEWS[view]
    return (values for doc in chosen.documents(World(0), count, start) for values in chosen.make(doc))


def png(pixels: np.ndarray) -> bytes:
    """A picture file of uint8 pixels (H, W, 3), red green blue; lossless.

    >>> png(np.zeros((2, 3, 3), np.uint8))[:4]
    b'\\x89PNG'
    """
    height, width, _ = pixels.shape
    lines = np.zeros((height, 1 + 3 * width), np.uint8)  # each begins with its filter: 0, none
    lines[:, 1:] = pixels.reshape(height, -1)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def wav(samples: np.ndarray, rate: int) -> bytes:
    """A sound file of float samples, full scale at 1: one channel, 16 bits."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2").tobytes())
    return out.getvalue()
