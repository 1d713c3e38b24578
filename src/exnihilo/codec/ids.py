"""A vocabulary of the user's own: ids 0 to n - 1 as they stand in the data, whatever they stand for.

Used through ``exnihilo.codec.train(CodecConfig(kind="ids", ids=512), texts)``; a text is the ids as decimal
numbers with spaces between, so that prompts, samples, tables and reports show what the file holds::

    codec.encode("17 4 92")           # [17, 4, 92]
    codec.decode([17, 4, 92])         # "17 4 92"

The special tokens stand behind the ids: n is <|pad|>, n + 1 <|bos|> and so on, and no text becomes one. In
files it is a word-level tokenizer, which other libraries read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, final

import numpy as np
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from exnihilo.codec.base import DECODER_SPECIALS, Codec, Streamer, check
from exnihilo.codec.bpe import DECODER_ROLES
from exnihilo.errors import CodecError

SPECIALS = (*DECODER_SPECIALS, "<|cls|>", "<|sep|>", "<|mask|>")
MOST = 1 << 20
"""Ids that a vocabulary may have."""


@final
class Ids(Codec):
    """One id a number.

    Attributes:
        count: ids of the user's own.
    """

    kind: ClassVar[str] = "ids"
    unit: ClassVar[str] = "token"

    def __init__(
        self,
        tokenizer: Tokenizer,
        roles: Mapping[str, str],
        source: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(tokenizer, roles, source, config)
        self.count = self.vocab_size - len(self.special_ids)

    @classmethod
    def make(cls, count: int) -> Ids:
        """The codec of so many ids.

        Raises:
            CodecError: none, or more than `MOST`.

        Example:
            >>> codec = Ids.make(100); codec.eos_id, codec.encode("7 99"), codec.decode([7, 99])
            (102, [7, 99], '7 99')
        """
        if not 1 <= count <= MOST:
            raise CodecError(
                f"a vocabulary of {count:,} ids",
                expected=f"1 to {MOST:,}",
                next="number what occurs from 0 on: numpy.unique(ids, return_inverse=True)",
            )
        vocab = {str(i): i for i in range(count)} | {t: count + i for i, t in enumerate(SPECIALS)}
        tokenizer = Tokenizer(models.WordLevel(vocab=vocab, unk_token="<|pad|>"))  # type: ignore[call-arg]
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
        tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIALS])
        bos = DECODER_ROLES["bos"]
        tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
            single=f"{bos} $A", pair=f"{bos} $A $B:1", special_tokens=[(bos, vocab[bos])]
        )
        return cls(tokenizer, {**DECODER_ROLES, "cls": "<|cls|>", "sep": "<|sep|>", "mask": "<|mask|>"})

    @classmethod
    def train(cls, texts: Iterable[str], count: int | None = None) -> Ids:
        """Of the texts' largest id, where it is not said how many there are."""
        if count is None:
            largest = max((int(max(ids, default=-1)) for ids in map(parse, texts)), default=-1)
            if largest < 0:
                raise CodecError("no id in the training data", expected="whole numbers from 0 on")
            count = largest + 1
        return cls.make(count)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of decimal numbers.

        Raises:
            CodecError: something else than whole numbers, or one that is not in the vocabulary.
        """
        out = []
        for text in texts:
            ids = parse(text)
            if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < self.count:
                wrong = int(ids.min()) if ids.min() < 0 else int(ids.max())
                raise CodecError(
                    f"id {wrong} of a vocabulary of {self.count:,}",
                    expected=f"0 to {self.count - 1}",
                    next=f"correct the data, or train with codec.ids={max(wrong + 1, 1)}",
                )
            out.append(ids.tolist())
        return out

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        found = (check(int(i), self.vocab_size) for i in ids)
        return " ".join(self._name(i) for i in found if i < self.count or not skip_special)

    def _name(self, id: int) -> str:
        return str(id) if id < self.count else str(self.tokenizer.id_to_token(id))

    def streamer(self, skip_special: bool = True) -> Streamer:
        return _Spaced(self, skip_special)

    def token_bytes(self) -> np.ndarray:
        """1 for an id: the numbers of a user's own have no bytes, so `unit` is the token."""
        return (np.arange(self.vocab_size) < self.count).astype(np.int32)


class _Spaced(Streamer):
    """A number an id, a space before all but the first."""

    def __init__(self, codec: Ids, skip_special: bool) -> None:
        self._codec, self._skip, self._begun = codec, skip_special, False

    def push(self, id: int) -> str:
        text = self._codec.decode([id], self._skip)
        if not text:
            return ""
        before, self._begun = " " * self._begun, True
        return before + text

    def finish(self) -> str:
        self._begun = False
        return ""


def parse(text: str) -> np.ndarray:
    """Whole numbers of a text, int64, divided by spaces, commas or both.

    Raises:
        CodecError: anything else.

    Example:
        >>> parse("3, 14 15").tolist()
        [3, 14, 15]
    """
    words = text.replace(",", " ").split()
    try:
        return np.array(words, np.int64)
    except (ValueError, OverflowError):
        wrong = next((w for w in words if not _whole(w)), "")
        raise CodecError(
            f"{wrong[:40]!r} is no id", expected="whole numbers with spaces between, e.g. 17 4 92"
        ) from None


def _whole(word: str) -> bool:
    return word.lstrip("-").isascii() and word.lstrip("-").isdigit() and len(word) < 19
