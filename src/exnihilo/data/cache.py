"""The cache: a folder keyed by content, where any number of processes may write at the same time.

    root = folder(None)                      # $EXNIHILO_CACHE, else ~/.cache/exnihilo
    with building(root / "prepared", key) as fresh:     # None: somebody has built it already
        if fresh: write files into fresh     # renamed to root/prepared/key when the block ends well

A folder appears under its final name only when it is complete (write aside, fsync, rename), so a killed
process leaves nothing half-written behind. A lock makes a second process wait for the first instead of doing
the work twice; where locks are missing both do the work, and the first to finish wins.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

from exnihilo.errors import DataError

try:
    import fcntl
except ImportError:  # a system without flock
    fcntl = None

_STALE_SECONDS = 86_400.0
_RACY_NS = 2_000_000_000
_NO_SPACE = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def folder(cache: Path | str | None) -> Path:
    """The cache's folder, made if it is not there.

    Raises:
        DataError: it cannot be written.
    """
    path = Path(cache or os.environ.get("EXNIHILO_CACHE") or Path.home() / ".cache" / "exnihilo").expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        write_failed(error, path)
    return path


def write_failed(error: OSError, path: Path) -> NoReturn:
    """Says what a failed write means: a full disk, or a folder that cannot be written."""
    if error.errno in _NO_SPACE:
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(existing(path)).free
            raise DataError(
                f"no space left while writing {path} ({free / 1e6:.0f} MB free): {error.strerror}",
                expected="room for about as many bytes as the corpus has",
                next="free some space, or set EXNIHILO_CACHE to a folder on a larger disk",
            ) from error
    raise DataError(
        f"cannot write the cache {path}: {error.strerror or error}",
        expected="a folder that can be written",
        next="set EXNIHILO_CACHE to a folder of yours",
    ) from error


def existing(path: Path) -> Path:
    """The path itself or its nearest parent that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def digest(*parts: Any) -> str:
    """Hash (hex, 32 digits) of JSON-able values: the key of what was made from them."""
    body = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(body.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def sync(path: Path) -> None:
    """fsync of a file or a folder."""
    flag = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) if path.is_dir() else os.O_RDONLY
    try:
        handle = os.open(path, flag)
    except OSError:
        if path.is_dir():  # folders cannot be opened on some systems
            return
        raise
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """A JSON file, whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        write_failed(error, path)


def read_json(path: Path) -> Any | None:
    """What a JSON file holds; None where there is none or it is not JSON (a memory to be made anew)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def building(parent: Path, key: str) -> Iterator[Path | None]:
    """A private folder that becomes ``parent/key`` when the block ends without an error.

    Yields None when ``parent/key`` is there: already, or since another process finished it while this one
    waited.
    """
    target = parent / key
    if target.is_dir():
        yield None
        return
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(parent)
        lock = _locked(parent / f"{key}.lock")
    except OSError as error:
        write_failed(error, parent)
    with lock:
        if target.is_dir():
            yield None
            return
        aside = parent / f".tmp-{key}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        try:
            aside.mkdir()
            yield aside
            _publish(aside, target)
        except OSError as error:
            if error.filename is not None and not str(error.filename).startswith(str(parent)):
                raise  # not ours: reading a source failed
            write_failed(error, target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _publish(aside: Path, target: Path) -> None:
    for path in sorted(aside.rglob("*"), reverse=True):
        sync(path)
    sync(aside)
    try:
        os.rename(aside, target)
    except OSError as error:
        if not target.is_dir():  # else: another process was first, with the same content
            raise error
    sync(target.parent)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    with open(path, "a") as handle:
        with contextlib.suppress(OSError):  # file systems without locks: both do the work
            fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _sweep(parent: Path) -> None:
    """Removes what killed processes left behind a day ago or earlier."""
    for path in (*parent.glob(".tmp-*"), *parent.glob("*.lock")):
        with contextlib.suppress(OSError):
            # a folder's own time stands still while its files grow
            last = max(p.stat().st_mtime for p in (path, *(path.glob("*") if path.is_dir() else ())))
            if time.time() - last > _STALE_SECONDS:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()


def hash_files(paths: Iterable[Path], cache: Path, memory: str, workers: int) -> list[str]:
    """SHA-256 of each file's bytes, remembered by (path, size, mtime, inode) so that it is computed once.

    A file that was changed within the last two seconds is not remembered: its time stamp could hide a change.
    """
    paths = list(paths)
    store = cache / "hashes" / f"{digest(memory)}.json"
    known = read_json(store)
    known = known if isinstance(known, dict) else {}
    fresh: dict[str, list[Any]] = {}

    def one(path: Path) -> str:
        stat = os.stat(path)
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        row = known.get(str(path))
        if isinstance(row, list) and row[:3] == stamp and len(row) == 4:
            fresh[str(path)] = row
            return str(row[3])
        began = time.time_ns()
        with open(path, "rb") as file:
            value = hashlib.file_digest(file, "sha256").hexdigest()
        after = os.stat(path)
        if [after.st_size, after.st_mtime_ns, after.st_ino] == stamp and began - stat.st_mtime_ns > _RACY_NS:
            fresh[str(path)] = [*stamp, value]
        return value

    try:
        with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
            hashes = list(pool.map(one, paths))
    except OSError as error:
        raise DataError(
            f"cannot read {error.filename}: {error.strerror}",
            expected="a readable file",
            next="check its permissions",
        ) from error
    if fresh != known:
        write_json(store, fresh)
    return hashes


def _suffix(head: bytes) -> str:
    """What a stream is, by its first bytes: records, if its first line is a JSON object; else text."""
    for magic, suffix in ((b"\x1f\x8b", ".txt.gz"), (b"\x28\xb5\x2f\xfd", ".txt.zst"), (b"PAR1", ".parquet")):
        if head.startswith(magic):
            return suffix
    with contextlib.suppress(ValueError):
        if isinstance(json.loads(head.lstrip().split(b"\n")[0]), dict):
            return ".jsonl"
    return ".txt"


def spool(stream: Any, cache: Path) -> Path:
    """Copies standard input into a file named by its content, so that a run can be resumed without it.

    Raises:
        DataError: nothing came.
    """
    parent = cache / "stdin"
    aside = parent / f".tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    hasher, size, head = hashlib.sha256(), 0, b""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "wb") as file:
            while block := stream.read(1 << 20):
                head = head or block
                hasher.update(block)
                size += len(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        target = parent / f"{hasher.hexdigest()[:32]}{_suffix(head)}"
        if size:
            os.replace(aside, target)
            sync(parent)
    except OSError as error:
        write_failed(error, parent)
    finally:
        aside.unlink(missing_ok=True)
    if not size:
        raise DataError("standard input is empty (0 bytes)", expected="text", next="check what is piped in")
    return target
