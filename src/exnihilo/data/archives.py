"""Files that hold many pictures: .tar archives, and the idx files of MNIST. Read where they lie.

    for name, size in members(Path("cifar.tar")): ...      # ("train/cat/1.jpg", 1204)
    body = member(Path("cifar.tar"), "train/cat/1.jpg")    # its bytes
    pixels = idx(Path("train-images-idx3-ubyte.gz"))       # uint8 (60000, 28, 28)

A picture inside such a file is named ``FILE::MEMBER``: ``cifar.tar::train/cat/1.jpg``, and by its number
``train-images-idx3-ubyte.gz::17``. Nothing is ever unpacked to disk, and a member's name is a name and no
path: ``../x`` reaches nothing. Links, devices and the like are no members.

Sources: POSIX.1-2001, *pax Interchange Format*; LeCun, Cortes & Burges, *The MNIST database* (the idx
format).
"""

from __future__ import annotations

import gzip
import re
import struct
import tarfile
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np

from exnihilo.errors import DataError

MARK = "::"
_IDX = re.compile(r"[-.]idx(\d)-ubyte(\.gz)?$", re.IGNORECASE)
MOST_BYTES = 2 << 30
"""Of one idx file, unpacked."""
MOST_MEMBER = 1 << 30
"""Of one member of an archive."""


def is_tar(path: Path) -> bool:
    """Whether a name is that of an archive that is read here."""
    return path.suffix.lower() == ".tar"


def is_idx(path: Path) -> bool:
    """Whether a name is that of an idx file.

    >>> is_idx(Path("train-images-idx3-ubyte.gz")), is_idx(Path("idx.txt"))
    (True, False)
    """
    return _IDX.search(path.name) is not None


def dimensions(path: Path) -> int:
    """How many dimensions the name of an idx file says: 3 of pictures, 1 of labels."""
    found = _IDX.search(path.name)
    return int(found[1]) if found else 0


def parted(name: str) -> tuple[Path, str] | None:
    """``FILE::MEMBER`` as its two parts; None of a plain path.

    >>> parted("a.tar::b/1.png")
    (PosixPath('a.tar'), 'b/1.png')
    """
    file, mark, inside = name.partition(MARK)
    if not mark or not inside:
        return None
    path = Path(file)
    return (path, inside) if is_tar(path) or is_idx(path) else None


def members(path: Path) -> list[tuple[str, int]]:
    """The plain files of an archive in their order: (name, bytes).

    Raises:
        DataError: it cannot be read, or is cut short.
    """
    return [(name, size) for name, (_, size) in _places(path).items()]


def member(path: Path, name: str) -> bytes:
    """The bytes of one file of an archive.

    Raises:
        DataError: there is none of that name, or it is cut short.
    """
    found = _places(path).get(name)
    if found is None:
        raise DataError(f"{path} has no file {name!r}", expected="the name of a plain file in it")
    at, size = found
    if size > MOST_MEMBER:
        raise DataError(f"{path}, {name}: {size:,} bytes", expected=f"at most {MOST_MEMBER:,}")
    with path.open("rb") as file:
        file.seek(at)
        body = file.read(size)
    if len(body) < size:
        raise DataError(f"{path}, {name} is cut short", expected="a whole archive", next="copy it again")
    return body


def _places(path: Path) -> dict[str, tuple[int, int]]:
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", next="check the path") from error
    return _listed(str(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=8)
def _listed(path: str, size: int, when: int) -> dict[str, tuple[int, int]]:
    """Name -> (where its bytes begin, how many). Of two files of one name the last counts, as tar unpacks."""
    del size, when  # with them a changed file is read again
    try:
        with tarfile.open(path, "r:") as archive:  # "r:": no compression, so that each file has its place
            # a sparse file's bytes are not its content
            plain = (m for m in archive if m.isreg() and not m.issparse())
            return {m.name: (m.offset_data, m.size) for m in plain}
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        raise DataError(
            f"{path} cannot be read as an archive: {error}",
            expected="a whole, uncompressed .tar",
            next="copy it again; gunzip a .tar.gz first",
        ) from error


def idx(path: Path) -> np.ndarray:
    """What an idx file holds, uint8, read-only; kept in memory while few others are asked for.

    Raises:
        DataError: it is none, holds something else than bytes, or is cut short.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", next="check the path") from error
    return _held(str(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4)
def _held(path: str, size: int, when: int) -> np.ndarray:
    del size, when
    opened = gzip.open if path.lower().endswith(".gz") else open
    try:
        with opened(path, "rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] != 8 or not 1 <= head[3] <= 4:
                raise _bad(path, "its first four bytes are not those of an idx file of bytes")
            sizes = file.read(4 * head[3])
            if len(sizes) < 4 * head[3]:
                raise _bad(path, "it ends in its header")
            shape = struct.unpack(f">{head[3]}I", sizes)
            count = 1
            for n in shape:
                count *= n
            if count > MOST_BYTES:
                raise _bad(path, f"its header promises {count:,} bytes, more than {MOST_BYTES:,}")
            body = file.read(count)
    except (OSError, EOFError, zlib.error) as error:
        raise _bad(path, str(error)) from error
    if len(body) < count:
        raise _bad(path, f"it is cut short: {len(body):,} bytes of {count:,}")
    return np.frombuffer(body, np.uint8).reshape(shape)


def _bad(path: str, why: str) -> DataError:
    return DataError(
        f"{path} cannot be read as an idx file: {why}",
        expected="a whole file such as train-images-idx3-ubyte.gz",
        next="copy it again",
    )
