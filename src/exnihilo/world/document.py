"""A document: its text, how it was derived, and what is true of it.

doc = World().document(0) doc.text                    # title, blank line, paragraphs with blank lines
between them doc.sentences[2].start      # character offset: doc.text[s.start : s.end] == s.text
doc.log_prob                # exact, in nats
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from .chooser import Step
from .facts import Entity, Thing

if TYPE_CHECKING:
    from .truth import Entailment, Event, Mention, Question
    from .world import World

HELD_OUT = 1 << 40  # held-out documents start at this index


@dataclass(frozen=True)
class Sentence:
    """A sentence or title: `document.text[start:end] == text`.

    `kind` is its name in the grammar; `sentiment` is -1, 0 or 1.
    """

    text: str
    start: int
    end: int
    kind: str
    sentiment: int

    def __str__(self) -> str:
        return self.text


class Document:
    """A story with its ground truth. All but `text` and `log_prob` is worked out when it is asked for."""

    def __init__(self, world: World, index: int | None, steps: Sequence[Step], log_prob: float) -> None:
        self.world, self.index, self.steps = world, index, tuple(steps)
        self.log_prob = log_prob

    def __repr__(self) -> str:
        return f"Document({self.title!r}, index={self.index}, sentences={len(self.sentences)})"

    @cached_property
    def text(self) -> str:
        """Title, blank line, paragraphs separated by blank lines; no newline at the end."""
        out: list[str] = []
        for step in self.steps:
            out.append(step.sep)
            out += step.parts
        return "".join(out)

    @property
    def title(self) -> str:
        return "".join(self.steps[0].parts)

    @cached_property
    def plot(self) -> str:
        """The name of the plot, e.g. "lost"."""
        return self.steps[0].kind.name[2:].lower()

    @cached_property
    def spans(self) -> tuple[Sentence, ...]:
        """The title and all sentences, in order, one for each of `steps`."""
        out, at = [], 0
        for step in self.steps:
            start = at + len(step.sep)
            surface = "".join(step.parts)
            at = start + len(surface)
            out.append(Sentence(surface, start, at, step.kind.name, step.kind.valence))
        return tuple(out)

    @property
    def sentences(self) -> tuple[Sentence, ...]:
        """The sentences after the title. `sentences[i + 1]` is the next sentence of `sentences[i]`."""
        return self.spans[1:]

    @cached_property
    def paragraphs(self) -> list[list[Sentence]]:
        """The sentences of each paragraph, questions after the story included."""
        out: list[list[Sentence]] = []
        for step, sentence in zip(self.steps[1:], self.sentences, strict=True):
            if step.sep == "\n\n":
                out.append([])
            out[-1].append(sentence)
        return out

    @cached_property
    def story_end(self) -> int:
        """How many of `steps` are the title and the story; what follows are questions with answers."""
        for i, step in enumerate(self.steps):
            if step.kind.name[:2] == "Q_":
                return i
        return len(self.steps)

    @cached_property
    def story(self) -> str:
        """The text without the questions after it."""
        return self.text[: self.spans[self.story_end - 1].end]

    @cached_property
    def entities(self) -> tuple[Mention, ...]:
        """Every mention of a person, place, thing or animal, pronouns included, in order of place."""
        from .truth import mentions

        return mentions(self)

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """What happened, in order, with roles (agent, patient, recipient, location, destination)."""
        from .truth import events

        return events(self)

    @cached_property
    def tags(self) -> tuple[tuple[str, int, int, str, str], ...]:
        """(word, start, end, part of speech, BIO tag) for each word and mark of the text."""
        from .tags import tags

        return tags(self)

    @cached_property
    def qa(self) -> tuple[Question, ...]:
        """Questions with answer spans; unanswerable ones have none."""
        from .truth import questions

        return questions(self)

    @cached_property
    def entailment(self) -> tuple[Entailment, ...]:
        """Pairs (premise, hypothesis, label), the three labels equally often."""
        from .truth import entailments

        return entailments(self)

    @cached_property
    def sentiment(self) -> int:
        """How the story ends for its hero: 1 well, -1 badly."""
        for step in reversed(self.steps):
            if step.kind.name in ("E_GLAD", "E_SAD"):
                return step.kind.valence
        return 0

    @cached_property
    def state(self) -> tuple[dict[Entity, Entity], dict[Thing, Entity]]:
        """Where everyone is, and who or which place has each thing, at the end (where the story says so)."""
        loc: dict = {}
        has: dict = {}
        for step in self.steps:
            for what, x, y in step.kind.effects:
                if what == "loc":
                    loc[step.bound[x]] = step.bound[y]
                elif what == "has":
                    has[step.bound[y]] = step.bound[x]
                elif what == "gone":
                    has.pop(step.bound[x], None)
                elif what == "away":
                    loc.pop(step.bound[x], None)
        return loc, has
