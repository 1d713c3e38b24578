"""Documents as blocks of sentences, which `draw` makes pairs of.

An item is ``[CLS] ids [SEP] [SEP]``: it holds the three places that ``[CLS] A [SEP] B [SEP]`` needs, so that
a row keeps its length when a block becomes a pair. Its columns:

    sentence   bits: 1 where a sentence begins, 2 at the last token of a document
    document   a hash of the document's text: two blocks with the same number are never each other's negatives

Blocks are filled: each ends after so many tokens, wherever that is in a sentence, and the next one goes on
there; and a block may be cut again, in the same way, to fill a row. No place is lost to padding, and no
token. (`whole` blocks end where sentences end: if they were cut, the order of two parts could be told from
how they begin and end alone. Where sentences are long for a row, their blocks are of random lengths around a
half of it, of which two fill a row.)
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from exnihilo.codec.base import scrub
from exnihilo.objective._sentences import begins, parts
from exnihilo.objective._text import dtype_of, ends_of, texts_of
from exnihilo.objective.base import Example, Item

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec

MARKS = 3  # [CLS], [SEP], [SEP]
BEGIN, END = 1, 2  # bits in the column `sentence`


def document_of(example: Example, text: str) -> int:
    """A stable number below 2^63: of the text; of the place in its source where the text is only a part."""
    whole = example.get("_begin", True) and example.get("_end", True)
    if not whole and "_index" in example:
        text = f"{example.get('_file')}/{example['_index']}"
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def encode_blocks(
    examples: Sequence[Example], codec: Codec, *, length: int | None, language: str, whole: bool = False
) -> list[list[Item]]:
    """The blocks of each example.

    Args:
        length: places of a block, its three special tokens included; None: one block a document.
        language: of the sentence rules.
        whole: blocks end where sentences end.
    """
    most = sys.maxsize if length is None else length - MARKS
    texts = [scrub(text) for text in texts_of(examples)]
    sentences = [parts(text, begins(text, language)) for text in texts]
    ids = iter(codec.encode_batch([s for found in sentences for s in found]))
    out = []
    for example, text, found in zip(examples, texts, sentences, strict=True):
        coded = [x for x in (next(ids) for _ in found) if x]
        document = document_of(example, text)
        ends = bool(example.get("_end", True))
        out.append(_blocks(coded, codec, document, most, ends=ends, whole=whole))
    return out


def _blocks(
    coded: Sequence[Sequence[int]], codec: Codec, document: int, most: int, *, ends: bool, whole: bool
) -> list[Item]:
    if not coded:
        return []
    sizes = np.fromiter(map(len, coded), np.int64, len(coded))
    ids = np.fromiter((i for one in coded for i in one), dtype_of(codec), int(sizes.sum()))
    begin = np.zeros(len(ids), np.uint8)
    begin[np.cumsum(sizes) - sizes] = BEGIN
    cls, sep = ends_of(codec)
    spans = _whole(sizes, most, document) if whole else _filled(len(ids), most)
    out: list[Item] = []
    for a, b in spans:
        tokens = np.full(b - a + MARKS, sep, ids.dtype)
        tokens[0], tokens[1 : b - a + 1] = cls, ids[a:b]
        sentence = np.zeros(len(tokens), np.uint8)
        sentence[1 : b - a + 1] = begin[a:b]
        if b == len(ids) and ends:
            sentence[b - a] |= END
        out.append({"tokens": tokens, "sentence": sentence, "document": document})
    return out


def _filled(n: int, most: int) -> list[tuple[int, int]]:
    return [(a, min(n, a + most)) for a in range(0, n, most)]


def _whole(sizes: np.ndarray, most: int, document: int) -> list[tuple[int, int]]:
    """Runs of sentences of at most `most` tokens; a longer sentence is cut into blocks of its own."""
    chance = np.random.default_rng(document)
    # a full block lacks about half a sentence: more than a twentieth would be lost
    mixed = float(sizes.mean()) > most / 10
    spans: list[tuple[int, int]] = []
    start = at = 0

    def budget() -> int:
        return int(chance.integers(most // 4, most - most // 4 + 1)) if mixed else most

    room, count = budget(), 0
    for size in sizes.tolist():
        if at > start and at + size - start > (room if count > 1 else most):
            spans.append((start, at))
            start, room, count = at, budget(), 0
        at, count = at + size, count + 1
        while at - start > most:
            spans.append((start, start + most))
            start += most
    if at > start:
        spans.append((start, at))
    return spans
