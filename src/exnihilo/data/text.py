"""Bytes -> text -> documents: decompression, strict decoding, and what one document of a plain text file is.

    for begin, end, part in documents(path, encoding="utf-8", unit="auto", separator=None): ...

Everything is streamed: a file of any size takes a few megabytes. Errors name the file and the byte.

A document longer than `SEGMENT` characters comes in parts. The seam is put where the usual pre-tokenizers
(GPT-2's, Llama 3's and Qwen's) begin a new piece anyway: between two lines, the first of which ends and the
second of which begins with a visible character. There the ids of the parts, joined, are the ids of the whole.
Only a stretch of half a megabyte without such a place is cut elsewhere (before a space, else anywhere), which
may cost a token more than encoding the whole.

Line ends are read as Python's text mode reads them: ``\\r\\n`` and ``\\r`` become ``\\n``. A byte order mark
is dropped.
"""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Literal

import zstandard

from exnihilo.data.base import BLOCK, SEGMENT
from exnihilo.errors import ConfigError, DataError, nearest

SEPARATOR = "<|endoftext|>"
Unit = Literal["auto", "file", "paragraph", "line"]
Part = tuple[bool, bool, str]  # first part of its document, last part of it, the text

_SUFFIXES = {".gz", ".zst"}
_SEAM = re.compile(r"(?<=\S)\n(?=\S)")
_ENCODINGS = ("utf-8", "latin-1", "cp1252", "utf-16", "gb18030", "shift_jis", "koi8-r", "ascii")


def plain_suffix(path: Path) -> str:
    """The suffix that tells the format, in lower case: `.jsonl` of `A.JSONL.gz`."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in _SUFFIXES else suffix


def blocks(path: Path, size: int = BLOCK) -> Iterator[bytes]:
    """The bytes of a file, decompressed (`.gz`, `.zst`), in blocks.

    Raises:
        DataError: the file cannot be read, or its compressed data is cut short or altered.
    """
    suffix = path.suffix.lower()
    try:
        with open(path, "rb") as file:
            if suffix == ".gz":
                with gzip.GzipFile(fileobj=file) as unzipped:
                    while block := unzipped.read(size):
                        yield block
            elif suffix == ".zst":
                yield from _zstd(file, path)
            else:
                while block := file.read(size):
                    yield block
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise DataError(
            f"{path} is cut short or altered: {error}",
            expected=f"a complete {suffix} file",
            next="copy or download it again",
        ) from error
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror or error}",
            expected="a readable file",
            next="check the path",
        ) from error


def _zstd(file: io.BufferedReader, path: Path) -> Iterator[bytes]:
    # zstandard's own stream reader takes a cut file for a complete one; `eof` tells.
    frame, fed = zstandard.ZstdDecompressor().decompressobj(), False
    while data := file.read(4096):
        while data:
            if frame.eof:
                frame, fed = zstandard.ZstdDecompressor().decompressobj(), False
            fed = True
            if out := frame.decompress(data):
                yield out
            data = frame.unused_data if frame.eof else b""
    if fed and not frame.eof:
        raise EOFError("the last frame has no end")


def is_binary(head: bytes, encoding: str = "utf-8") -> bool:
    """Whether the first bytes of a file are not text: a NUL, or many control characters."""
    if not head or encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32")):
        return False
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return False  # text in another encoding, which decoding says better
    control = sum(head.count(c) for c in (*range(1, 8), *range(14, 27), *range(28, 32)))
    return b"\0" in head or control > 0.1 * len(head)


def strings(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    """The text of a file in blocks, decoded strictly.

    Raises:
        DataError: a byte that is not in the encoding (names its offset), or a binary file.
        ConfigError: no such encoding.
    """
    try:
        decoder = codecs.getincrementaldecoder(encoding)()
    except LookupError as error:
        raise ConfigError(
            f"unknown data.encoding {encoding!r}",
            expected=nearest(encoding, _ENCODINGS),
            next="data.encoding=utf-8",
        ) from error
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    offset, first = 0, True
    source = blocks(path)
    while True:
        block = next(source, b"")
        if first and is_binary(block[:8192], encoding):
            raise binary(path)
        pending = decoder.getstate()[0]
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise _undecodable(path, encoding, error, offset - len(pending), block) from error
        if not isinstance(text, str):
            raise ConfigError(f"data.encoding {encoding!r} is no text encoding", next="data.encoding=utf-8")
        offset += len(block)
        if first and text:
            text, first = text.removeprefix("\ufeff"), False
        text = newlines.decode(text, final=not block)
        if text:
            yield text
        if not block:
            return


def binary(path: Path) -> DataError:
    """The error for a file that is not text."""
    return DataError(
        f"{path} is binary, not text",
        expected="text, or one of .jsonl .json .csv .tsv .parquet (plain, .gz or .zst)",
        next="convert it to text, or learn its bytes: codec.kind=bytes data.format=bytes",
    )


def _undecodable(path: Path, encoding: str, error: UnicodeDecodeError, base: int, block: bytes) -> DataError:
    byte, at = error.object[error.start], base + error.start
    if base <= 0 and block[:2] in (b"\xff\xfe", b"\xfe\xff"):
        hint = "data.encoding=utf-16 (the file begins with its mark)"
    else:
        hint = "data.encoding=latin-1 (or the encoding the file was written in)"
    return DataError(
        f"{path} is not {encoding}: byte 0x{byte:02x} at offset {at} ({error.reason})",
        expected=f"{encoding} text",
        next=hint,
    )


def documents(path: Path, *, encoding: str, unit: Unit, separator: str | None) -> Iterator[Part]:
    """The documents of a plain text file, in parts of at most `SEGMENT` characters.

    Args:
        unit: ``file``, ``paragraph`` (ended by empty lines), ``line``; ``auto``: the file, or what stands
            between lines ``<|endoftext|>`` where it has such lines.
        separator: a line that ends a document, whatever the unit.

    Yields:
        (whether it begins a document, whether it ends it, text). Empty documents are left out.
    """
    mark = separator or (SEPARATOR if unit == "auto" else None)
    source = strings(path, encoding)
    if mark is None and unit == "file":
        yield from parts((block, False) for block in source)
        return
    line = rf"[ \t]*{re.escape(mark)}[ \t]*\n" if mark else None
    if unit == "line":
        pattern = re.compile(rf"^{line}|\n" if line else r"\n", re.MULTILINE)
    else:
        ends = [e for e in (line, r"[ \t]*\n" if unit == "paragraph" else None) if e]
        pattern = re.compile(rf"^(?:{'|'.join(ends)})", re.MULTILINE)
    yield from parts(_pieces(source, pattern), strip=True)


def _pieces(source: Iterator[str], pattern: re.Pattern[str]) -> Iterator[tuple[str, bool]]:
    """Cuts a stream where complete lines match a pattern: (text, whether a document ends after it)."""
    rest, inside = "", False  # an unfinished line; whether its beginning has been handed on
    for block in chain(source, [""]):
        end = block.rfind("\n") + 1
        if not block:  # the end: as if the last line were complete, so that a separator there is seen
            text, rest = rest + "\n", ""
            found = _cut(text, pattern, inside)
            if len(found) == 1:
                found = [text[:-1]]
        elif end:
            text, rest = rest + block[:end], block[end:]
            found = _cut(text, pattern, inside)
            inside = False
        else:
            rest += block
            if len(rest) <= SEGMENT:
                continue
            found, rest, inside = [rest], "", True
        for piece in found[:-1]:
            yield piece, True
        yield found[-1], False


def _cut(text: str, pattern: re.Pattern[str], inside: bool) -> list[str]:
    if not inside:
        return pattern.split(text)
    found = pattern.split("x" + text)  # the text goes on in the middle of a line: no `^` at its beginning
    return [found[0].removeprefix("x"), *found[1:]]


def parts(source: Iterable[tuple[str, bool]], *, strip: bool = False) -> Iterator[Part]:
    """Blocks, each with whether a document ends after it -> documents in parts, blank ones left out.

    With `strip`, line ends at both ends of a document are dropped, if the file has several documents.
    """
    held, begin, several = "", True, False
    for block, end in chain(source, [("", True)]):
        held = held + block if held else block
        while len(held) > SEGMENT:
            at = seam(held)
            yield begin, False, held[:at]
            held, begin = held[at:], False
        if end:
            several = several or bool(block)
            if strip and several:
                held = held.rstrip("\n") if not begin else held.strip("\n")
            if not begin or (held and not held.isspace()):
                yield begin, True, held
            held, begin = "", True


def seam(text: str) -> int:
    """Where to cut a text of more than `SEGMENT` characters: not above that."""
    half = SEGMENT // 2
    at = -1
    for found in _SEAM.finditer(text, half, SEGMENT):
        at = found.end()
    if at < 0:
        at = text.rfind(" ", half, SEGMENT)
    return at if at > 0 else SEGMENT
