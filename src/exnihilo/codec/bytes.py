"""Raw bytes: five special tokens, then one id a byte. Nothing is learnt, any text round trips.

Used through ``exnihilo.codec.train(CodecConfig(kind="bytes"), texts)``. In files it is a byte-level BPE
without merges.

Reference: Xue et al., *ByT5: Towards a token-free future with pre-trained byte-to-byte models*, 2022.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from exnihilo.codec.base import DECODER_SPECIALS, ByteCodec, scrub, split
from exnihilo.codec.bpe import DECODER_ROLES, begin_with_bos, byte_alphabet, piece_bytes, specials


@final
class Bytes(ByteCodec):
    """One id a byte: id = 5 + byte."""

    kind: ClassVar[str] = "bytes"
    gguf_pre: ClassVar[str | None] = "gpt-2"

    def __init__(
        self,
        tokenizer: Tokenizer,
        roles: Mapping[str, str],
        source: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(tokenizer, roles, source, config)
        vocab = tokenizer.get_vocab(with_added_tokens=False)
        self._id_of = np.zeros(256, np.int32)
        for char, byte in byte_alphabet().items():
            self._id_of[byte] = vocab[char]

    @classmethod
    def make(cls) -> Bytes:
        """The codec; there is only one."""
        first = len(DECODER_SPECIALS)
        vocab = {char: first + byte for char, byte in byte_alphabet().items()}
        vocab |= {token: i for i, token in enumerate(DECODER_SPECIALS)}
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
        tokenizer.add_special_tokens(specials())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(  # type: ignore[assignment]
            add_prefix_space=False, use_regex=False
        )
        tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
        tokenizer.post_processor = begin_with_bos()  # type: ignore[assignment]
        return cls(tokenizer, DECODER_ROLES)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        parts = [_utf8(text) for text in texts]
        ids = self._id_of[np.frombuffer(b"".join(parts), np.uint8)]
        return split(ids, [len(part) for part in parts])  # many times as fast as through `tokenizers`

    def raw(self, ids: Sequence[int]) -> bytes:
        """The bytes of ids, whatever they are; none of special ids."""
        return b"".join(self._shown[i] for i in ids)

    def _piece(self, piece: str) -> bytes:
        return piece_bytes(piece)


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")  # bytes that are no UTF-8, as `data.raw` gives them
    except UnicodeEncodeError:
        return scrub(text).encode()
