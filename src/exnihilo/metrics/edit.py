"""Word and character error rates: how many edits turn what was written into what was said.

    found = errors(["the cat sat"], ["a cat sat"])
    found["wer"], found["cer"]                       # 0.333..., 0.2727...

Counts are summed over all texts and divided once, by the length of the references: a rate can exceed 1. Texts
are compared as they are, but for white space: runs of it are one space.

Source: Levenshtein 1966; Wagner & Fischer 1974, *The String-to-String Correction Problem*.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def distance(reference: Sequence[Hashable], written: Sequence[Hashable]) -> int:
    """The least number of substitutions, deletions and insertions.

    Example:
        >>> distance("kitten", "sitting")
        3
    """
    if not reference or not written:
        return len(reference) + len(written)
    ids: dict[Hashable, int] = {}
    a = np.array([ids.setdefault(x, len(ids)) for x in reference])
    b = np.array([ids.setdefault(x, len(ids)) for x in written])
    place = np.arange(len(b) + 1)
    row = place.copy()
    for i, symbol in enumerate(a, 1):
        best = np.empty_like(row)
        best[0] = i
        best[1:] = np.minimum(row[1:] + 1, row[:-1] + (b != symbol))
        # an insertion costs one more than what stands to its left: a running minimum along the row
        row = np.minimum.accumulate(best - place) + place
    return int(row[-1])


def errors(references: Sequence[str], written: Sequence[str]) -> dict[str, float]:
    """``wer`` and ``cer``, and ``exact``, the share of texts without an error.

    Args:
        references: what was said.
        written: what was understood, as many.

    Raises:
        ValueError: other numbers of texts, or references without a word.

    Example:
        >>> errors(["one two", "three"], ["one two", "tree"])["exact"]
        0.5
    """
    if len(references) != len(written):
        raise ValueError(f"{len(references)} references, {len(written)} texts to compare")
    words = chars = word_errors = char_errors = exact = 0
    for reference, text in zip(references, written, strict=True):
        said, heard = reference.split(), text.split()
        words += len(said)
        word_errors += distance(said, heard)
        one, other = " ".join(said), " ".join(heard)
        chars += len(one)
        char_errors += distance(one, other)
        exact += said == heard
    if not words:
        raise ValueError("no reference has a word")
    return {"wer": word_errors / words, "cer": char_errors / chars, "exact": exact / len(references)}
