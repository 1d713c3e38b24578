"""Bad input and bad machines: one clear error each (what, expected, next), and nothing good is lost."""

from __future__ import annotations

import errno
import gzip
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from exnihilo.data import Splits, shards
from exnihilo.data import cache as cached
from exnihilo.errors import DataError, ExNihiloError

Prep = Callable[..., Splits]
WORDS = "".join(f"line {i} of some text to train on\n" for i in range(400))


def refuse(prep: Prep, source: object, *parts: str, **options: object) -> DataError:
    """The error of a preparation; checks that it is complete and names all parts."""
    with pytest.raises(DataError) as caught:
        prep(source, **options)
    error = caught.value
    assert error.given and error.expected and error.next and error.exit_code == 1
    for part in parts:
        assert part in str(error), (part, str(error))
    return error


def left_behind(cache: Path) -> list[str]:
    return [p.name for p in cache.rglob("*") if p.name.startswith(".") or p.name.endswith(".lock")]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.txt"
    path.write_text(WORDS)
    return path


def test_empty_file(prep: Prep, tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    refuse(prep, tmp_path / "a.txt", "a.txt is empty (0 bytes)")
    (tmp_path / "b.txt").write_text(" \n\n \t\n")
    refuse(prep, tmp_path / "b.txt", "b.txt", "no documents")
    refuse(prep, tmp_path / "b.txt", "b.txt", "no documents", val_fraction=0)
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b""))
    refuse(prep, tmp_path / "c.txt.gz", "no documents")
    (tmp_path / "d.jsonl").write_text("\n")
    refuse(prep, tmp_path / "d.jsonl", "d.jsonl has no records")


def test_empty_folder_and_missing_path(prep: Prep, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    refuse(prep, tmp_path / "folder", "is an empty folder")
    (tmp_path / "folder/a.txt").touch()
    refuse(prep, tmp_path / "folder", "1 empty")
    refuse(prep, tmp_path / "foldr", "no such file or folder", "did you mean 'folder'?")
    refuse(prep, f"{tmp_path}/*.nothing", "nothing matches")
    os.mkfifo(tmp_path / "pipe")
    refuse(prep, tmp_path / "pipe", "neither a file nor a folder")


def test_binary(prep: Prep, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 40)
    refuse(prep, tmp_path / "a.bin", "a.bin is binary")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a.wav").write_bytes(b"RIFF\0\0\0\0WAVE")
    refuse(prep, tmp_path / "folder", "1 binary")
    (tmp_path / "folder/a.txt").write_text(WORDS)
    assert prep(tmp_path / "folder").report.sources[0].skipped == {"binary": 1}


def test_wrong_encoding(prep: Prep, tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(WORDS.encode() + "caf\u00e9".encode("latin-1"))
    refuse(prep, path, "a.txt", f"offset {len(WORDS) + 3} ", "data.encoding=latin-1")
    assert not left_behind(cache)
    assert prep(path, encoding="latin-1").train.rows > 0


def test_broken_rows(prep: Prep, tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "some words"}\n' * 500 + '{"text": "cut sh')
    refuse(prep, path, "a.jsonl, line 501", "broken JSON")
    assert not left_behind(cache) and not list((cache / "prepared").glob("*"))


def test_missing_column(prep: Prep, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("title,body\na,b\n" * 1)
    refuse(prep, [{"path": str(path), "fields": {"text": "story"}}], "no column 'story'", "title, body")
    path = tmp_path / "b.jsonl"
    path.write_text('{"n": 1}\n')
    refuse(prep, path, "no column fits the role 'text'; found: n", "fields")


def test_corpora_that_are_too_short(prep: Prep, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a")
    refuse(prep, path, "1 character")
    refuse(prep, path, "3 tokens", "17", "model.context", val_fraction=0)
    path.write_text("abcdefgh")
    refuse(prep, path, "tokens, but a row takes 17", "model.context")
    path.write_text("abcdefgh" * 3)
    splits = prep(path)  # the validation split may be shorter than a row: it is padded, and said
    assert splits.val is not None and splits.val.rows == 1
    assert any("less than one row" in n for n in splits.report.notes)


def test_gzip_cut_short(prep: Prep, tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(os.urandom(1000).hex().encode() * 20)[:-300])
    refuse(prep, path, "a.txt.gz is cut short or altered")
    assert not left_behind(cache)


def test_unwritable_cache(prep: Prep, good: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refuse(prep, good, "cannot write the cache", "EXNIHILO_CACHE", cache=tmp_path / "file" / "cache")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if not os.access(locked, os.W_OK):  # root writes everywhere
        refuse(prep, good, "cannot write the cache", "EXNIHILO_CACHE", cache=locked / "cache")


class _Full:
    """A file on a disk that is full after so many bytes."""

    room = 0

    def __init__(self, file: object) -> None:
        self.file = file

    def write(self, data: bytes) -> int:
        _Full.room -= len(data)
        if _Full.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [0, 100, 5000])
def test_full_disk(
    prep: Prep, good: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    before = prep(good).train
    kept = {p: p.read_bytes() for p in (cache / "prepared").rglob("*") if p.is_file()}
    other = tmp_path / "other.txt"
    other.write_text(WORDS.upper())
    with monkeypatch.context() as patch:
        patch.setattr(shards, "open", lambda *a, **k: _Full(open(*a, **k)), raising=False)
        monkeypatch.setattr(_Full, "room", room)
        refuse(prep, other, "no space left", "MB free", "EXNIHILO_CACHE")
    assert not left_behind(cache)
    assert {p: p.read_bytes() for p in (cache / "prepared").rglob("*") if p.is_file()} == kept
    before.verify()
    assert prep(other).train.rows > 0  # with room again, it goes on


def test_full_disk_for_real(tmp_path: Path) -> None:
    """A limit on file sizes stands for the full disk: the system itself refuses the write."""
    code = textwrap.dedent(
        """
        import resource, sys, numpy as np
        from pathlib import Path
        from exnihilo.config import DataConfig
        from exnihilo.data import prepare
        from exnihilo.errors import DataError
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        def encode(examples): return [[{"tokens": np.arange(len(e["text"])) % 5000}] for e in examples]
        try:
            prepare(DataConfig(sources=sys.argv[1]), None, encode=encode, key="k", context=16, seed=0,
                    cache=Path(sys.argv[2]))
        except DataError as error:
            print(error)
        """
    )
    path = tmp_path / "a.txt"
    path.write_text(WORDS * 10)
    run = [sys.executable, "-c", code, str(path), str(tmp_path / "cache")]
    out = subprocess.run(run, capture_output=True, text=True, timeout=100)
    assert out.stdout.startswith("no space left while writing"), out.stdout + out.stderr
    assert "EXNIHILO_CACHE" in out.stdout and not left_behind(tmp_path / "cache")


def test_killed_while_preparing(tmp_path: Path, prep: Prep) -> None:
    code = textwrap.dedent(
        r"""
        import os, sys, time, numpy as np
        from pathlib import Path
        from exnihilo.config import DataConfig
        from exnihilo.data import prepare, pipeline
        pipeline.BATCH_EXAMPLES = 10
        def encode(examples):
            os.write(1, b"working\n"); time.sleep(0.2)
            return [[{"tokens": np.arange(30)}] for e in examples]
        config = DataConfig(sources=sys.argv[1], unit="line")
        prepare(config, None, encode=encode, key="bytes", context=16, seed=0, cache=Path(sys.argv[2]))
        """
    )
    path, cache = tmp_path / "a.txt", tmp_path / "cache"
    path.write_text(WORDS)
    command = [sys.executable, "-c", code, str(path), str(cache)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        said = [run.stdout.readline() for _ in range(4)]
        run.send_signal(signal.SIGKILL)
    assert said == [b"working\n"] * 4
    assert not [p for p in (cache / "prepared").iterdir() if not p.name.startswith(".") and p.is_dir()]
    splits = prep(path, unit="line")
    splits.train.verify()
    stale = [p for p in (cache / "prepared").iterdir() if p.name.startswith(".tmp")]
    assert stale  # might still be at work, so it is swept only after a day
    old = time.time() - 2 * 86_400
    for p in stale:
        for path_ in (*p.glob("*"), p):
            os.utime(path_, (old, old))
    prep(path, unit="paragraph")
    assert not [p for p in (cache / "prepared").iterdir() if p.name.startswith(".tmp")]


@pytest.mark.parametrize("damage", ["cut", "altered", "manifest", "missing"])
@pytest.mark.parametrize("room", ["prepared", "packs"])
def test_altered_shards(prep: Prep, good: Path, cache: Path, room: str, damage: str) -> None:
    first = prep(good).train
    part = first.parts[0]
    folder = part.store.shard.folder if room == "prepared" else part.pack.folder
    file = folder / ("train.tokens.bin" if room == "prepared" else "length.bin")
    if damage == "manifest":
        file = folder / "manifest.json"
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        os.truncate(file, file.stat().st_size - 1)
    else:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(bytes(data))
    refuse(prep, good, str(file), f"delete the folder {folder}")
    import shutil

    shutil.rmtree(folder)
    assert prep(good).train.hash == first.hash


def test_a_source_that_changes_while_it_is_read(prep: Prep, good: Path, cache: Path) -> None:
    from exnihilo.data.base import Example, Item

    def encode(examples: list[Example]) -> list[list[Item]]:
        import numpy as np

        good.write_text(WORDS + "more\n")
        return [[{"tokens": np.arange(50)}] for _ in examples]

    refuse(prep, good, "changed while it was read", encode=encode, val_fraction=0)
    assert not left_behind(cache) and not list((cache / "prepared").glob("*"))


def test_a_file_that_cannot_be_read(prep: Prep, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good.chmod(0)
    if not os.access(good, os.R_OK):
        refuse(prep, good, "cannot read")
    good.chmod(0o600)
    real = open

    def fails(path: object, *args: object, **options: object) -> object:
        if str(path) == str(good):
            raise PermissionError(errno.EACCES, "Permission denied", str(good))
        return real(path, *args, **options)  # type: ignore[call-overload]

    from exnihilo.data import text

    monkeypatch.setattr(text, "open", fails, raising=False)
    refuse(prep, good, "cannot read", "good.txt")


def test_hashes_are_remembered_and_forgotten_when_a_file_changes(good: Path, cache: Path) -> None:
    root = cached.folder(cache)
    old = time.time_ns() - 10 * 10**9
    os.utime(good, ns=(old, old))
    first = cached.hash_files([good], root, "m", 1)
    stored = cached.read_json(next((root / "hashes").iterdir()))
    assert stored is not None
    assert stored[str(good)][3] == first[0]
    forged = {str(good): [*stored[str(good)][:3], "f" * 64]}
    cached.write_json(next((root / "hashes").iterdir()), forged)
    assert cached.hash_files([good], root, "m", 1) == ["f" * 64]  # the memory is used ...
    good.write_text(WORDS + "!")
    assert cached.hash_files([good], root, "m", 1) not in (["f" * 64], first)  # ... until the file is another
    assert cached.hash_files([good], root, "m", 1)[0] != "f" * 64
    # a file written a moment ago is not remembered: its time stamp could hide a change
    assert str(good) not in (cached.read_json(next((root / "hashes").iterdir())) or {})


def test_damaged_memories_are_made_anew(prep: Prep, good: Path, cache: Path) -> None:
    first = prep(good)
    for room in ("hashes", "splits", "leaks"):
        for path in (cache / room).glob("*.json"):
            path.write_text("{")
    again = prep(good)
    assert again.train.hash == first.train.hash and again.report.sources[0].cached
    assert issubclass(DataError, ExNihiloError)
