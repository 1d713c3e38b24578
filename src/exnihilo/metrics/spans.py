"""Spans in sequences of tags, and their precision, recall and F1, strict and lenient.

::

    entities(["B-PER", "I-PER", "O"])                     # [("PER", 0, 2)]
    score(gold, predicted, "bio")["f1"], score(gold, predicted, "bio")["f1_strict"]

*Lenient* (``f1``) is the convention of conlleval and seqeval's default: an I- that follows nothing of its
type begins a span. *Strict* (``f1_strict``) is seqeval's strict mode: a span must be spelled as the scheme
says, else it is none. Both are micro averages over the raw counts of all sequences.

Tags: ``O``, or a letter, a dash and a type. Schemes: bio = B I O; bioes = B I O E S.

Reference: Tjong Kim Sang & Buchholz, *CoNLL-2000*, conlleval; Ramshaw & Marcus, 1995; Nakayama, seqeval, 2018
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

Scheme = Literal["bio", "bioes"]
Span = tuple[str, int, int]
"""(type, first, last exclusive), in words."""

LETTERS: dict[str, str] = {"bio": "OBI", "bioes": "OBIES"}


def parts(tag: str) -> tuple[str, str]:
    """(letter, type): the type of a bare letter is "_".

    >>> parts("B-PER"), parts("O"), parts("I-a-b")
    (('B', 'PER'), ('O', '_'), ('I', 'a-b'))
    """
    return tag[:1], tag[1:].split("-", 1)[-1] or "_"


def entities(tags: Sequence[str]) -> list[Span]:
    """Spans by the lenient rule, in order.

    >>> entities(["I-PER", "I-LOC", "O", "E-LOC"])
    [('PER', 0, 1), ('LOC', 1, 2), ('LOC', 3, 4)]
    """
    out: list[Span] = []
    begin, before, kind = 0, "O", ""
    for i, tag in enumerate((*tags, "O")):
        letter, mine = parts(tag)
        if _ends(before, letter, kind, mine):
            out.append((kind, begin, i))
        if _begins(before, letter, kind, mine):
            begin = i
        before, kind = letter, mine
    return out


def _ends(before: str, now: str, kind: str, mine: str) -> bool:
    """Whether a span that reached the tag before this one ends there."""
    if before in ("E", "S"):
        return True
    if before in ("B", "I") and now in ("B", "S", "O"):
        return True
    return before not in ("O", ".") and kind != mine


def _begins(before: str, now: str, kind: str, mine: str) -> bool:
    """Whether a span begins at this tag."""
    if now in ("B", "S"):
        return True
    if before in ("E", "S", "O") and now in ("E", "I"):
        return True
    return now not in ("O", ".") and kind != mine


def strict_entities(tags: Sequence[str], scheme: Scheme) -> list[Span]:
    """Spans that are spelled as the scheme says: bio B I*, bioes B I* E or S; all else is none.

    Raises:
        ValueError: a letter that the scheme does not have.

    >>> strict_entities(["I-PER", "B-LOC", "I-LOC"], "bio"), strict_entities(["B-LOC", "I-LOC"], "bioes")
    ([('LOC', 1, 3)], [])
    """
    pairs = [(tag[:1], tag[1:].strip("-") or "_") for tag in tags]
    for letter, _ in pairs:
        if letter not in LETTERS[scheme]:
            raise ValueError(f"a tag {letter!r} in the scheme {scheme} ({', '.join(LETTERS[scheme])})")
    out: list[Span] = []
    at, n = 0, len(pairs)
    while at < n:
        letter, kind = pairs[at]
        if letter == "S":
            out.append((kind, at, at + 1))
        if letter != "B":
            at += 1
            continue
        last = at + 1
        while last < n and pairs[last] == ("I", kind):
            last += 1
        if scheme == "bio":
            out.append((kind, at, last))
        elif last < n and pairs[last] == ("E", kind):
            last += 1
            out.append((kind, at, last))
        at = last
    return out


def score(
    gold: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str]],
    scheme: Scheme,
    *,
    gold_strict: Sequence[Sequence[str]] | None = None,
) -> dict[str, float]:
    """precision, recall, f1 (lenient), the same with ``_strict``, ``f1@TYPE`` (lenient) and token accuracy.

    Args:
        gold, predicted: tags of each sequence, equally many.
        gold_strict: gold tags for the strict figures, where `gold` is not written in the scheme.

    Raises:
        ValueError: sequences of different lengths, or a letter outside the scheme.
    """
    lenient = _Counts()
    strict = _Counts()
    hits = total = 0
    for g, p, s in zip(gold, predicted, gold_strict or gold, strict=True):
        if len(g) != len(p):
            raise ValueError(f"{len(p)} predicted tags for {len(g)} words")
        lenient.add(entities(g), entities(p))
        strict.add(strict_entities(s, scheme), strict_entities(p, scheme))
        hits += sum(map(str.__eq__, g, p))
        total += len(g)
    out = {**lenient.figures(""), **strict.figures("_strict"), "accuracy": hits / total if total else 0.0}
    return out | {f"f1@{kind}": lenient.f1(kind) for kind in lenient.kinds()}


class _Counts:
    """Spans that are right, that were predicted, and that are gold, by type."""

    def __init__(self) -> None:
        self.right: Counter[str] = Counter()
        self.given: Counter[str] = Counter()
        self.gold: Counter[str] = Counter()

    def add(self, gold: Iterable[Span], given: Iterable[Span]) -> None:
        gold, given = set(gold), set(given)
        self.right.update(span[0] for span in gold & given)
        self.gold.update(span[0] for span in gold)
        self.given.update(span[0] for span in given)

    def kinds(self) -> list[str]:
        return sorted(self.gold.keys() | self.given.keys())

    def f1(self, kind: str) -> float:
        return f1(self.right[kind], self.given[kind], self.gold[kind])

    def figures(self, suffix: str) -> dict[str, float]:
        right, given, gold = self.right.total(), self.given.total(), self.gold.total()
        return {
            f"precision{suffix}": right / given if given else 0.0,
            f"recall{suffix}": right / gold if gold else 0.0,
            f"f1{suffix}": f1(right, given, gold),
        }


def f1(right: int, given: int, gold: int) -> float:
    """Harmonic mean of right / given and right / gold, 0 where nothing is right."""
    return 2 * right / (given + gold) if given + gold else 0.0
