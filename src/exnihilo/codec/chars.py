"""Characters: one id a character of the training text, bytes for any other: so any text round trips.

Used through ``exnihilo.codec.train(CodecConfig(kind="chars"), texts)``. In files it is a BPE without merges
and with byte fallback, whose byte tokens are written <0x00> to <0xFF>. Only bytes that can be needed have a
token: those of UTF-8 beyond ASCII (0x80-0xBF, 0xC2-0xF4), and the ASCII characters that the training text
lacks.

Reference: Kudo & Richardson, *SentencePiece*, 2018 (byte fallback).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, final

import numpy as np
from tokenizers import Tokenizer, decoders, models

from exnihilo.codec.base import DECODER_SPECIALS, ByteCodec, scrub, split
from exnihilo.codec.bpe import DECODER_ROLES, begin_with_bos, specials

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_UNICODE = 0x110000


def byte_token(byte: int) -> str:
    """The name of a byte's token."""
    return f"<0x{byte:02X}>"


@final
class Chars(ByteCodec):
    """One id a character, bytes for the rest."""

    kind: ClassVar[str] = "chars"

    def __init__(
        self,
        tokenizer: Tokenizer,
        roles: Mapping[str, str],
        source: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(tokenizer, roles, source, config)
        self._id_of = np.full(_UNICODE, -1, np.int32)
        self._id_of_byte = np.full(256, -1, np.int32)
        for piece, id in tokenizer.get_vocab(with_added_tokens=False).items():
            if len(piece) == 1:
                self._id_of[ord(piece)] = id
            elif match := _BYTE.fullmatch(piece):
                self._id_of_byte[int(match[1], 16)] = id

    @classmethod
    def train(cls, texts: Iterable[str]) -> Chars:
        """Takes every character of the texts, in the order of their code points."""
        seen: set[str] = set()
        for text in texts:
            seen.update(text)
        ascii_ = [b for b in range(128) if chr(b) not in seen]
        needed = [*ascii_, *range(0x80, 0xC0), *range(0xC2, 0xF5)]
        entries = [*DECODER_SPECIALS, *sorted(seen), *map(byte_token, needed)]
        vocab = {entry: id for id, entry in enumerate(entries)}
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
        tokenizer.add_special_tokens(specials())
        tokenizer.decoder = decoders.Sequence(  # type: ignore[assignment]
            [decoders.ByteFallback(), decoders.Fuse()]
        )
        tokenizer.post_processor = begin_with_bos()  # type: ignore[assignment]
        return cls(tokenizer, DECODER_ROLES)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        try:
            joined = "".join(texts).encode("utf-32-le")
        except UnicodeEncodeError:
            texts = [scrub(text) for text in texts]
            joined = "".join(texts).encode("utf-32-le")
        points = np.frombuffer(joined, "<u4")
        ids, lengths = self._id_of[points], [len(text) for text in texts]
        unknown = np.flatnonzero(ids < 0)
        if unknown.size:
            spelled = [list(chr(p).encode()) for p in points[unknown].tolist()]
            count = np.ones(len(ids), np.int64)
            count[unknown] = [len(s) for s in spelled]
            ids = np.repeat(ids, count)
            ids[ids < 0] = self._id_of_byte[[byte for s in spelled for byte in s]]
            ends = np.concatenate([[0], np.cumsum(count)])[np.cumsum([0, *lengths])]
            lengths = np.diff(ends).tolist()
        return split(ids, lengths)

    def _piece(self, piece: str) -> bytes:
        match = _BYTE.fullmatch(piece)
        return bytes([int(match[1], 16)]) if match else piece.encode()
