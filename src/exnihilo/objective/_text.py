"""What the pretraining types share: texts of examples, special ids, the vocabulary as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from exnihilo.errors import CodecError, DataError
from exnihilo.objective.base import Batch, Example

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec

_SPACES = ("Ġ", "▁")  # how vocabularies of whole texts write the space before a word


@dataclass(frozen=True)
class Vocabulary:
    """A codec as arrays.

    Attributes:
        special: bool [ids]: never masked, never drawn.
        regular: int64: the ids that may be drawn.
        inside: bool [ids]: goes on with the word of the token before it.
    """

    special: np.ndarray
    regular: np.ndarray
    inside: np.ndarray


def texts_of(examples: Sequence[Example]) -> list[str]:
    """The role "text" of each example.

    Raises:
        DataError: it is missing or no string.
    """
    texts = []
    for example in examples:
        text = example.get("text")
        if not isinstance(text, str):
            raise DataError(
                f"an example without text; its roles: {sorted(k for k in example if k[0] != '_')}",
                expected="a role 'text' that holds a string",
                next='name the column with data.fields={text = "COLUMN"}',
            )
        texts.append(text)
    return texts


def dtype_of(codec: Codec) -> type[np.uint16] | type[np.uint32]:
    """The narrowest type that ids are stored in."""
    return np.uint16 if codec.vocab_size <= 1 << 16 else np.uint32


def ends_of(codec: Codec) -> tuple[int, int]:
    """Ids of [CLS] and [SEP]; where a codec has none, of the tokens that begin and end a text."""
    cls = codec.bos_id if codec.cls_id is None else codec.cls_id
    return cls, codec.eos_id if codec.sep_id is None else codec.sep_id


def mask_of(codec: Codec) -> int:
    """The id of [MASK].

    Raises:
        CodecError: the codec has none.
    """
    if codec.mask_id is None:
        raise CodecError(
            f"the tokenizer ({codec.kind}) has no mask token",
            expected="a tokenizer for encoders",
            next="codec.kind=wordpiece, or codec.path=FOLDER of a tokenizer with a mask_token",
        )
    return codec.mask_id


@lru_cache(maxsize=8)
def vocabulary(codec: Codec) -> Vocabulary:
    """The tables of a codec, made once."""
    pieces = codec.tokenizer.get_vocab(with_added_tokens=True)
    special = np.zeros(codec.vocab_size, bool)
    named = [
        codec.pad_id,
        codec.bos_id,
        codec.eos_id,
        codec.unk_id,
        codec.cls_id,
        codec.sep_id,
        codec.mask_id,
    ]
    special[[*codec.special_ids, *(i for i in named if i is not None)]] = True
    known = np.zeros(codec.vocab_size, bool)
    known[list(pieces.values())] = True  # numbers may have gaps
    inside = np.zeros(codec.vocab_size, bool)
    hashes = any(piece.startswith("##") for piece in pieces)
    for piece, id in pieces.items():
        first = piece[:1]
        inside[id] = piece.startswith("##") if hashes else first.isalnum() and first not in _SPACES
    regular = np.flatnonzero(known & ~special)
    if not len(regular):
        raise CodecError("the tokenizer has special tokens only", expected="a vocabulary")
    return Vocabulary(special, regular, inside & ~special)


def by_source(key: str, batch: Batch, values_N: Tensor, rows_N: Tensor) -> dict[str, Tensor]:
    """{"key@s": Σ over the rows of source s} where a batch names its rows' sources."""
    if "source" not in batch:
        return {}
    of_N = batch["source"][rows_N]
    return {f"{key}@{s}": values_N[of_N == s].sum() for s in batch["source"].unique().tolist()}
