"""Makes codecs: trained from texts, or read from a folder.

Used by the loop, the tokenizer verb and everything that loads a model::

    codec = train(CodecConfig(kind="bpe", vocab_size=4096), texts)
    codec.save(folder)
    assert load(folder).hash == codec.hash
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from exnihilo.codec.base import ROLES, TEMPLATE, Codec, content_hash, cut, scrub
from exnihilo.codec.bpe import Bpe
from exnihilo.codec.bytes import Bytes
from exnihilo.codec.chars import Chars
from exnihilo.codec.ids import Ids
from exnihilo.codec.marks import Marks, Waves
from exnihilo.codec.pretrained import Pretrained, PretrainedBytes, is_byte_level
from exnihilo.codec.wordpiece import WordPiece
from exnihilo.config import CodecConfig
from exnihilo.errors import CodecError, ConfigError, DataError
from exnihilo.log import Progress, Quiet

EVERYTHING = 1 << 62  # bytes: the largest id may be the last
_KINDS: dict[str, type[Codec]] = {
    "bpe": Bpe,
    "bytes": Bytes,
    "chars": Chars,
    "wordpiece": WordPiece,
    "marks": Marks,
    "waves": Waves,
    "ids": Ids,
}


def train(config: CodecConfig, texts: Iterable[str], progress: Progress | None = None) -> Codec:
    """Trains a codec, or reads the one that ``config.path`` names.

    Args:
        config: kind, size, at most how much of the texts is read (`sample_mb`).
        texts: the training split only. The same texts give the same codec.
        progress: what to report to.

    Raises:
        DataError: no text at all.
        ConfigError: a vocabulary that is too small; `lowercase` for a kind that keeps case.

    Example:
        >>> train(CodecConfig(kind="chars"), ["abc"]).encode("cab")
        [7, 5, 6]
    """
    if config.path is not None:
        return load(config.path)
    if config.lowercase and config.kind != "wordpiece":
        raise ConfigError(
            f"codec.lowercase=true with codec.kind={config.kind}, which keeps every character",
            expected="codec.kind=wordpiece",
            next="leave codec.lowercase out",
        )
    if config.kind in ("marks", "waves"):  # nothing of a text is learnt
        return Marks.make() if config.kind == "marks" else Waves.make()
    if config.ids is not None and config.kind != "ids":
        raise ConfigError(
            f"codec.ids={config.ids} with codec.kind={config.kind}",
            expected="codec.kind=ids",
            next="leave codec.ids out, or codec.kind=ids",
        )
    if config.kind == "ids" and config.ids is not None:
        return Ids.make(config.ids)
    progress = progress or Quiet()
    limit = int(config.sample_mb * 1e6) if config.kind != "ids" else EVERYTHING
    known = limit if limit < EVERYTHING else None
    progress.start(f"train tokenizer ({config.kind})", total=known, unit="bytes")
    sample = _Sample(texts, limit, progress)
    try:
        if config.kind == "bpe":
            codec = Bpe.train(sample, config.vocab_size)
        elif config.kind == "wordpiece":
            codec = WordPiece.train(sample, config.vocab_size, lowercase=config.lowercase)
        elif config.kind == "chars":
            codec = Chars.train(sample)
        elif config.kind == "ids":
            codec = Ids.train(sample)
        else:
            codec = Bytes.make()
            any(True for _ in sample)  # an empty corpus is an error here too
    except CodecError:
        if sample.bytes and sample.error is None:  # "no word in it" says less than "nothing in it"
            raise
        codec = None
    finally:
        progress.stop()
    if sample.error is not None:
        raise sample.error
    if codec is None or not sample.bytes:
        raise DataError(
            "the training text of the tokenizer is empty (0 bytes)",
            expected="at least one document with text in it",
            next="check data=PATH, and that not everything fell into the validation split",
        )
    return codec


class _Sample:
    """The texts up to a number of bytes, counted; long ones in parts, so that all cores read them.

    What goes wrong while reading is kept in `error`: `tokenizers` takes it for the end of the texts.
    """

    def __init__(self, texts: Iterable[str], limit: int, progress: Progress) -> None:
        self._texts, self._limit, self._progress = texts, limit, progress
        self.bytes = 0
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[str]:
        try:
            yield from self._parts()
        except GeneratorExit:
            raise
        except BaseException as error:
            self.error = error

    def _parts(self) -> Iterator[str]:
        for text in self._texts:
            text = scrub(text)
            if not text:
                continue
            for part in cut(text):
                size = len(part.encode())
                self.bytes += size
                self._progress.advance(size)
                yield part
                if self.bytes >= self._limit:
                    return


def load(folder: str | Path) -> Codec:
    """Reads a codec from a folder with tokenizer.json and tokenizer_config.json.

    Raises:
        CodecError: the folder or a file is missing, cut short, altered, or names tokens that are not there.
    """
    folder = Path(folder)
    make = "train one: exnihilo tokenizer train data=PATH out=DIR"
    if not folder.is_dir():
        raise CodecError(
            f"{folder} is {'a file' if folder.exists() else 'not there'}",
            expected="a folder with tokenizer.json",
            next=f"check the path, or {make}",
        )
    text, content = _read(folder / "tokenizer.json", make)
    config: dict[str, Any] = {}
    if (folder / "tokenizer_config.json").exists():
        config = _read(folder / "tokenizer_config.json", make)[1]
    digest, known = content_hash(content), config.get("exnihilo_hash")
    if known is not None and known != digest:
        raise CodecError(
            f"{folder}/tokenizer.json was altered: its hash is {digest[:12]}, not {str(known)[:12]}",
            expected="the file as it was written, else ids change their meaning",
            next="restore it; if the change is meant, remove exnihilo_hash from tokenizer_config.json",
        )
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # `tokenizers` raises nothing narrower
        raise CodecError(
            f"{folder}/tokenizer.json is no tokenizer: {error}",
            expected="a file written by `tokenizers`",
            next=make,
        ) from error
    roles: dict[str, str] = {}
    for role in ROLES:
        token = config.get(f"{role}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if token is not None:
            roles[role] = str(token)
    kind = config.get("exnihilo_kind")
    made = _KINDS.get(kind) if isinstance(kind, str) else None
    if made is None:
        made = PretrainedBytes if is_byte_level(content) else Pretrained
    template = folder / TEMPLATE
    if template.exists():
        config = {**config, "chat_template": template.read_text(encoding="utf-8")}
    try:
        return made(tokenizer, roles, text, config)
    except CodecError as error:
        raise CodecError(f"{folder}: {error.given}", expected=error.expected, next=error.next) from error


def _read(path: Path, make: str) -> tuple[str, dict[str, Any]]:
    """A JSON file, as text and as an object."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
    except FileNotFoundError:
        raise CodecError(f"{path} is missing", expected="a tokenizer's files", next=make) from None
    except OSError as error:
        raise CodecError(f"{path} cannot be read: {error.strerror}", next="check its permissions") from error
    except ValueError as error:  # not UTF-8, or no JSON
        raise CodecError(
            f"{path} is broken ({path.stat().st_size} bytes): {error}",
            expected="JSON; was the file cut short?",
            next=f"restore it, or {make}",
        ) from error
    if not isinstance(content, dict):
        raise CodecError(f"{path} holds a {type(content).__name__}", expected="a JSON object", next=make)
    return text, content
