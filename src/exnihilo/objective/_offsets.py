"""Where tokens and words stand in the original text, and windows over long ones.

::

    ids, starts, ends = offsets(codec, text)      # text[starts[i]:ends[i]] is what token i stands for
    starts, ends = words(text)                    # the same of words
    first_last = windows(sizes, room, overlap)    # [(first, last), ...]: units that go together
    owner = owners(first_last, sizes)             # the window in which each unit has most context

Offsets count characters of the text as it was given: upper case, accents, decomposed characters (NFD),
emoji, carriage returns and lone surrogates included, whatever the tokenizer makes of them. A character that
several tokens share (byte-level codecs) is in all of them. White space at a token's edge is outside it,
combining marks that the tokenizer dropped belong to the token before them: so an answer cut out by offsets
has no torn characters.

Key: N tokens or words, L characters

Reference of the windows' rule: https://github.com/google-research/bert/blob/master/run_squad.py (max context)
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from tokenizers import Regex, pre_tokenizers

from exnihilo.codec.base import ByteCodec, Codec, cut, scrub

_SPACES = np.array(
    [*range(0x9, 0xE), *range(0x1C, 0x21), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B)]
    + [0x2028, 0x2029, 0x202F, 0x205F, 0x3000]
)  # what str.isspace says
_JOINER = 0x200D
# A word: one character of a script that divides words by nothing; a run of letters, marks and digits; any
# other sign, with what modifies it (emoji).
_WORD = (
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]\p{M}*"
    r"|[\p{L}\p{M}\p{N}_]+"
    r"|[^\s\p{L}\p{M}\p{N}_](?:[\p{M}\x{1F3FB}-\x{1F3FF}]|\x{200D}[^\s\p{L}\p{M}\p{N}_])*"
)
_PART = 1 << 18  # characters of a text whose words are found at once

Offsets = tuple[np.ndarray, np.ndarray, np.ndarray]


@lru_cache(maxsize=4)  # neighbouring questions share their context
def offsets(codec: Codec, text: str) -> Offsets:
    """The ids that ``codec.encode(text)`` gives, and the characters of `text` that each stands for.

    Args:
        text: any string; lone surrogates too.

    Returns:
        ids int64 (N,), starts int64 (N,), ends int64 (N,): ``0 <= start <= end <= len(text)``, both rising.
        Not to be changed in place.

    Example:
        >>> ids, starts, ends = offsets(codec, "Ünï 🦊")        # doctest: +SKIP
        >>> ["Ünï 🦊"[s:e] for s, e in zip(starts, ends)]       # doctest: +SKIP
        ['Ünï', '🦊']
    """
    clean = scrub(text)
    ids, starts, ends = _by_bytes(codec, clean) if isinstance(codec, ByteCodec) else (None, None, None)
    if ids is None or starts is None or ends is None:
        ids, starts, ends = _by_tokenizer(codec, clean)
    if len(ids):
        starts, ends = _tidy(clean, starts, ends)
    if len(clean) != len(text):
        origin = _origin(text)
        starts, ends = origin[starts], origin[ends]
    return ids, starts, ends


def words(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of the words of a text, int64 (N,) each; every sign of punctuation is a word.

    >>> starts, ends = words("Where is 漢字?")
    >>> ["Where is 漢字?"[s:e] for s, e in zip(starts, ends)]
    ['Where', 'is', '漢', '字', '?']
    """
    clean = scrub(text)
    found: list[tuple[int, int]] = []
    base = 0
    for part in _parts(clean):
        found += [
            (base + s, base + e) for piece, (s, e) in _splitter().pre_tokenize_str(part) if piece.strip()
        ]
        base += len(part)
    pairs = np.array(found, np.int64).reshape(-1, 2)
    starts, ends = pairs[:, 0], pairs[:, 1]
    if len(clean) != len(text):
        origin = _origin(text)
        starts, ends = origin[starts], origin[ends]
    return starts, ends


def windows(sizes: Sequence[int] | np.ndarray, room: int, overlap: int) -> list[tuple[int, int]]:
    """Which units (tokens, words) each window holds, first to last exclusive; together they hold all.

    A window is filled as far as it goes, and the next one begins so that at most `overlap` tokens are in
    both.

    Args:
        sizes: tokens of each unit, each at least 1 and at most `room`.
        room: tokens of a window.
        overlap: tokens, below `room`.

    Returns:
        At least one window; (0, 0) where there is nothing.

    >>> windows([1] * 10, room=6, overlap=2)
    [(0, 6), (4, 10)]
    """
    ends = np.concatenate([[0], np.cumsum(np.asarray(sizes, np.int64))])
    total = len(ends) - 1
    out, start = [], 0
    while True:
        last = int(np.searchsorted(ends, ends[start] + room, side="right")) - 1
        out.append((start, last))
        if last >= total:
            return out
        keep = int(np.searchsorted(ends, ends[last] - overlap, side="left"))
        fits = int(np.searchsorted(ends, ends[last + 1] - room, side="left"))  # the next unit gets in
        start = max(keep, fits, start + 1)


def owners(spans: Sequence[tuple[int, int]], sizes: Sequence[int] | np.ndarray) -> np.ndarray:
    """The window in which each unit has most context, int64 (N,): most tokens on its poorer side.

    Of equal windows the first one. So each window owns a run of units, and every unit has one owner.

    >>> owners([(0, 6), (4, 10)], [1] * 10).tolist()
    [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    """
    ends = np.concatenate([[0], np.cumsum(np.asarray(sizes, np.int64))])
    total = len(ends) - 1
    best = np.full(total, -1, np.int64)
    owner = np.zeros(total, np.int64)
    for number, (first, last) in enumerate(spans):
        units = np.arange(first, last)
        context = np.minimum(ends[units] - ends[first], ends[last] - ends[units + 1])
        better = context > best[first:last]
        best[first:last][better] = context[better]
        owner[first:last][better] = number
    return owner


# how ---------------------------------------------------------------------------------------------------


def _by_bytes(codec: ByteCodec, text: str) -> Offsets | tuple[None, None, None]:
    """Exact where the ids' bytes are the text's: each byte belongs to one character."""
    ids = np.asarray(codec.encode(text), np.int64)
    body = np.frombuffer(text.encode(), np.uint8)
    ends = np.concatenate([[0], np.cumsum(_sizes(codec)[ids], dtype=np.int64)])
    if int(ends[-1]) != len(body) or codec.decode(ids.tolist()) != text:
        return None, None, None  # a tokenizer made elsewhere that normalises
    if not len(ids):
        return ids, ids.copy(), ids.copy()
    char = np.cumsum((body & 0xC0) != 0x80) - 1
    first = char[np.minimum(ends[:-1], len(body) - 1)]
    last = np.where(ends[1:] > ends[:-1], char[np.maximum(ends[1:] - 1, 0)] + 1, first)
    return ids, first, last


@lru_cache(maxsize=4)
def _sizes(codec: ByteCodec) -> np.ndarray:
    return codec.token_bytes()


def _by_tokenizer(codec: Codec, text: str) -> Offsets:
    """As `tokenizers` says, part by part where the codec encodes in parts."""
    ids: list[np.ndarray] = []
    pairs: list[np.ndarray] = []
    base = 0
    for part in [text] if codec.kind == "pretrained" else cut(text):
        found = codec.tokenizer.encode(part, add_special_tokens=False)
        ids.append(np.asarray(found.ids, np.int64))
        pairs.append(np.asarray(found.offsets, np.int64).reshape(-1, 2) + base)
        base += len(part)
    both = np.concatenate(pairs)
    return np.concatenate(ids), both[:, 0], both[:, 1]


def _tidy(text: str, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """White space off the edges, dropped marks on."""
    points = np.frombuffer(text.encode("utf-32-le"), "<u4")
    L = len(points)
    place = np.arange(L + 1)
    solid = ~np.isin(points, _SPACES)
    # the next character from here on that is no white space; the end of the last one before here
    after = np.minimum.accumulate(np.where(np.append(solid, True), place, L)[::-1])[::-1]
    before = np.maximum.accumulate(np.where(np.insert(solid, 0, True), place, 0))
    first, last = after[starts], before[ends]
    kept = first < last  # a token of white space alone keeps its place
    starts, ends = np.where(kept, first, starts), np.where(kept, last, ends)
    loose = _marks(points)
    if loose.any():
        step = np.zeros(L + 1, np.int64)
        np.add.at(step, starts, 1)
        np.add.at(step, ends, -1)
        loose &= np.cumsum(step)[:L] == 0
        stop = np.minimum.accumulate(np.where(np.append(~loose, True), place, L)[::-1])[::-1]
        ends = np.where(ends > starts, stop[ends], ends)
    return starts, ends


def _marks(points: np.ndarray) -> np.ndarray:
    """Which characters change the one before them: combining marks, variation selectors, joiners."""
    if not len(points) or int(points.max()) < 0x300:
        return np.zeros(len(points), bool)
    kinds = np.unique(points)
    kinds = kinds[kinds >= 0x300]
    mine = [p for p in kinds.tolist() if p == _JOINER or unicodedata.category(chr(p))[0] == "M"]
    return np.isin(points, np.array(mine, np.int64))


def _origin(text: str) -> np.ndarray:
    """Where each character of the scrubbed text begins in the text, and the text's length at the end."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    high, low = (points >> 10) == 0x36, (points >> 10) == 0x37
    paired = np.zeros(len(points), bool)
    paired[1:] = low[1:] & high[:-1]  # the second half of a pair: one character with the first
    return np.append(np.flatnonzero(~paired), len(points))


@lru_cache(maxsize=1)
def _splitter() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(_WORD), "isolated")


def _parts(text: str) -> list[str]:
    """A giant text in parts, cut before white space only."""
    out, start = [], 0
    while len(text) - start > _PART:
        at = next((i for i in range(start + _PART, len(text)) if text[i].isspace()), len(text))
        out.append(text[start:at])
        start = at
    out.append(text[start:])
    return out
