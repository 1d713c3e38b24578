"""Probes: a prompt with continuations of which one is right, for comparing a random model with a trained one.

A probe is scored by whichever continuation has the higher log-likelihood after the prompt; chance is `1 /
len(choices)`. The prompts are beginnings of held-out documents and the continuations are what the
generator itself might write there, so a model that has reached the entropy floor answers all of them.

- "consistency": the truth of *this* story: who has the thing, where somebody is, who fell asleep, which
  thing it was.
- "recall": facts of the world, which this story does not say: where somebody lives, what they do, eat, and
  whose friend they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UsageError, nearest
from .document import HELD_OUT, Document
from .facts import Entity, Person, Place
from .rng import Draws

if TYPE_CHECKING:
    from .world import World

KINDS = ("consistency", "recall")


@dataclass(frozen=True)
class Probe:
    """`choices[answer]` is right. The prompt has no trailing space; each choice begins with one."""

    prompt: str
    choices: tuple[str, ...]
    answer: int
    about: str = ""


def _probe(prompt: str, right: str, wrong: list[str], draws: Draws, about: str) -> Probe:
    choices = draws.shuffled([right, *wrong])
    return Probe(prompt, tuple(choices), choices.index(right), about)


def consistency(world: World, doc: Document, draws: Draws) -> Probe | None:
    """One probe about a story's own truth, or None if it has no rival answer."""
    story = doc.story
    loc, has = doc.state
    people = [p for p in world.sheet.people if any(m.name == p.name and m.sentence for m in doc.entities)]
    places: list[Entity] = []
    for mention in doc.entities:
        if mention.type == "PLACE" and mention.sentence and mention.end <= len(story):
            place = world.sheet.place[mention.name]
            if place not in places:
                places.append(place)
    options: list[tuple[str, str, list[str], str]] = []
    for thing, owner in has.items():
        rivals = [p.name for p in people if p is not owner]
        if isinstance(owner, Person) and rivals:
            tail = f" had {thing.f['']}."
            question = f"Who had {thing.f['']} in the end?"
            options.append(
                (question, f" {owner.name}{tail}", [f" {name}{tail}" for name in rivals[:3]], "holder")
            )
        if isinstance(owner, Place) and len(places) > 1:
            there = [f" {q.f['at']}." for q in places if q is not owner][:3]
            question = f"Where was {thing.f['']} in the end? The {thing.noun} was"
            options.append((question, f" {owner.f['at']}.", there, "thing's place"))
    for being, place in loc.items():
        there = [f" {q.f['at']}." for q in places if q is not place][:3]
        if isinstance(being, Person) and there:
            question = f"Where was {being.name} last seen? {being.name} was"
            options.append((question, f" {place.f['at']}.", there, "place"))
    for i, step in enumerate(doc.steps[:-1]):
        span = doc.spans[i + 1]
        mention = next((m for m in doc.entities if m.start == span.start and m.sentence == i + 1), None)
        if mention is None or mention.type != "PERSON" or not step.sep or i + 1 >= doc.story_end:
            continue
        if mention.pronoun and doc.steps[i + 1].sep == " ":
            other = " He" if mention.text == "She" else " She"
            options.append((doc.text[: span.start - 1], f" {mention.text}", [other], "pronoun"))
            break
    if not options:
        return None
    question, right, wrong, about = draws.pick(options)
    prompt = question if about == "pronoun" else f"{story}\n\n{question}"
    return _probe(prompt, right, wrong, draws, about)


FACTS = {"ajob": "job", "home": "home", "food": "food", "friend": "friend"}


def recall(world: World, doc: Document, draws: Draws) -> Probe | None:
    """One probe about a fact of the world: a document's beginning, cut before the fact; None if it tells no
    fact first.

    The wrong choices end the same sentence with the facts of other people.
    """
    found: list[tuple[int, int]] = []
    for i, step in enumerate(doc.steps):
        if step.kind.name in ("I_JOB", "I_HOME", "I_FOOD", "I_FRIEND"):
            found += [(i, at) for at, op in enumerate(step.template.ops) if op[2] in FACTS][:1]
    if not found:
        return None
    i, at = draws.pick(found)
    step = doc.steps[i]
    person, form = step.bound["a"], step.template.ops[at][2]
    start = doc.spans[i].start + len("".join(step.parts[: 2 * at + 1]))
    prompt = doc.text[:start].rstrip()
    if person.f[form] in prompt:
        return None  # the story has said it already

    def ending(other: Entity) -> str:
        out = []
        for literal, _, key in step.template.ops[at:]:
            out += [
                literal,
                other.f[key] if key in other.f and key not in ("s", "o", "p", "n") else person.f[key],
            ]
        return " " + ("".join(out) + step.template.tail).removeprefix(step.template.ops[at][0])

    right = ending(person)
    rivals = {
        ending(p): None
        for p in draws.shuffled(world.sheet.people)
        if p is not person and p is not person.friend
    }
    wrong = [text for text in rivals if text != right and not (form == "friend" and person.name in text)]
    return _probe(prompt, right, wrong[:3], draws, FACTS[form])


def probes(world: World, kind: str, n: int, seed: int = 0) -> Iterator[Probe]:
    """n probes of a kind; documents come from the held-out range."""
    draws = Draws(world.seed, seed, 0x9806E)
    make = {"consistency": consistency, "recall": recall}.get(kind)
    if make is None:
        raise UsageError(f"there are no probes of kind {kind!r}", expected=nearest(kind, KINDS))
    made, at = 0, HELD_OUT + (seed << 20)
    while made < n:
        probe = make(world, world.document(at), draws)
        at += 1
        if probe is not None:
            yield probe
            made += 1


__all__ = ["KINDS", "Probe", "probes"]
