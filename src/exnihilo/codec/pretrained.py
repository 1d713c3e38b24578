"""Any other tokenizer.json, as found beside a pretrained model: read, used and saved as it is.

Used through ``exnihilo.codec.load(folder)`` where the folder's tokenizer is none of this package's four
kinds. Whether its round trip holds is its own matter: many normalise, some put a space before the text.
Texts are encoded whole, since where its words may be cut is not known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import numpy as np

from exnihilo.codec.base import ByteCodec, Codec, Streamer, TextStreamer, check
from exnihilo.codec.bpe import piece_bytes

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def is_byte_level(content: Mapping[str, Any]) -> bool:
    """Whether a tokenizer.json decodes by GPT-2's table of bytes (GPT-2, Qwen, Llama 3 and others do)."""
    decoder = content.get("decoder") or {}
    parts = decoder.get("decoders", [decoder]) if isinstance(decoder, dict) else []
    return [part.get("type") for part in parts] == ["ByteLevel"]


@final
class PretrainedBytes(ByteCodec):
    """A byte-level tokenizer made elsewhere."""

    kind: ClassVar[str] = "pretrained"

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._encode_parts(texts)

    def _piece(self, piece: str) -> bytes:
        try:
            return piece_bytes(piece)
        except KeyError:  # an entry that no text becomes
            return piece.encode()


@final
class Pretrained(Codec):
    """A tokenizer made elsewhere, of any other kind."""

    kind: ClassVar[str] = "pretrained"

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._encode_parts(texts)

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        ids = [check(int(i), self.vocab_size) for i in ids]
        return self.tokenizer.decode(ids, skip_special_tokens=skip_special)

    def streamer(self, skip_special: bool = True) -> Streamer:
        return TextStreamer(self, skip_special)

    def token_bytes(self) -> np.ndarray:
        """UTF-8 bytes by the entries' spelling: ``▁`` is a space, ``<0x41>`` a byte, ``##`` nothing."""
        sizes = np.zeros(self.vocab_size, np.int32)
        for piece, id in self.tokenizer.get_vocab(with_added_tokens=True).items():
            if id not in self.special_ids:
                spelled = piece.replace("\u2581", " ").removeprefix("##").encode()
                sizes[id] = 1 if _BYTE.fullmatch(piece) else len(spelled)
        return sizes
