"""Labelled examples from stories: one view of a document for each training type.

    for example in VIEWS["qa"].make(World(0).document(7)): ...      # {"question", "context", "answers", "id"}

A view turns one document into its examples: role -> value. All is read off the derivation, so every label is
the truth; a pure function of the document.

    stories     text                            the document as it is
    sentiment   text, label                     a paragraph; the mood it ends in: positive, neutral, negative
    entailment  a, b, label                     entailment, neutral or contradiction
    qa          question, context, answers, id  spans of the story; [] where it does not answer
    entities    words, tags (+ text, spans)     a paragraph; BIO tags of PERSON, PLACE, THING, ANIMAL, FOOD
    pos         words, tags (+ text)            a paragraph; parts of speech
    pairs       a, b                            two halves of one story
    rerank      query, document, label          a question with the passage that answers it (1) or another (0)
    dialogues   messages (+ answer, record)     a question about a person or the story, a task, or the story
    preferences prompt, chosen, rejected (+ record)     two replies that differ in one property
    tasks       prompt, answer, record          a task whose answer can be checked
    sounds      sound, label (+ text, events)   a bell, a bird, rain: which is it?
    soundscapes sound, events, text (+ label)   one to three of them in a row: which, and when?
    series      series, label                   a tide, a walk, beats: numbers over time
    pictures    picture, label (+ text)         one to four kites, drums ...: of what is it?
    scenes      question, answer (+ picture, sound)     about a picture, a sound, or both at once

Those from dialogues to tasks and the scenes have kinds (``data=world:tasks:add``); without one they take
turns. They draw from a stream that the document's number names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zlib import crc32

from . import pictures as drawings
from . import scenes as asked
from . import series as moments
from . import sounds as noises
from . import talks, tasks
from .rng import Draws

if TYPE_CHECKING:
    from .document import Document
    from .world import World

Values = dict[str, Any]
MOODS = {1: "positive", 0: "neutral", -1: "negative"}
LABELS = {"entailed": "entailment", "neutral": "neutral", "contradicted": "contradiction"}


@dataclass(frozen=True)
class View:
    """The roles that its examples have, and how they are made.

    Attributes:
        once: its texts are so short that different stories tell the same; who reads many stories takes an
            example from the first of them alone.
        kinds: of its examples, of which one may be chosen.
        count: documents that are read where no number is given; None: as the data room says.
        silent: made of a document's number alone, so that no story need be told for it.
    """

    roles: tuple[str, ...]
    make: Callable[..., Iterator[Values]]  # of a document, and with `kinds` of one of them or None
    once: bool = False
    kinds: tuple[str, ...] = ()
    count: int | None = None
    silent: bool = False

    def of(self, kind: str) -> View:
        """The same view with examples of one kind alone."""
        return View(self.roles, lambda doc: self.make(doc, kind), self.once, silent=self.silent)

    def documents(self, world: World, count: int, start: int = 0) -> Iterator[Document]:
        """The documents start .. start + count - 1 that its examples are made of."""
        return (world.numbered if self.silent else world.stories)(count, start)


def stories(doc: Document) -> Iterator[Values]:
    yield {"text": doc.text}


def sentiment(doc: Document) -> Iterator[Values]:
    for start, end in _paragraphs(doc):
        moods = [s.sentiment for s in doc.sentences if start <= s.start < end and s.sentiment]
        yield {"text": doc.text[start:end], "label": MOODS[moods[-1] if moods else 0]}


def entailment(doc: Document) -> Iterator[Values]:
    for pair in doc.entailment:
        yield {"a": pair.premise, "b": pair.hypothesis, "label": LABELS[pair.label]}


def qa(doc: Document) -> Iterator[Values]:
    story = doc.story
    for number, question in enumerate(doc.qa):
        answers = [] if question.answer is None else [{"text": question.answer, "start": question.start}]
        name = f"{'x' if doc.index is None else doc.index}-{number}"
        yield {"question": question.question, "context": story, "answers": answers, "id": name}


def entities(doc: Document) -> Iterator[Values]:
    return _tagged(doc, 4)


def pos(doc: Document) -> Iterator[Values]:
    return _tagged(doc, 3)


def _paragraphs(doc: Document) -> Iterator[tuple[int, int]]:
    """Where the story's paragraphs stand. (Sentences alone would often be equal in different stories.)"""
    end = doc.spans[doc.story_end - 1].end
    for paragraph in doc.paragraphs:
        if paragraph[0].start < end:
            yield paragraph[0].start, paragraph[-1].end


def _tagged(doc: Document, column: int) -> Iterator[Values]:
    """One example a paragraph of the story."""
    tags = doc.tags
    for start, end in _paragraphs(doc):
        words = [tag for tag in tags if start <= tag[1] < end]
        values: Values = {
            "words": [w[0] for w in words],
            "tags": [str(w[column]) for w in words],
            "text": doc.text[start:end],
        }
        if column == 4:
            values["spans"] = _spans(words, start)
        yield values


def _spans(words: list[tuple[str, int, int, str, str]], base: int) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for _, start, end, _, bio in words:
        if bio.startswith("B-"):
            out.append({"start": start - base, "end": end - base, "label": bio[2:]})
        elif bio.startswith("I-") and out:
            out[-1]["end"] = end - base
    return out


def pairs(doc: Document) -> Iterator[Values]:
    """The story's sentences, every other one on each side: the same people, places and things on both."""
    sentences = [s.text for s in doc.spans[1 : doc.story_end]]
    if len(sentences) >= 2:
        yield {"a": " ".join(sentences[::2]), "b": " ".join(sentences[1::2])}


def rerank(doc: Document) -> Iterator[Values]:
    """For each question with an answer: the sentence that holds it, and one of the story that does not."""
    spans = doc.spans[1 : doc.story_end]
    for number, question in enumerate(doc.qa):
        if question.answer is None or question.start is None:
            continue
        right = next((s for s in spans if s.start <= question.start < s.end), None)
        wrong = [s for s in spans if question.answer not in s.text]
        if right is None or not wrong:
            continue
        other = Draws(len(doc.text), number, question.start).pick(wrong)
        yield {"query": question.question, "document": right.text, "label": 1}
        yield {"query": question.question, "document": other.text, "label": 0}


def dialogues(doc: Document, kind: str | None = None) -> Iterator[Values]:
    """One dialogue a document. Its group is what other documents may have too: the first message of a fact or
    a task, the title of a story that is asked for; else the story, as in the other views."""
    number, d = _numbered(doc, 0xD1A1)
    made = None
    name = kind or talks.KINDS[number % len(talks.KINDS)]
    if name == "story":
        made = talks.about(doc, d)
    elif name == "tell":
        made = talks.told(doc, d)
    elif name == "task":
        made = talks.task(doc.world, d)
    if made is None:
        made = talks.fact(doc.world, d)
    values: Values = {
        "messages": [dict(m) for m in made.messages],
        "answer": made.answers[-1],
        "record": {"kind": made.kind, "answers": list(made.answers)},
    }
    if made.kind != "story":
        values["_group"] = doc.title if made.kind == "tell" else made.messages[0]["content"]
    yield values


def preferences(doc: Document, kind: str | None = None) -> Iterator[Values]:
    number, d = _numbered(doc, 0x93F1)
    made = talks.preference(doc.world, d, kind or talks.PROPERTIES[number % len(talks.PROPERTIES)])
    yield {
        "prompt": [{"role": "user", "content": made.prompt}],
        "chosen": [{"role": "assistant", "content": made.chosen}],
        "rejected": [{"role": "assistant", "content": made.rejected}],
        "record": {"property": made.property},
        "_group": made.prompt,
    }


def checked(doc: Document, kind: str | None = None) -> Iterator[Values]:
    """One task a document. What its checker needs stands in the record; a countdown's numbers may be left."""
    number, d = _numbered(doc, 0x7A51)
    names = sorted(tasks.MAKERS)
    made = next(tasks.tasks(d, kind or names[number % len(names)], doc.world.word_list, 1 + d.below(2)))
    record: Values = {"kind": made.kind, "question": made.prompt, "answer": made.answer}
    if made.kind == "countdown":
        record |= {"numbers": list(made.data[:-1]), "target": made.data[-1], "use": "any"}
    yield {
        "prompt": [{"role": "user", "content": made.prompt}],
        "answer": made.answer,
        "record": record,
        "_group": made.prompt,
    }


def _numbered(doc: Document, purpose: int) -> tuple[int, Draws]:
    """A document's number, and its own stream for a purpose; one that was read has a number by its text."""
    number = crc32(doc.text.encode()) if doc.index is None else doc.index
    return number, Draws(doc.world.seed, purpose, number)


VIEWS: dict[str, View] = {
    "stories": View(("text",), stories),
    "sentiment": View(("text", "label"), sentiment),
    "entailment": View(("a", "b", "label"), entailment),
    "qa": View(("question", "context", "answers", "id"), qa),
    "entities": View(("words", "tags", "text", "spans"), entities),
    "pos": View(("words", "tags", "text"), pos),
    "pairs": View(("a", "b"), pairs),
    "rerank": View(("query", "document", "label"), rerank, once=True),
    "dialogues": View(("messages", "answer", "record"), dialogues, once=True, kinds=talks.KINDS),
    "preferences": View(
        ("prompt", "chosen", "rejected", "record"), preferences, once=True, kinds=talks.PROPERTIES
    ),
    "tasks": View(("prompt", "answer", "record"), checked, once=True, kinds=tuple(sorted(tasks.MAKERS))),
    "sounds": View(("sound", "label", "text", "events"), noises.sounds, count=2000, silent=True),
    "soundscapes": View(("sound", "label", "text", "events"), noises.soundscapes, count=2000, silent=True),
    "series": View(("series", "label", "part"), moments.series, count=600),
    "pictures": View(("picture", "label", "text"), drawings.pictures, count=4000, silent=True),
    "scenes": View(
        ("question", "answer", "picture", "sound"), asked.scenes, kinds=asked.KINDS, count=4000, silent=True
    ),
}
