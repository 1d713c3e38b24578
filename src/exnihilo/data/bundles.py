"""Sources of pictures that stand inside one file: a .tar archive, an idx file of MNIST's kind.

    find(Path("cifar10/"))          # the .tar or idx file that a folder holds, where it holds nothing else
    open_bundle(config, data, want, "picture", Path("train-images-idx3-ubyte.gz"))

An archive is like the folder it was made of: the label is the folder that a file stands in, or a part of its
name (``data.pattern="train/{label}/{n}"`` also chooses the split), a text stands beside it as .txt. The
labels of an idx file stand in a file of the same name with ``labels-idx1`` for ``images-idx3``.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path, PurePosixPath

from exnihilo.config import DataConfig, SourceConfig
from exnihilo.data import archives, files
from exnihilo.data import cache as cached
from exnihilo.data.base import MEDIA
from exnihilo.data.media import Entry, Folder
from exnihilo.data.sources import Source, Want
from exnihilo.errors import DataError


def find(path: Path) -> Path | None:
    """The file of many pictures that a path is, or that is all a folder has; None where it is something else.

    Raises:
        DataError: a folder has several.
    """
    if path.is_file():
        return path if archives.is_tar(path) or archives.is_idx(path) else None
    if not path.is_dir():
        return None
    found = sorted(p for p in path.iterdir() if archives.is_tar(p) or archives.dimensions(p) >= 3)
    if not found or any(p.suffix.lower() in MEDIA["picture"] for p in files.walk(path)):
        return None
    if len(found) > 1:
        raise DataError(
            f"{path} has {len(found)} files of many pictures: {', '.join(p.name for p in found[:5])}",
            expected="one of them, so that nothing that is a test is learnt",
            next=f"data={found[0]}, and val= another",
        )
    return found[0]


def open_bundle(config: SourceConfig, data: DataConfig, want: Want, role: str, path: Path) -> Source:
    """A source of the pictures inside a file.

    Raises:
        DataError: it cannot be read, holds no pictures, or tells nothing of a role that is needed.
    """
    kind = Numbers if archives.is_idx(path) else Archive
    return kind(config.model_copy(update={"path": str(path)}), data, want, role)


class Archive(Folder):
    """The pictures of a .tar."""

    def _entries(self) -> tuple[list[Entry], dict[str, int]]:
        self.file = Path(self.path).expanduser()
        everything = archives.members(self.file)
        self.members = {name for name, _ in everything}
        where = str(self.file.absolute())
        kept, others, hidden = [], 0, 0
        for name, size in sorted(everything):
            path = PurePosixPath(name)
            if any(part.startswith(".") and part not in (".", "..") for part in path.parts):
                hidden += 1
            elif path.suffix.lower() in MEDIA[self.role]:
                kept.append(Entry(f"{where}{archives.MARK}{name}", name.removeprefix("./"), size))
            elif path.suffix.lower() != ".txt":
                others += 1
        if not kept:
            raise DataError(
                f"{self.path} has no file of a {self.role} among {len(everything):,}",
                expected=" ".join(sorted(MEDIA[self.role])),
                next="check data=PATH",
            )
        skipped = {f"that are no {self.role}s": others, "hidden": hidden}
        return kept, {reason: count for reason, count in skipped.items() if count}

    def _member(self, file: int) -> str:
        return self.entries[file].path.partition(archives.MARK)[2]

    def _beside_member(self, file: int) -> str:
        return PurePosixPath(self._member(file)).with_suffix(".txt").as_posix()

    def _has_text(self, file: int) -> bool:
        return self._beside_member(file) in self.members

    def _text(self, file: int) -> str | None:
        if not self._has_text(file):
            return None
        return archives.member(self.file, self._beside_member(file)).decode(self.config.encoding, "replace")

    def _content(self, file: int) -> str:
        return hashlib.blake2b(archives.member(self.file, self._member(file)), digest_size=16).hexdigest()

    def content(self, cache: Path, workers: int) -> object:
        whole = cached.hash_files([self.file], cache, os.path.abspath(self.path), workers)
        return [whole, list(self.names), self.known[0], self._group, self.config.pattern]


class Numbers(Folder):
    """The pictures of an idx file, by their number, with the labels beside them."""

    def _entries(self) -> tuple[list[Entry], dict[str, int]]:
        self.file = Path(self.path).expanduser()
        self.held = archives.idx(self.file)
        if self.held.ndim not in (3, 4):
            raise DataError(
                f"{self.path} holds {'×'.join(map(str, self.held.shape))} numbers",
                expected="pictures: count × rows × columns",
                next="data= the file of images, not that of labels",
            )
        self.labels = _labels_of(self.file)
        names = [] if self.labels is None else archives.idx(self.labels).reshape(-1).astype(str).tolist()
        if self.labels is not None and len(names) != len(self.held):
            raise DataError(
                f"{self.labels} has {len(names):,} labels, {self.file.name} {len(self.held):,} pictures",
                expected="as many",
                next="take the files that belong together",
            )
        where, size = str(self.file.absolute()), int(self.held[0].size) if len(self.held) else 0
        known = [{"label": name} for name in names] or [{}] * len(self.held)
        made = [Entry(f"{where}{archives.MARK}{n}", str(n), size, known[n]) for n in range(len(self.held))]
        if not made:
            raise DataError(f"{self.path} has no pictures", expected="at least one", next="check data=PATH")
        return made, {}

    def _how(self, role: str) -> str:
        return f"{_labels_name(self.file)} beside it" if role == "label" else "files in a folder"

    def _has_text(self, file: int) -> bool:
        return False

    def _content(self, file: int) -> str:
        return hashlib.blake2b(self.held[int(self.names[file])].tobytes(), digest_size=16).hexdigest()

    def content(self, cache: Path, workers: int) -> object:
        these = [self.file, *([self.labels] if self.labels else [])]
        whole = cached.hash_files(these, cache, os.path.abspath(self.path), workers)
        return [whole, self._group, self.config.pattern]


def _labels_name(path: Path) -> str:
    """train-images-idx3-ubyte.gz -> train-labels-idx1-ubyte.gz."""
    name = path.name.replace("images", "labels")
    for number in ("idx3", "idx4"):
        name = name.replace(number, "idx1")
    return name


def _labels_of(path: Path) -> Path | None:
    """The file of labels beside one of pictures, packed or not."""
    name = _labels_name(path)
    plain = name.removesuffix(".gz")
    candidates = (path.with_name(n) for n in (name, plain, plain + ".gz") if n != path.name)
    return next((p for p in candidates if p.is_file()), None)
