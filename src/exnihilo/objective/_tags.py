"""Tags of words: which scheme they are in, repairing them, spans to tags and back, what may follow what.

Used by token_tagging. A scheme is ``bio`` (B- I- O), ``bioes`` (B- I- O E- S-; the letters of BILOU and BMES
are read as these) or ``none``: plain classes such as parts of speech.

Key: C labels

Reference: Ramshaw & Marcus, 1995 (BIO); Ratinov & Roth, 2009 (BILOU); conlleval's reading of broken tags
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from exnihilo.errors import DataError
from exnihilo.metrics.spans import LETTERS, Span, entities, parts
from exnihilo.objective._offsets import words as find_words

_OTHER = {  # letters of other schemes; BILOU and BMES say the same as bioes
    "bioes": {"L": "E", "U": "S", "M": "I"},
    "bio": {"E": "I", "S": "B", "L": "I", "U": "B", "M": "I"},
}
_SETS = ({"B", "I"}, {"B", "I", "E", "S"}, {"B", "I", "L", "U"}, {"B", "M", "E", "S"})


def detect(tags: Iterable[str]) -> str:
    """The scheme that a set of tags is written in: "bio", "bioes" or "none".

    >>> detect({"O", "B-PER", "I-PER"}), detect({"O", "U-PER", "B-PER"}), detect({"NOUN", "O"})
    ('bio', 'bioes', 'none')
    """
    spans = {tag for tag in tags if tag != "O"}
    if not spans or not all(tag[:1].isupper() and (len(tag) == 1 or tag[1] == "-") for tag in spans):
        return "none"
    letters = {tag[0] for tag in spans}
    for known in _SETS:
        if letters <= known:
            return "bio" if known == _SETS[0] else "bioes"
    return "none"


def canonical(tags: Sequence[str], scheme: str) -> list[str]:
    """The tags in the scheme's own letters.

    >>> canonical(["U-PER", "O"], "bioes")
    ['S-PER', 'O']
    """
    other = _OTHER.get(scheme, {})
    return [other.get(tag[:1], tag[:1]) + tag[1:] if tag[1:2] in ("", "-") else tag for tag in tags]


def repair(tags: Sequence[str], scheme: str) -> list[str]:
    """Tags that spell the scheme, with the spans that conlleval reads from these.

    >>> repair(["I-PER", "I-PER", "O"], "bio"), repair(["B-PER", "I-PER"], "bioes")
    (['B-PER', 'I-PER', 'O'], ['B-PER', 'E-PER'])
    """
    if scheme == "none":
        return list(tags)
    mine = canonical(tags, scheme)
    return spell(entities(mine), len(tags), scheme)


def spell(spans: Iterable[Span], n: int, scheme: str) -> list[str]:
    """Spans -> the tags of `n` words.

    >>> spell([("PER", 0, 2), ("LOC", 3, 4)], 5, "bioes")
    ['B-PER', 'E-PER', 'O', 'S-LOC', 'O']
    """
    out = ["O"] * n
    for kind, first, last in spans:
        out[first:last] = [name("I", kind)] * (last - first)
        out[first] = name("B", kind)
        if scheme == "bioes":
            out[last - 1] = name("E" if last - first > 1 else "S", kind)
    return out


def name(letter: str, kind: str) -> str:
    """A tag; a span without a type has a bare letter."""
    return letter if kind == "_" else f"{letter}-{kind}"


def labels(tags: Iterable[str], scheme: str) -> list[str]:
    """All labels a model needs for these tags, in a fixed order: whole sets of letters for every type."""
    tags = set(tags)
    if scheme == "none":
        return sorted(tags)
    kinds = sorted({parts(tag)[1] for tag in tags if tag != "O"})
    return ["O", *(name(letter, kind) for kind in kinds for letter in LETTERS[scheme][1:])]


def allowed(names: Sequence[str], scheme: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What may follow what (C, C), begin (C,) and end (C,) a sequence; bool. All, for plain classes."""
    C = len(names)
    if scheme == "none":
        return np.ones((C, C), bool), np.ones(C, bool), np.ones(C, bool)
    letter = np.array([tag[:1] for tag in names])
    kind = np.array([parts(tag)[1] if tag != "O" else "" for tag in names])
    inside = np.isin(letter, ["I", "E"])  # needs an open span of its type before it
    opens = np.isin(letter, ["B", "I"])  # leaves one
    same = (kind[:, None] == kind[None, :]) & opens[:, None]
    follow = np.where(inside[None, :], same, True)
    if scheme == "bioes":  # an open span must go on
        follow &= ~opens[:, None] | (inside[None, :] & same)
        return follow, ~inside, ~opens
    return follow, ~inside, np.ones(C, bool)


class Sentence(NamedTuple):
    """An example's words, where they stand in its text, and its tags where it has some.

    Attributes:
        text: the text that offsets count in; words given as a list are joined by spaces.
        tags: in the scheme's letters, as given otherwise (not repaired); None without gold.
        moved: gold spans that do not begin and end with words, or overlap others.
    """

    text: str
    words: list[str]
    starts: np.ndarray
    ends: np.ndarray
    tags: list[str] | None
    moved: int


def sentence(example: Mapping[str, Any], scheme: str | None) -> Sentence:
    """Words and tags, or text and character spans, in one form.

    Args:
        scheme: the tags' letters; None while it is not known (tags are then as given, spans as bio).

    Raises:
        DataError: neither words nor text; tags that do not match the words; spans that are none.
    """
    given = example.get("words")
    if given is None:
        return _of_text(example, scheme)
    if isinstance(given, str):
        given = given.split()
    if not isinstance(given, (list, tuple)) or not all(isinstance(w, str) for w in given):
        raise DataError(
            f"'words' holds {type(given).__name__} {str(given)[:40]!r}", expected="a list of strings"
        )
    found = list(given)
    sizes = np.array([len(w) for w in found], np.int64)
    ends = np.cumsum(sizes + 1) - 1
    tags = example.get("tags")
    if isinstance(tags, str):
        tags = tags.split()
    if tags is not None:
        if not isinstance(tags, (list, tuple)) or len(tags) != len(found):
            count = len(tags) if isinstance(tags, (list, tuple)) else repr(tags)[:40]
            raise DataError(
                f"{count} tags for {len(found)} words", expected="one tag a word", next="correct this row"
            )
        if any(tag is None or tag == "" for tag in tags):
            raise DataError("an empty tag", expected="one tag a word", next="correct this row")
        tags = canonical([str(tag) for tag in tags], scheme or "none")
    return Sentence(" ".join(found), found, ends - sizes, ends, tags, 0)


def _of_text(example: Mapping[str, Any], scheme: str | None) -> Sentence:
    text = example.get("text")
    if not isinstance(text, str):
        there = ", ".join(repr(k) for k in example if k[:1] != "_") or "nothing"
        raise DataError(
            f"neither 'words' nor 'text'; found: {there}",
            expected="words and tags, or text and spans",
            next='name the columns with data.fields={words = "COLUMN"}',
        )
    starts, ends = find_words(text)
    found = [text[s:e] for s, e in zip(starts.tolist(), ends.tolist(), strict=True)]
    spans = example.get("spans")
    if spans is None:
        return Sentence(text, found, starts, ends, None, 0)
    mine, moved = snap(spans, starts, ends)
    return Sentence(text, found, starts, ends, spell(mine, len(found), scheme or "bio"), moved)


def snap(spans: Any, starts: np.ndarray, ends: np.ndarray) -> tuple[list[Span], int]:
    """Character spans -> spans of words, and how many were not exactly that: widened to whole words, out of
    the text, or overlapping a longer one.

    >>> snap([{"start": 0, "end": 3, "label": "X"}], np.array([0, 4]), np.array([3, 6]))
    ([('X', 0, 1)], 0)
    """
    if not isinstance(spans, (list, tuple)):
        raise DataError(f"'spans' holds {type(spans).__name__}", expected="a list of {start, end, label}")
    out: list[Span] = []
    moved = 0
    wanted = []
    for span in spans:
        try:
            begin, end, label = int(span["start"]), int(span["end"]), str(span["label"])
        except (TypeError, KeyError, ValueError) as error:
            raise DataError(
                f"a span {str(span)[:60]}", expected="start, end (characters) and label"
            ) from error
        wanted.append((begin - end, begin, end, label))
    taken = np.zeros(len(starts), bool)
    for _, begin, end, label in sorted(wanted):
        first = int(np.searchsorted(ends, begin, side="right"))
        last = int(np.searchsorted(starts, end, side="left"))
        if first >= last or taken[first:last].any():
            moved += 1
            continue
        taken[first:last] = True
        moved += int(starts[first]) != begin or int(ends[last - 1]) != end
        out.append((label, first, last))
    return sorted(out, key=lambda span: span[1]), moved
