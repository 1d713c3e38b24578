"""Words -> tokens, each word for itself: no token holds parts of two words, and no word has none.

known = read([sentence], codec, room=126)
[known[word].ids for word in spelled(sentence, codec)]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from exnihilo.codec.base import ByteCodec, Codec
from exnihilo.objective._tags import Sentence

WORD = 128
"""Tokens of one word that are read; the rest of a longer one is cut, and counted."""


class Word(NamedTuple):
    """Tokens of a word, how many of them stand before it (a space's), and how many were cut off."""

    ids: list[int]
    lead: int
    cut: int


def read(said: Sequence[Sentence], codec: Codec, room: int) -> dict[str, Word]:
    """Tokens of each different word as it stands in its text, at most `WORD` and `room`.

    A word of which the tokenizer leaves nothing stands as [UNK], or as the token that ends a text.
    """
    limit = min(WORD, room)
    hole = codec.unk_id if codec.unk_id is not None else codec.eos_id
    space = codec.encode(" ")
    words = list(dict.fromkeys(word for one in said for word in spelled(one, codec)))
    out = {}
    for word, ids in zip(words, codec.encode_batch([w[: 8 * limit] for w in words]), strict=True):
        # a token of the space alone (bytes, characters) is no part of the word
        lead = word[:1] == " " and len(ids) > 1 and limit > 1 and ids[:1] == space
        out[word] = Word(ids[:limit] or [hole], int(lead), max(0, len(ids) - limit))
    return out


def spelled(said: Sentence, codec: Codec) -> list[str]:
    """The words as they stand in their text: byte-level codecs join the space before a word to it."""
    if not isinstance(codec, ByteCodec):
        return said.words
    return [
        f" {word}" if start and said.text[start - 1].isspace() else word
        for word, start in zip(said.words, said.starts.tolist(), strict=True)
    ]
