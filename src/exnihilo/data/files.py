"""Which files a path stands for, in which order, and how each is read.

    found = find("books/")          # Files: root, paths, names, skipped, code

A folder or a glob is listed in the order of the files' relative paths, so that the same files give the same
order on every machine. Hidden files and folders are left out. What cannot be text is skipped and counted by
its reason; a file that was named alone is refused instead.

A folder is *source code* where files of code outnumber files of records: then every text file in it is read
as plain text, .json too. Beside files of records, a README, a licence and the like are no documents.

A folder is *plain texts* where they outnumber the files of records and are larger: a list of contents, a
licence or a note on the source beside them are no documents. What is left out so can be named:
``data.sources=[books/, books/INDEX.tsv]``.
"""

from __future__ import annotations

import codecs
import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from exnihilo.data import tables
from exnihilo.data.text import binary, blocks, is_binary, plain_suffix
from exnihilo.errors import DataError, nearest

CODE = frozenset(
    """
    .py .pyi .js .jsx .mjs .ts .tsx .c .h .cc .cpp .cxx .hpp .hh .cs .java .kt .scala .go .rs .rb
    .php .swift .m .mm .r .jl .lua .pl .pm .sh .bash .zsh .ps1 .bat .sql .hs .ml .mli .ex .exs .erl
    .clj .lisp .el .scm .f90 .f .pas .vb .dart .zig .nim .v .vhd .sv .asm .s .cu .glsl .hlsl .css
    .scss .vue .svelte .cmake .gradle .proto .tf
    """.split()
)
_FOLDERS = {"__pycache__", "node_modules"}
_NOTES = ("readme", "license", "licence", "notice", "changelog", "contributing", "citation", "dataset_infos")
_STEMS = frozenset({"source", "sources", "license", "licence", "copying", "notice", "sha256sums"})
_SNIFF = 64 << 10

TABLES = "tables beside the texts (read where they are named)"
NOTES = "notes beside the data"


@dataclass(frozen=True)
class Files:
    """The files of one source.

    Attributes:
        paths: in order.
        names: the same, relative to the folder (or the plain name).
        skipped: reason -> count of files that were left out.
        code: the folder is read as source code: every file as plain text.
    """

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    skipped: dict[str, int] = field(default_factory=dict)
    code: bool = False

    def is_table(self, path: Path) -> bool:
        """Whether the file is read as records rather than as plain text."""
        return not self.code and plain_suffix(path) in tables.SUFFIXES


def find(path: str, *, encoding: str = "utf-8", texts: bool = True) -> Files:
    """The files that a file, folder or glob stands for.

    Args:
        texts: documents are wanted, so that a folder may be one of plain texts; False: records are.

    Raises:
        DataError: there is none, or none of use; the message says what was found instead.
    """
    root = Path(path).expanduser()
    if root.is_file():
        return _single(root, encoding)
    if root.is_dir():
        return _choose(path, [(p, p.relative_to(root).as_posix()) for p in walk(root)], encoding, texts)
    if glob.has_magic(path):
        hits = [Path(p) for p in glob.glob(str(root), recursive=True)]
        files = {p for h in hits for p in ([h] if h.is_file() else walk(h) if h.is_dir() else [])}
        if not files:
            raise DataError(
                f"nothing matches {path}", expected="a glob that matches files", next="check data=GLOB"
            )
        base = Path(os.path.commonpath([p.parent for p in files]))
        return _choose(path, [(p, p.relative_to(base).as_posix()) for p in files], encoding, texts)
    if root.exists():
        raise DataError(
            f"{path} is neither a file nor a folder", expected="a file, folder or glob", next="data=PATH"
        )
    hint = ""
    if root.parent.is_dir() and (near := [p.name for p in root.parent.iterdir()]):
        hint = nearest(root.name, near)
        hint = f"; {hint}" if hint.startswith("did") else ""
    raise DataError(
        f"no such file or folder: {path}{hint}",
        expected="a file, folder or glob, - (standard input), world, or hub:owner/name",
        next="check data=PATH",
    )


def walk(root: Path) -> Iterator[Path]:
    """The files below a folder; hidden ones are left out."""
    for folder, folders, names in os.walk(root):
        folders[:] = [f for f in folders if not f.startswith(".") and f not in _FOLDERS]
        yield from (Path(folder, n) for n in names if not n.startswith("."))


def _single(path: Path, encoding: str) -> Files:
    try:
        if path.stat().st_size == 0:
            raise DataError(
                f"{path} is empty (0 bytes)", expected="a file with text in it", next="check data=PATH"
            )
        if plain_suffix(path) != ".parquet" and _reason(path, encoding, strict=False):
            raise binary(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", next="check its permissions") from error
    return Files((path,), (path.name,))


def _choose(given: str, found: list[tuple[Path, str]], encoding: str, texts: bool) -> Files:
    found = sorted(found, key=lambda pair: pair[1])
    if not found:
        raise DataError(
            f"{given} is an empty folder", expected="a folder with files of text", next="check data=PATH"
        )
    code_files = sum(plain_suffix(p) in CODE for p, _ in found)
    table_files = sum(plain_suffix(p) in tables.SUFFIXES for p, _ in found)
    code = code_files > table_files
    beside = set() if code or not texts else _beside([path for path, _ in found])
    paths, names, skipped = [], [], Counter[str]()
    for path, name in found:
        table = not code and plain_suffix(path) in tables.SUFFIXES
        if path in beside:
            skipped[TABLES if table else NOTES] += 1
            continue
        note = path.name.lower().startswith(_NOTES) or _is_note(path)
        if table_files and not code and not table and note:
            skipped[NOTES] += 1
            continue
        try:
            if path.stat().st_size == 0:
                skipped["empty"] += 1
                continue
            reason = "" if table else _reason(path, encoding, strict=code)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}", next="check its permissions") from error
        if reason:
            skipped[reason] += 1
            continue
        paths.append(path)
        names.append(name)
    if not paths:
        what = ", ".join(f"{n} {reason}" for reason, n in sorted(skipped.items()))
        raise DataError(
            f"{given} has no file of text: {what}",
            expected=".txt .md .jsonl .json .csv .tsv .parquet (plain, .gz, .zst), or source code",
            next="check data=PATH",
        )
    return Files(tuple(paths), tuple(names), dict(sorted(skipped.items())), code)


def _is_note(path: Path) -> bool:
    """SOURCE.txt, LICENSE: about the data, not of it."""
    return path.suffix.lower() in ("", ".txt") and path.stem.lower() in _STEMS


def _beside(found: list[Path]) -> set[Path]:
    """The tables and notes of a folder of plain texts; none where it is something else."""
    records = {p for p in found if plain_suffix(p) in tables.SUFFIXES}
    notes = {p for p in found if _is_note(p)}
    documents = [p for p in found if p not in records and p not in notes]

    def size(paths: Iterable[Path]) -> int:
        return sum(p.stat().st_size for p in paths if p.is_file())

    if len(documents) <= len(records) or size(documents) <= size(records):
        return set()
    return records | notes


def _reason(path: Path, encoding: str, *, strict: bool) -> str:
    """Why a file is not to be read as text; empty where it is. `strict`: it must be in the encoding."""
    try:
        head = next(blocks(path, _SNIFF), b"")[:_SNIFF]
    except DataError:
        return ""  # a broken archive is an error when it is read, not a reason to leave it out in silence
    if is_binary(head[:8192], encoding):
        return "binary"
    if strict:
        try:
            codecs.getincrementaldecoder(encoding)().decode(head)
        except UnicodeDecodeError:
            return f"not {encoding}"
    return ""
