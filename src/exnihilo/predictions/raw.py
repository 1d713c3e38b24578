"""What a model of bytes or of ids continues, as a file: the bytes themselves, or an array.

kind = kind_of(run)                                    # "bytes", "ids", or "" of any other model
start = prompt(run, "song.wav")                        # a file to go on with, as the model reads it
write(run, generations, "more.wav")                    # ["more.wav"]; of several more-1.wav, more-2.wav ...
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from exnihilo import codec as codecs
from exnihilo.codec.bytes import Bytes
from exnihilo.codec.ids import Ids
from exnihilo.errors import DataError, UsageError
from exnihilo.infer.generate import Generation

KINDS = ("bytes", "ids")


def folder_of(run: str | Path) -> Path:
    """The run folder of a run, or of one of its checkpoints."""
    path = Path(run)
    return path.parent.parent if path.parent.name == "checkpoints" else path


def kind_of(run: str | Path) -> str:
    """``bytes`` or ``ids`` where the run's tokenizer is of that kind; else nothing."""
    path = folder_of(run) / "tokenizer_config.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # whoever loads the run says what is wrong with it
        return ""
    kind = known.get("exnihilo_kind") if isinstance(known, dict) else None
    return kind if kind in KINDS else ""


def prompt(run: str | Path, given: str) -> str:
    """The prompt of a run: of bytes or ids, what a file of that name holds; else as it is.

    Raises:
        DataError: an array that is none, or not of whole numbers in one dimension.
    """
    kind, path = kind_of(run), Path(given)
    try:
        named = bool(given) and bool(kind) and path.is_file()
    except OSError:  # longer than a name can be
        named = False
    if not named:  # ids that follow are written behind a space
        return given.rstrip() + " " if given.strip() and kind == "ids" else given
    if kind == "bytes":
        return path.read_bytes().decode("utf-8", "surrogateescape")
    if path.suffix.lower() != ".npy":
        return path.read_text(encoding="utf-8").rstrip() + " "
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read as an array: {error}", expected="a .npy file") from error
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise DataError(
            f"{path} holds {array.dtype} in {array.ndim} dimensions", expected="whole numbers in one"
        )
    return "".join(f"{i} " for i in array.tolist())


def write(run: str | Path, generations: Sequence[Generation], out: str | Path) -> list[str]:
    """Writes prompt and continuation of each: bytes as they are, ids as a .npy file.

    Raises:
        UsageError: ids, and `out` does not end in .npy.
        DataError: the file cannot be written.
    """
    codec, path = codecs.load(folder_of(run)), Path(out)
    if isinstance(codec, Ids) and path.suffix.lower() != ".npy":
        raise UsageError(f"out={out}", expected="a name that ends in .npy", next=f"out={path.stem}.npy")
    several = len(generations) > 1
    found = [path.with_stem(f"{path.stem}-{i}") if several else path for i in range(1, len(generations) + 1)]
    for made, to in zip(generations, found, strict=True):
        ids = [i for i in (*made.prompt_ids, *made.ids) if i not in codec.special_ids]
        try:
            if isinstance(codec, Bytes):
                to.write_bytes(codec.raw(ids))
            else:
                np.save(to, np.asarray(ids, np.uint16 if codec.vocab_size <= 1 << 16 else np.int32))
        except OSError as error:
            raise DataError(f"{to} cannot be written: {error.strerror or error}") from error
    return [str(to) for to in found]
