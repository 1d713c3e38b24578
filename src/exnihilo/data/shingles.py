"""Fingerprints of text that survive small changes: sampled 50-character windows, for finding near-duplicates.

A text is folded (ASCII letters to lower case; white space and punctuation dropped), and of all its windows of
50 bytes those are kept whose first 8 bytes hash to 0 modulo `RATE`. Which windows are kept so depends on what
stands in them alone: two texts that share a passage share its windows, wherever it stands (winnowing without
a window bound: Schleimer, Wilkerson & Aiken, *Winnowing*, 2003). One window in `RATE` costs 8 bytes / RATE of
the text's size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WINDOW = 50
RATE = 128
_HEAD = 8
_K = np.uint64(0x9E3779B97F4A7C15)
_FOLD = bytes(range(256)).lower()
_DROP = b" \t\r\n\v\f.,;:!?\"'`()[]{}<>-_*#/\\|~=+"


def shingles(texts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Sampled windows of many texts.

    Returns:
        (hashes uint64 [n], number of each hash's text int64 [n]), ordered by text and place.
    """
    folded = [t.translate(_FOLD, _DROP) for t in texts]
    data = b"".join(folded)
    ends = np.cumsum([len(f) for f in folded], dtype=np.int64)
    if len(data) < WINDOW:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    hits = []
    shift = np.uint64(64 - RATE.bit_length() + 1)
    for offset in range(_HEAD):
        count = (len(data) - offset) // _HEAD
        heads = np.frombuffer(data, "<u8", count=count, offset=offset)
        hits.append(np.flatnonzero((heads * _K) >> shift == 0) * _HEAD + offset)
    place = np.sort(np.concatenate(hits))
    text = np.searchsorted(ends, place, side="right")
    inside = place + WINDOW <= ends[np.minimum(text, len(ends) - 1)]
    place, text = place[inside], text[inside]
    bytes_ = np.zeros((len(place), -(-WINDOW // 8) * 8), np.uint8)
    bytes_[:, :WINDOW] = np.frombuffer(data, np.uint8)[place[:, None] + np.arange(WINDOW)]
    words = bytes_.view("<u8")
    value = np.zeros(len(place), np.uint64)
    for i in range(words.shape[1]):
        value = (value ^ words[:, i]) * _K
        value ^= value >> np.uint64(29)
    return value, text
