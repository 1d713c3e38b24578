"""The exact probability of a text, and whether sentences are well formed: from the text alone.

`parse` finds every derivation of a text by telling stories against it (see `chooser.Scorer`); the
probability is their sum. Every derivation that a sampled text has is tested to be the only one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import exp, inf, log, sqrt
from typing import TYPE_CHECKING

from ..errors import DataError
from .chooser import Mismatch, Scorer, Step
from .plots import tell

if TYPE_CHECKING:
    from .grammar import Template
    from .world import World

MAX_BRANCHES = 10_000
END = re.compile(r'[.!?]"?(?=\s|$)')


@dataclass(frozen=True)
class Parse:
    """What a text is under the generator.

    Attributes:
        log_prob: in nats; -inf if the text cannot be told by this world.
        derivations: how many ways there are to tell it (1 for every text of the world, 0 for others).
        position: how far the text could be followed: its length, or the character where it leaves the world.
        steps: the sentences of the (first) derivation.
    """

    log_prob: float
    derivations: int
    position: int
    steps: tuple[Step, ...]


def parse(world: World, text: str) -> Parse:
    """All derivations of a text, with their total probability."""
    found: list[Scorer] = []
    stack: list[list[int]] = [[]]
    position = 0
    for _ in range(MAX_BRANCHES):
        if not stack:
            break
        scorer = Scorer(world, text, stack.pop())
        try:
            tell(scorer)
            if scorer.pos == len(text):
                found.append(scorer)
            position = max(position, scorer.pos)
        except Mismatch as stop:
            position = max(position, stop.position)
        stack += scorer.open
    if stack:  # never seen: the sum would not be exact
        raise DataError(
            f"a text has more than {MAX_BRANCHES} readings",
            expected="a text of this world",
            next="shorten the text",
        )
    if not found:
        return Parse(-inf, 0, position, ())
    top = max(scorer.log_prob for scorer in found)
    total = top + log(sum(exp(scorer.log_prob - top) for scorer in found))
    return Parse(total, len(found), len(text), tuple(found[0].steps))


def split(text: str) -> list[str]:
    """The sentences of a text as a reader sees them: ends at . ! ? outside quotes, or at a line break."""
    out = []
    for line in text.splitlines():
        start = 0
        for match in END.finditer(line):
            piece = line[start : match.end()]
            after = line[match.end() : match.end() + 2]
            if piece.count('"') % 2 == 0 and not after[1:2].islower():
                out.append(piece.strip())
                start = match.end()
        if line[start:].strip():
            out.append(line[start:].strip())
    return out


class Recogniser:
    """Says whether a single sentence or title can be told by the world, whatever the story around it.

    Words must agree where the grammar makes them agree: the facts of the world do not matter (a baker may be
    called a
    smith), but "a" and "an", capital letters, and the pronouns and words of each slot do.
    """

    def __init__(self, world: World) -> None:
        forms: dict[tuple[str, str], set[str]] = {}
        for var, values in world.domain.items():
            for value in values:
                for form, surface in value.f.items():
                    forms.setdefault((var, form), set()).add(surface)
        for var in "abcd":
            forms[var, "ref"] = forms[var, "n"] | {"she", "he"}
            forms[var, "^ref"] = forms[var, "n"] | {"She", "He"}
        for var in "tu":
            forms[var, "it"] = forms[var, ""] | {"it"}
        classes = {
            key: "(?:" + "|".join(map(re.escape, sorted(values, key=lambda s: (-len(s), s)))) + ")"
            for key, values in forms.items()
        }
        self._patterns: list[tuple[str, re.Pattern[str]]] = []
        for kind in world.grammar.kinds.values():
            for template in kind.templates:
                if template.source:
                    self._patterns.append(self._compile(template, classes))
        self._known: dict[str, bool] = {}

    @staticmethod
    def _compile(template: Template, classes: dict) -> tuple[str, re.Pattern[str]]:
        literals = [literal for literal, _, _ in template.ops] + [template.tail]
        body = "".join(re.escape(lit) + classes[var, form] for lit, var, form in template.ops)
        return max(literals, key=len), re.compile(body + re.escape(template.tail))

    def __call__(self, sentence: str) -> bool:
        known = self._known.get(sentence)
        if known is None:
            known = any(lit in sentence and rx.fullmatch(sentence) is not None for lit, rx in self._patterns)
            if len(self._known) < 100_000:
                self._known[sentence] = known
        return known


@dataclass(frozen=True)
class Floor:
    """The entropy of the generator, estimated from samples: no model can have a lower expected loss.

    Attributes:
        nats: per document; `low` and `high` bound it with 95% confidence.
        nats_per_byte, bits_per_byte: over all bytes of the sample, the separating newline not counted.
        documents, bytes: the size of the sample.
    """

    nats: float
    low: float
    high: float
    nats_per_byte: float
    documents: int
    bytes: int

    @property
    def bits_per_byte(self) -> float:
        return self.nats_per_byte / log(2)

    def per_token(self, tokens: int) -> float:
        """Nats per token, for a codec that writes the same sample in `tokens` tokens (end marks included)."""
        return self.nats * self.documents / tokens


def floor(world: World, n: int, start: int) -> Floor:
    """The entropy floor from documents start .. start+n-1."""
    values, size = [], 0
    for i in range(start, start + n):
        doc = world.document(i)
        values.append(-doc.log_prob)
        size += len(doc.text.encode())
    mean = sum(values) / n
    spread = sqrt(sum((v - mean) ** 2 for v in values) / max(n - 1, 1) / n)
    return Floor(mean, mean - 1.96 * spread, mean + 1.96 * spread, sum(values) / size, n, size)
