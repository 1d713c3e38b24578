"""Codecs of data that is no text: special tokens alone (`Marks`), and one id a sample of a sound (`Waves`).

Used through ``exnihilo.codec.train(CodecConfig(kind="marks"), ())``. A model of sounds or pictures reads
numbers, not ids; what is left for ids are the marks around and among them: [CLS], [SEP], [MASK], [PAD].

`Waves` has the five special tokens of a decoder, then one id for each of the 256 levels of the mu-law (ITU-T
G.711). A sample is written as one character, U+2800 + level, so that a sound is also a text: what a model
continues is shown, kept and passed on like any text, and `exnihilo.codec.sound.mulaw` turns it into samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import numpy as np
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from tokenizers import Regex as Pattern

from exnihilo.codec.base import DECODER_SPECIALS, Codec, Streamer, TextStreamer, check, split
from exnihilo.codec.bpe import DECODER_ROLES, specials

MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DIST]")
FIRST = 0x2800
"""The character of level 0."""
LEVELS = 256


class _Plain(Codec):
    """Ids of whole pieces, found by `tokenizers`."""

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        kept = (check(int(i), self.vocab_size) for i in ids)
        names = (self.tokenizer.id_to_token(i) for i in kept if not (skip_special and i in self.special_ids))
        return "".join(name or "" for name in names)

    def streamer(self, skip_special: bool = True) -> Streamer:
        return TextStreamer(self, skip_special)


@final
class Marks(_Plain):
    """Special tokens and nothing else: ids 0 to 5 are [PAD], [UNK], [CLS], [SEP], [MASK], [DIST]."""

    kind: ClassVar[str] = "marks"

    @classmethod
    def make(cls) -> Marks:
        """The codec; there is only one.

        Example:
            >>> codec = Marks.make(); codec.cls_id, codec.mask_id, codec.vocab_size
            (2, 4, 6)
        """
        vocab = {token: i for i, token in enumerate(MARKS)}
        tokenizer = Tokenizer(models.WordLevel(vocab=vocab, unk_token="[UNK]"))  # type: ignore[call-arg]
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
        tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in MARKS])
        roles = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
        return cls(tokenizer, roles)

    def token_bytes(self) -> np.ndarray:
        return np.zeros(self.vocab_size, np.int32)


@final
class Waves(_Plain):
    """One id a sample: 5 + its level of 256. A level is a byte, so bits per byte are bits per sample."""

    kind: ClassVar[str] = "waves"

    @classmethod
    def make(cls) -> Waves:
        """The codec; there is only one.

        Example:
            >>> Waves.make().encode(chr(0x2800) + chr(0x28FF))
            [5, 260]
        """
        vocab = {token: i for i, token in enumerate(DECODER_SPECIALS)}
        vocab |= {chr(FIRST + level): len(DECODER_SPECIALS) + level for level in range(LEVELS)}
        tokenizer = Tokenizer(models.WordLevel(vocab=vocab, unk_token="<|pad|>"))  # type: ignore[call-arg]
        every = pre_tokenizers.Split(Pattern("."), behavior="isolated")
        tokenizer.pre_tokenizer = every  # type: ignore[assignment]
        tokenizer.add_special_tokens(specials())
        return cls(tokenizer, DECODER_ROLES)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Characters that are no level are left out: a sound has none."""
        parts = [
            np.frombuffer(text.encode("utf-32-le", "replace"), np.uint32).astype(np.int64) for text in texts
        ]
        parts = [part[(part >= FIRST) & (part < FIRST + LEVELS)] for part in parts]
        ids = np.concatenate([*parts, np.zeros(0, np.int64)]) - FIRST + len(DECODER_SPECIALS)
        return split(ids, [len(part) for part in parts])

    def token_bytes(self) -> np.ndarray:
        sizes = np.ones(self.vocab_size, np.int32)
        sizes[: len(DECODER_SPECIALS)] = 0
        return sizes
