"""What every codec is: text -> ids and back, its special tokens, its files.

Used by everything that touches text::

    codec = exnihilo.codec.train(CodecConfig(vocab_size=4096), texts)
    ids = codec.encode("Once upon a time")        # no special ids, whatever the text says
    assert codec.decode(ids) == "Once upon a time"
    codec.save("runs/books")                      # tokenizer.json + tokenizer_config.json

Each codec is held as a `tokenizers.Tokenizer`, so `transformers.AutoTokenizer` loads its files to the same
ids (docs/tokenizers.md). A text that spells a special token, say ``<|eos|>``, is text: it never becomes the
token. A lone surrogate, which no UTF-8 can hold, becomes U+FFFD; a pair of surrogates becomes the character
that it stands for.

Reference: https://github.com/huggingface/tokenizers
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from tokenizers import Tokenizer

from exnihilo.errors import CodecError, nearest

TEMPLATE = "chat_template.jinja"
DECODER_SPECIALS = ("<|pad|>", "<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>")  # ids 0 to 4
ROLES = ("pad", "bos", "eos", "unk", "cls", "sep", "mask")
_CONTENT = ("added_tokens", "normalizer", "pre_tokenizer", "model", "decoder")  # what decides ids and text
_LONG = 1 << 15  # characters; longer texts are encoded in parts
# Between these characters no pre-tokenizer used here has a word: before a space that follows text, after a
# line break that precedes text. So the parts' ids, joined, are the ids of the whole.
_CUT = re.compile(r"(?<=\S)(?= )|(?<=\n)(?=\S)")


class Streamer(ABC):
    """Decodes ids as they come. The pieces join to the decoded text; each holds whole characters only."""

    @abstractmethod
    def push(self, id: int) -> str:
        """The text that is complete now, and was not before `id`; often empty."""

    @abstractmethod
    def finish(self) -> str:
        """What is left, with U+FFFD for a character that was never completed. The streamer is then as new."""


class Codec(ABC):
    """Text <-> ids.

    Attributes:
        vocab_size: number of ids, special ones included.
        pad_id, bos_id, eos_id: always there. WordPiece has [CLS] as bos and [SEP] as eos.
        unk_id, cls_id, sep_id, mask_id: None where the codec has no such token.
        special_ids: the ids that no text becomes (an encoder's [UNK] is the exception: unknown words become
            it).
        hash: SHA-256 of what decides ids and text in tokenizer.json; the name of the codec in cache keys and
            checkpoints.
        gguf_pre: llama.cpp's name of the pre-tokenizer; None where it has none.
    """

    kind: ClassVar[str]
    unit: ClassVar[str] = "byte"  # what `token_bytes` counts; "token" where ids stand for no text
    gguf_pre: ClassVar[str | None] = None

    def __init__(
        self,
        tokenizer: Tokenizer,
        roles: Mapping[str, str],
        source: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Wraps a tokenizer.

        Args:
            tokenizer: taken over, and set to treat special tokens in texts as text.
            roles: role ("pad", "bos", ...) -> token.
            source: the text of tokenizer.json, where it was read; default: as the tokenizer writes it.
                Saved as it is.
            config: tokenizer_config.json, where it was read. What it says beyond roles is kept when saving.
        """
        self._json = tokenizer.to_str(pretty=True) if source is None else source
        self._config = dict(config or {})
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        self.tokenizer = tokenizer
        self.roles = dict(roles)
        self.vocab_size: int = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        added = tokenizer.get_added_tokens_decoder()
        self.special_ids: frozenset[int] = frozenset(i for i, token in added.items() if token.special)
        self.hash: str = content_hash(json.loads(self._json))
        ids = {role: self.token_id(token) for role, token in self.roles.items()}
        self.unk_id, self.cls_id, self.sep_id, self.mask_id = (
            ids.get(role) for role in ("unk", "cls", "sep", "mask")
        )
        eos = ids.get("eos", self.sep_id)
        if eos is None:
            raise CodecError(
                "the tokenizer names no token that ends a text",
                expected="eos_token (or sep_token) in tokenizer_config.json",
                next="add it, or train one: exnihilo tokenizer train data=PATH out=DIR",
            )
        self.eos_id: int = eos
        bos = ids.get("bos", self.cls_id)
        self.bos_id: int = eos if bos is None else bos
        self.pad_id: int = ids.get("pad", eos)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without bos and eos. Never a special id (but [UNK] of WordPiece)."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts, on all cores. Long texts are encoded in parts, which gives the same ids."""
        if not any(len(text) > _LONG for text in texts):
            return self._encode_parts(texts)
        parts = [part for text in texts for part in cut(text)]
        ids = iter(self._encode_parts(parts))
        return [[i for _ in cut(text) for i in next(ids)] for text in texts]

    def _encode_parts(self, texts: Sequence[str]) -> list[list[int]]:
        texts = texts if isinstance(texts, list) else list(texts)
        try:
            encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):  # what `tokenizers` makes of a surrogate
            encodings = self.tokenizer.encode_batch_fast([scrub(t) for t in texts], add_special_tokens=False)
        return [e.ids for e in encodings]

    @abstractmethod
    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD.

        Raises:
            CodecError: an id outside 0..vocab_size-1.
        """

    @abstractmethod
    def streamer(self, skip_special: bool = True) -> Streamer:
        """A decoder for ids that come one at a time."""

    @abstractmethod
    def token_bytes(self) -> np.ndarray:
        """UTF-8 bytes that each id stands for, int32 [vocab_size]; 0 for special ids. For bits per byte."""

    def token_id(self, token: str) -> int:
        """The id of a token by its name, e.g. ``<|im_start|>``.

        Raises:
            CodecError: there is none; names the nearest special token.
        """
        id = self.tokenizer.token_to_id(token)
        if id is None:
            known = [t.content for t in self.tokenizer.get_added_tokens_decoder().values()]
            raise CodecError(f"the tokenizer has no token {token!r}", expected=nearest(token, known))
        return id

    @property
    def chat_template(self) -> str | None:
        """The Jinja text that came with the tokenizer's files; None: of a base model, which has none."""
        found = self._config.get("chat_template")
        return found if isinstance(found, str) else None

    def save(
        self, folder: str | Path, *, model_max_length: int | None = None, chat_template: str | None = None
    ) -> None:
        """Writes tokenizer.json and tokenizer_config.json, each whole or not at all.

        Args:
            model_max_length: positions of the model it is written for.
            chat_template: Jinja text that renders conversations (`exnihilo.codec.chat`); default: its own.
                Written into tokenizer_config.json and as chat_template.jinja.

        Raises:
            CodecError: the folder cannot be written.
        """
        inputs = ["input_ids", "attention_mask"]
        if self.kind == "wordpiece":
            inputs.insert(1, "token_type_ids")
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_input_names": inputs,
            **self._config,
            **{f"{role}_token": self.roles[role] for role in ROLES if role in self.roles},
            "exnihilo_kind": self.kind,
            "exnihilo_hash": self.hash,
        }
        if model_max_length is not None:
            config["model_max_length"] = model_max_length
        if chat_template is not None:
            config["chat_template"] = chat_template
        template = config.get("chat_template")
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder / "tokenizer.json", self._json)
            _write(folder / "tokenizer_config.json", json.dumps(config, indent=2, ensure_ascii=False))
            if isinstance(template, str):
                _write(folder / TEMPLATE, template)
            else:  # of another tokenizer that stood here: readers would take it for this one's
                (folder / TEMPLATE).unlink(missing_ok=True)
        except OSError as error:
            raise CodecError(
                f"the tokenizer cannot be written to {folder}: {error.strerror or error}",
                expected="a folder that can be written, with space left",
                next="choose another folder, or free some space",
            ) from error

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, hash={self.hash[:12]})"


class ByteCodec(Codec):
    """A codec whose every id stands for certain bytes, so that decoding is joining them."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        roles: Mapping[str, str],
        source: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(tokenizer, roles, source, config)
        added = {i: t.content for i, t in tokenizer.get_added_tokens_decoder().items()}
        pieces = {i: p for p, i in tokenizer.get_vocab(with_added_tokens=True).items()}
        self._bytes = [
            added[i].encode() if i in added else self._piece(pieces[i]) if i in pieces else b""
            for i in range(self.vocab_size)
        ]
        self._shown = [b"" if i in self.special_ids else b for i, b in enumerate(self._bytes)]

    @property
    def pieces(self) -> list[bytes]:
        """The bytes that each id stands for; none for special ids."""
        return list(self._shown)

    @abstractmethod
    def _piece(self, piece: str) -> bytes:
        """The bytes of an entry of the vocabulary."""

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        table = self._shown if skip_special else self._bytes
        if len(ids):
            check(int(min(ids)), self.vocab_size)
            check(int(max(ids)), self.vocab_size)
        return b"".join([table[i] for i in ids]).decode("utf-8", "replace")

    def streamer(self, skip_special: bool = True) -> Streamer:
        return ByteStreamer(self._shown if skip_special else self._bytes)

    def token_bytes(self) -> np.ndarray:
        return np.asarray([len(b) for b in self._shown], dtype=np.int32)


class ByteStreamer(Streamer):
    """Joins bytes, and holds back those of an unfinished UTF-8 character."""

    def __init__(self, table: Sequence[bytes]) -> None:
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        return self._decoder.decode(self._table[check(id, len(self._table))])

    def finish(self) -> str:
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


class TextStreamer(Streamer):
    """For codecs whose ids are not bytes: decodes all ids so far and gives what is new."""

    def __init__(self, codec: Codec, skip_special: bool) -> None:
        self._codec, self._skip = codec, skip_special
        self._ids: list[int] = []
        self._given = 0

    def push(self, id: int) -> str:
        self._ids.append(id)
        text = self._codec.decode(self._ids, self._skip)
        if text.endswith("\ufffd"):  # perhaps an unfinished character
            return ""
        return self._new(text)

    def finish(self) -> str:
        rest = self._new(self._codec.decode(self._ids, self._skip))
        self._ids, self._given = [], 0
        return rest

    def _new(self, text: str) -> str:
        new, self._given = text[self._given :], max(self._given, len(text))
        return new


def check(id: int, size: int) -> int:
    """`id`, if there is such an id."""
    if not 0 <= id < size:
        raise CodecError(f"id {id} of a vocabulary of {size}", expected=f"0 to {size - 1}")
    return id


def scrub(text: str) -> str:
    """The text without surrogates: pairs become their character, lone ones U+FFFD.

    Example:
        >>> scrub("a\\ud83d\\ude00") == "a\\U0001f600", scrub("\\ud800b") == "\\ufffdb"
        (True, True)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def cut(text: str) -> list[str]:
    """A text in parts of about `_LONG` characters that join to it, cut only where no word is."""
    parts, start = [], 0
    while len(text) - start > _LONG:
        found = _CUT.search(text, start + _LONG)
        if found is None:
            break
        parts.append(text[start : found.start()])
        start = found.start()
    parts.append(text[start:])
    return parts


def split(ids: np.ndarray, lengths: Sequence[int]) -> list[list[int]]:
    """The ids of many texts, joined, as one list a text."""
    whole, out, at = ids.tolist(), [], 0
    for length in lengths:
        out.append(whole[at : at + length])
        at += length
    return out


def content_hash(content: Mapping[str, Any]) -> str:
    """SHA-256 of the parts of a tokenizer.json that decide ids and text, whatever its layout."""
    part = {key: content.get(key) for key in _CONTENT}
    return hashlib.sha256(
        json.dumps(part, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()
    ).hexdigest()


def _write(path: Path, text: str) -> None:
    """Writes a file aside, then renames it: a reader sees the old or the new one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(aside, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
