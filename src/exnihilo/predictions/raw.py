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
    """The prompt of a run: of bytes or ids, the end of what a file of that name holds, as much of it as fills
    half of the model's positions; else as it is.

    Raises:
        DataError: an array that is none, or not of whole numbers in one dimension.
    """
    codec = _codec_of(run)
    if codec is None:
        return given
    held = _held(codec, given)
    if held is None:
        return given.rstrip() + " " if given.strip() and isinstance(codec, Ids) else given
    tail = held[-_room(run) :]
    if isinstance(codec, Bytes):
        return codec.raw(tail).decode("utf-8", "surrogateescape")
    return "".join(f"{i} " for i in tail)  # ids that follow are written behind a space


def write(run: str | Path, generations: Sequence[Generation], out: str | Path, given: str = "") -> list[str]:
    """Writes prompt and continuation of each: bytes as they are, ids as a .npy file.

    Args:
        given: the prompt as the user gave it: of a file all is written, not its end alone.

    Raises:
        UsageError: ids, and `out` does not end in .npy.
        DataError: the file cannot be written.
    """
    codec, path = _codec_of(run), Path(out)
    if codec is None:
        raise UsageError(f"{run} is no run of bytes or ids", expected="codec.kind=bytes or ids")
    if isinstance(codec, Ids) and path.suffix.lower() != ".npy":
        raise UsageError(f"out={out}", expected="a name that ends in .npy", next=f"out={path.stem}.npy")
    before = _held(codec, given)
    several = len(generations) > 1
    found = [path.with_stem(f"{path.stem}-{i}") if several else path for i in range(1, len(generations) + 1)]
    for made, to in zip(generations, found, strict=True):
        whole = (*(made.prompt_ids if before is None else before), *made.ids)
        ids = [i for i in whole if i not in codec.special_ids]
        try:
            if isinstance(codec, Bytes):
                to.write_bytes(codec.raw(ids))
            else:
                np.save(to, np.asarray(ids, np.uint16 if codec.vocab_size <= 1 << 16 else np.int32))
        except OSError as error:
            raise DataError(f"{to} cannot be written: {error.strerror or error}") from error
    return [str(to) for to in found]


def _codec_of(run: str | Path) -> Bytes | Ids | None:
    if not kind_of(run):
        return None
    codec = codecs.load(folder_of(run))
    return codec if isinstance(codec, (Bytes, Ids)) else None


def _held(codec: Bytes | Ids, given: str) -> list[int] | None:
    """The ids of the file that a prompt names; None where it names none."""
    path = Path(given)
    try:
        if not given or not path.is_file():
            return None
        if isinstance(codec, Bytes):
            return codec.encode(path.read_bytes().decode("utf-8", "surrogateescape"))
        if path.suffix.lower() != ".npy":
            return codec.encode(path.read_text(encoding="utf-8"))
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        if "\0" in given or len(given) > 255:  # a text, not a name
            return None
        raise DataError(f"{path} cannot be read: {error}", expected="a file of bytes or ids") from error
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise DataError(
            f"{path} holds {array.dtype} in {array.ndim} dimensions", expected="whole numbers in one"
        )
    return codec.encode(" ".join(map(str, array.tolist())))


def _room(run: str | Path) -> int:
    """Half of a run's positions, at least one."""
    try:
        known = json.loads((folder_of(run) / "config.json").read_text(encoding="utf-8"))
        context = int(known.get("max_position_embeddings") or known.get("n_positions") or 64)
    except (OSError, ValueError, TypeError):
        context = 64
    return max(1, context // 2)
