"""Sounds and pictures in requests: data URLs, which are files while the request is answered.

::

    async with files(["data:audio/wav;base64,UklGR..."], "sound", param="input") as given:
        ...                                     # given: [{"sound": "/tmp/.../input-0.wav"}]

A client never names a path: what is no data URL of the right kind is refused.

Reference: RFC 2397 (the data URL scheme)
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import shutil
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exnihilo.serve.errors import ApiError

if TYPE_CHECKING:
    from exnihilo.serve.models import Served

SUFFIXES: dict[str, dict[str, str]] = {
    "sound": {
        "audio/wav": ".wav", "audio/x-wav": ".wav", "audio/wave": ".wav", "audio/flac": ".flac",
        "audio/ogg": ".ogg", "audio/mpeg": ".mp3", "audio/aiff": ".aiff",
    },
    "picture": {
        "image/png": ".png", "image/jpeg": ".jpg", "image/gif": ".gif", "image/bmp": ".bmp",
        "image/webp": ".webp", "image/tiff": ".tiff",
    },
}  # fmt: skip
"""Role -> media types that are taken, with the suffix of such files."""

_HEAD = re.compile(r"data:([\w/+.-]+)((?:;[\w.+-]+=[\w.+-]+)*);base64,", re.ASCII)


def role_of(served: Served) -> str | None:
    """What an encoder reads that is no text: "sound" or "picture"; None: texts."""
    asks = () if served.batcher is None else served.batcher.predictor.inputs
    return next((role for role in SUFFIXES if role in asks), None)


@asynccontextmanager
async def files(urls: Sequence[str], role: str, *, param: str) -> AsyncGenerator[list[dict[str, Any]], None]:
    """Examples whose files are there within the block; of errors that leave it, paths are made names.

    Args:
        urls: data URLs in base64.
        role: of `SUFFIXES`.
        param: where they came from.

    Raises:
        ApiError: 400 with the number of the one that is none, or of another kind.
    """
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="exnihilo-"))
    try:
        yield await asyncio.to_thread(_written, urls, role, folder, param)
    except ApiError as error:
        error.message = error.message.replace(f"{folder}/", "")
        raise
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, True)


def _written(urls: Sequence[str], role: str, folder: Path, param: str) -> list[dict[str, Any]]:
    """One file a URL."""
    out = []
    for number, url in enumerate(urls):
        kinds, where = SUFFIXES[role], f"{param}[{number}]"
        head = _HEAD.match(url)
        if head is None or head[1].lower() not in kinds:
            said = f"of {head[1]}" if head is not None else f"{url[:30]!r}, which is no data URL in base64"
            raise ApiError(
                f"{where}: the model reads {role}s, and this is {said}; expected: data:TYPE;base64,... with "
                f"one of {', '.join(kinds)}",
                param=where,
            )
        try:
            raw = base64.b64decode(url[head.end() :], validate=True)
        except (binascii.Error, ValueError):
            raise ApiError(f"{where} is not base64 behind its comma", param=where) from None
        path = folder / f"{param}-{number}{kinds[head[1].lower()]}"
        path.write_bytes(raw)
        out.append({role: str(path)})
    return out
