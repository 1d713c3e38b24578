"""What token tagging learns from its training data before the first step: scheme, labels, counts, odd rows.

survey = Survey("auto")
for example in examples: survey.add(example)
survey.facts()["scheme"], survey.facts()["labels"], survey.facts()["notes"]
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from exnihilo.errors import DataError
from exnihilo.metrics.spans import LETTERS, parts
from exnihilo.objective import _tags
from exnihilo.objective.base import Example

WORDS = 20_000  # of the majority baseline's table
_HELD = 200_000  # different words counted at once
NAMED = 5  # odd rows that are named


def place_name(example: Example, row: int) -> str:
    """How a row is called: its id, or its number from 1.

    >>> place_name({"id": "s7"}, 3), place_name({}, 3)
    ("'s7'", 'row 4')
    """
    if isinstance(example.get("id"), (str, int)):
        return repr(example["id"])
    return f"row {int(example.get('_index', row)) + 1}"


class Survey:
    """Counts over one pass of the examples; memory does not grow with their number."""

    def __init__(self, scheme: str) -> None:
        self._asked = scheme
        self._rows = self._words = self._moved = 0
        self._tags: Counter[str] = Counter()
        self._of_word: dict[str, Counter[str]] = defaultdict(Counter)
        self._broken: Counter[str] = Counter()  # tags that a scheme would have otherwise
        self._first_broken: dict[str, str] = {}
        self._skipped: list[str] = []
        self._skips = 0
        self._spans = False

    def add(self, example: Example) -> None:
        """One training example; one whose tags do not match its words is counted and left out."""
        row = self._rows + self._skips
        try:
            said = _tags.sentence(example, None)
            if said.tags is None:
                raise DataError("no tags", expected="tags, or spans")
        except DataError as error:
            self._skips += 1
            if len(self._skipped) < NAMED:
                self._skipped.append(f"{place_name(example, row)}: {error.given}")
            return
        self._rows += 1
        self._words += len(said.words)
        self._moved += said.moved
        self._spans |= "words" not in example
        self._tags.update(said.tags)
        for word, tag in zip(said.words, said.tags, strict=True):
            self._of_word[word][tag] += 1
        if len(self._of_word) > _HELD:
            kept = sorted(self._of_word.items(), key=lambda pair: (-pair[1].total(), pair[0]))[: _HELD // 2]
            self._of_word = defaultdict(Counter, kept)
        if any(tag != "O" for tag in said.tags):
            for scheme in ("bio", "bioes"):
                own = _tags.canonical(said.tags, scheme)
                wrong = sum(map(str.__ne__, own, _tags.repair(own, scheme)))
                if wrong:
                    self._broken[scheme] += wrong
                    self._first_broken.setdefault(scheme, place_name(example, row))

    def facts(self) -> dict[str, Any]:
        """JSON: scheme, labels, counts, majority, what was odd, and notes to be said.

        Raises:
            DataError: not one usable example; letters that no scheme set by hand can read.
        """
        if not self._words:
            raise DataError(
                f"no words with tags in {self._rows + self._skips} examples"
                + (f"; {'; '.join(self._skipped)}" if self._skipped else ""),
                expected="words and as many tags, or text and spans",
                next="check data=PATH and data.fields",
            )
        scheme = _tags.detect(self._tags) if self._asked == "auto" else self._asked
        if self._spans and scheme == "none" and self._asked == "auto":
            scheme = "bio"  # spans, if only none was found
        counts: Counter[str] = Counter()
        for tag, count in self._tags.items():
            counts[_tags.canonical([tag], scheme)[0]] += count
        foreign = [t for t in counts if scheme != "none" and t != "O" and not _reads(t)]
        if foreign:
            raise DataError(
                f"options.scheme={scheme}, and the tag {foreign[0]!r}",
                expected="O, or one of B I O E S, a dash and a type",
                next="options.scheme=none for plain classes",
            )
        names = _tags.labels(counts, scheme)
        written = _tags.detect(self._tags)
        written = scheme if written == "none" else written
        repaired = self._broken[scheme] if written == scheme != "none" else 0
        return {
            "scheme": scheme,
            "written": written,
            "labels": names,
            "counts": {name: counts[name] for name in sorted(counts)},
            "rows": self._rows,
            "words": self._words,
            "repaired_tags": repaired,
            "moved_spans": self._moved,
            "skipped_rows": self._skips,
            "skipped_first": list(self._skipped),
            "majority": self._majority(scheme, counts),
            "notes": self._notes(scheme, written, names, repaired),
        }

    def _majority(self, scheme: str, counts: Counter[str]) -> dict[str, Any]:
        """The commonest tag, and the words (of the commonest) that mostly have another one."""
        top = max(counts, key=lambda tag: (counts[tag], tag))
        common = sorted(self._of_word.items(), key=lambda pair: (-pair[1].total(), pair[0]))[:WORDS]
        table = {}
        for word, tags in common:
            own = _tags.canonical([max(tags, key=lambda tag, t=tags: (t[tag], tag))], scheme)[0]
            if own != top:
                table[word] = own
        return {"tag": top, "words": table}

    def _notes(self, scheme: str, written: str, names: list[str], repaired: int) -> list[str]:
        how = "found from the tags" if self._asked == "auto" else "as set"
        kinds = sorted({parts(n)[1] for n in names if n != "O"}) if scheme != "none" else names
        shown = ", ".join(kinds[:12]) + (", ..." if len(kinds) > 12 else "")
        what = "types" if scheme != "none" else "classes"
        notes = [f"scheme {scheme}, {how} (options.scheme=... sets it); {len(kinds)} {what}: {shown}"]
        if written != scheme != "none":
            notes.append(f"the tags are written in {written}: converted")
        if scheme == "bioes" and {t[0] for t in self._tags} - set(LETTERS["bioes"]):
            notes.append("the letters of BILOU or BMES are read as bioes")
        if repaired:
            notes.append(
                f"{repaired} tags do not spell {scheme} (an I- without B- before it, first in "
                f"{self._first_broken[scheme]}): read as conlleval does, a span begins there"
            )
        if self._moved:
            notes.append(
                f"{self._moved} spans do not begin and end with words: widened, or left out as overlapping"
            )
        if self._skips:
            named = "; ".join(self._skipped)
            notes.append(f"{self._skips} rows skipped, tags do not match words: {named}")
        if len(self._tags) == 1:
            notes.append(f"one tag only: {next(iter(self._tags))!r}; there is nothing to tell apart")
        return notes


def _reads(tag: str) -> bool:
    return tag[:1] in LETTERS["bioes"] and tag[:1] != "O" and (len(tag) == 1 or tag[1] == "-")
