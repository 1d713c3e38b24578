"""What is true of a document, read off its derivation: mentions with offsets, events with roles, questions,
entailment.

Nothing here looks at the words: the derivation says which part of the text names whom, and what happened.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .facts import Entity, Person, Place, Thing
from .rng import Draws

if TYPE_CHECKING:
    from .document import Document

PRONOUNS = {"s", "o", "p", "self"}
OWNED = {"home": "home", "work": "work", "workat": "work", "friend": "friend", "food": "food"}
SKIP = {"job", "ajob", "thejob", "fjob", "voice", "act", "act2", "use", "detail", "part", "kind", "K"}


@dataclass(frozen=True)
class Mention:
    """A span that names something: `document.text[start:end] == text`.

    Attributes:
        type: PERSON, PLACE, THING, ANIMAL or FOOD.
        name: whom or what it names, e.g. "Mia" for "she", "red kite" for "it".
        sentence: index into `document.spans` (0 is the title).
        pronoun: whether it is a pronoun.
        var: the slot of the template ("" for a fact's object).
    """

    text: str
    start: int
    end: int
    type: str
    name: str
    sentence: int
    pronoun: bool
    var: str


@dataclass(frozen=True)
class Event:
    """Something that happened: `roles` maps the roles of `ROLES` that it has to names.

    `spans` holds the mention of each role inside the sentence, where it has one; `sentence` indexes
    `document.spans`.
    """

    verb: str
    sentence: int
    roles: dict[str, str]
    entities: dict[str, Entity] = field(repr=False)
    spans: dict[str, Mention] = field(repr=False)


@dataclass(frozen=True)
class Question:
    """A question about `document.story`: `story[start:end] == answer`, or all three None (unanswerable)."""

    question: str
    answer: str | None
    start: int | None
    end: int | None
    kind: str


@dataclass(frozen=True)
class Entailment:
    """`label`: "entailed",
    "neutral" or "contradicted" (by the premise, the facts of the world left aside)."""

    premise: str
    hypothesis: str
    label: str


def mentions(doc: Document) -> tuple[Mention, ...]:
    out: list[Mention] = []
    for index, (step, span) in enumerate(zip(doc.steps, doc.spans, strict=True)):
        at = span.start
        for (literal, var, form), surface in zip(step.template.ops, step.parts[1::2], strict=True):
            at += len(literal)
            entity = step.bound[var]
            key = form.lstrip("^")
            if key not in SKIP and (len(var) == 1 or key in OWNED):
                out += _mention(entity, key, var, surface, at, index)
            at += len(surface)
    return tuple(out)


def _mention(entity: Entity, form: str, var: str, surface: str, at: int, index: int) -> Iterator[Mention]:
    name, kind = entity.name, entity.type
    start, end = at, at + len(surface)
    pronoun = form in PRONOUNS or surface in ("it", "she", "he", "She", "He")
    if form in OWNED and not isinstance(entity, Place):
        owned = getattr(entity, OWNED[form])
        var = ""
        if form == "food":
            name, kind = owned, "FOOD"
        else:
            name, kind = owned.name, owned.type
    if kind == "PLACE" and form in ("at", "to", "workat", "home"):
        start = end - len(f"the {name}")
    elif form == "g":
        end -= 2
    elif form == "F":
        name, kind, var = entity.food, "FOOD", ""  # type: ignore[attr-defined]
    yield Mention(surface[start - at : end - at], start, end, kind, name, index, pronoun, var)


def events(doc: Document) -> tuple[Event, ...]:
    by_sentence: dict[int, list[Mention]] = {}
    for mention in doc.entities:
        by_sentence.setdefault(mention.sentence, []).append(mention)
    out = []
    for index, step in enumerate(doc.steps):
        if step.kind.event is None:
            continue
        entities = {role: step.bound[var] for role, var in step.kind.roles.items()}
        spans = {}
        for role, var in step.kind.roles.items():
            named = [m for m in by_sentence.get(index, ()) if m.var == var]
            if named:
                spans[role] = next((m for m in named if not m.pronoun), named[0])
        roles = {role: entity.name for role, entity in entities.items()}
        out.append(Event(step.kind.event, index, roles, entities, spans))
    return tuple(out)


# verb -> (question, role asked for); {agent} etc. are filled with the names, {thing} with "the kite"
ASK: dict[str, tuple[tuple[str, str], ...]] = {
    "give": (
        ("Who gave {patient} to {recipient}?", "agent"),
        ("What did {agent} give to {recipient}?", "patient"),
        ("Who got {patient} from {agent}?", "recipient"),
    ),
    "own": (("What did {agent} own?", "patient"), ("Who owned {patient}?", "agent")),
    "lose": (("Who lost {patient}?", "agent"), ("What did {agent} lose?", "patient")),
    "find": (("Who found {patient}?", "agent"), ("What did {agent} find?", "patient")),
    "discover": (("Who found {patient}?", "agent"),),
    "meet": (("Where did {agent} meet {patient}?", "location"),),
    "hide": (("Where did {agent} hide {patient}?", "location"), ("Who hid {patient}?", "agent")),
    "buy": (("Who bought {patient}?", "agent"), ("What did {agent} buy?", "patient")),
    "mend": (("Who mended {patient}?", "agent"), ("What did {agent} mend?", "patient")),
    "win": (
        ("Who won the race?", "agent"),
        ("What did {agent} win?", "patient"),
        ("Where did the race end?", "location"),
    ),
    "take": (("Who took {patient}?", "agent"),),
    "leave": (("Where did {agent} leave {patient}?", "location"),),
    "come": (("What did {agent} bring?", "patient"), ("Who brought {patient}?", "agent")),
    "lend": (("Who lent {patient} to {recipient}?", "agent"),),
    "want": (("What did {agent} want?", "patient"),),
    "follow": (("Whom did {agent} follow?", "patient"),),
}


def named(entity: Entity) -> str:
    """How a question names it: "Mia", "the kite", "the mill", "Biscuit"."""
    return entity.f[""] if isinstance(entity, (Thing, Place)) else entity.name


def _span(doc: Document, entity: Entity, sentence: int) -> Mention | None:
    """The mention of an entity by name, in or nearest before a sentence of the story, else after."""
    named = [m for m in doc.entities if m.name == entity.name and not m.pronoun and m.end <= len(doc.story)]
    named = [m for m in named if m.sentence > 0]
    before = [m for m in named if m.sentence <= sentence]
    return before[-1] if before else named[0] if named else None


def questions(doc: Document) -> tuple[Question, ...]:
    out: list[Question] = []
    happened = [e for e in doc.events if 0 < e.sentence < doc.story_end]
    answers: dict[str, set[str]] = {}
    asked: dict[str, tuple[Entity, int]] = {}
    for event in happened:
        fill = {role: named(entity) for role, entity in event.entities.items()}
        for pattern, role in ASK.get(event.verb, ()):
            if role not in fill or any("{" + r + "}" in pattern and r not in fill for r in ROLES):
                continue
            text = pattern.format(**fill)
            answers.setdefault(text, set()).add(event.roles[role])
            asked.setdefault(text, (event.entities[role], event.sentence))
    loc, has = doc.state
    for thing, owner in has.items():
        if isinstance(owner, Person):
            asked[f"Who had {named(thing)} in the end?"] = (owner, doc.story_end)
        elif isinstance(owner, Place):
            asked[f"Where was {named(thing)} in the end?"] = (owner, doc.story_end)
    for being, place in loc.items():
        asked[f"Where was {being.name} last seen?"] = (place, doc.story_end)
    for text, (entity, sentence) in asked.items():
        if len(answers.get(text, "1")) == 1:  # one answer, however often it happened
            mention = _span(doc, entity, sentence)
            if mention is not None:
                out.append(_question(text, mention))
    return (*out, *_unanswerable(doc))


ROLES = ("agent", "patient", "recipient", "location", "destination", "owner", "exchange", "host", "rival")


def _question(text: str, mention: Mention) -> Question:
    return Question(text, mention.text, mention.start, mention.end, text.split()[0].lower())


def _unanswerable(doc: Document) -> Iterator[Question]:
    """Questions that the story does not answer: facts it is silent on, things that are not in it."""
    story = doc.story
    people = dict.fromkeys(m.name for m in doc.entities if m.type == "PERSON" and m.end <= len(story))
    for name in people:
        person = doc.world.sheet.person(name)
        for silent, text in (
            (person.home.f[""] not in story.lower(), f"Where did {name} live?"),
            (person.food not in story, f"What did {name} like best?"),
            (person.job not in story, f"What did {name} do for a living?"),
        ):
            if silent:
                yield Question(text, None, None, None, text.split()[0].lower())
                break
    draws = Draws(len(story), sum(map(ord, story)))
    lower = story.lower()
    for _ in range(2):
        thing = draws.pick(doc.world.things.items)
        if thing.noun not in lower:
            text = draws.pick(
                ("Who found the {}?", "Where was the {} in the end?", "Who lost the {}?")
            ).format(thing.noun)
            yield Question(text, None, None, None, text.split()[0].lower())


# verb -> hypotheses (entailed, contradicted, neutral); negation is on all sides, so it gives nothing away
HYPOTHESES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "give": (
        ("{recipient} got {patient} from {agent}.", "{patient} did not stay with {agent}."),
        ("{agent} kept {patient}.", "{recipient} did not get {patient}."),
        ("{recipient} had not seen {patient} before.", "{agent} felt happy about it."),
    ),
    "own": (
        ("{patient} belonged to {agent}.", "{agent} was not without {patient}."),
        ("{agent} never had {patient}.", "{patient} belonged to nobody."),
        ("{agent} got {patient} from an uncle.", "{agent} did not pay much for {patient}."),
    ),
    "go": (
        ("{agent} was on the way to {destination}.", "{agent} did not stay away from {destination}."),
        ("{agent} never went near {destination}.", "{agent} stood still all the time."),
        ("{agent} liked {destination}.", "{agent} did not stay there long."),
    ),
    "meet": (
        ("{agent} and {patient} were in the same place.", "{agent} did not miss {patient}."),
        ("{agent} and {patient} never met.", "{patient} was far away from {agent}."),
        ("{agent} had known {patient} for years.", "{patient} did not expect {agent}."),
    ),
    "lose": (
        ("{agent} no longer had {patient}.", "{patient} went missing."),
        ("{agent} still had {patient}.", "{patient} did not go missing."),
        ("Somebody stole {patient} from {agent}.", "{agent} did not care much."),
    ),
    "find": (
        ("{agent} knew where {patient} was.", "{patient} did not escape {agent}."),
        ("{agent} never found {patient}.", "Nobody knew where {patient} was."),
        ("{agent} was not alone then.", "Somebody had moved {patient} before."),
    ),
    "buy": (
        ("{agent} spent money on {patient}.", "{agent} did not get {patient} for nothing."),
        ("{agent} got {patient} for nothing.", "{agent} did not buy {patient}."),
        ("{agent} had saved for a year.", "{patient} was not new."),
    ),
    "hide": (
        ("{patient} was put where others would not see it.",
        "{agent} did not leave {patient} in plain view."),
        ("{agent} left {patient} in plain view.", "{agent} did not hide {patient}."),
        ("Nobody would ever find {patient}.", "{agent} had hidden {patient} before."),
    ),
    "mend": (
        ("{patient} could be used again.", "{patient} did not stay broken."),
        ("{patient} stayed broken.", "{agent} did not mend {patient}."),
        ("{agent} had mended many things.", "{agent} did not sleep that night."),
    ),
    "win": (
        ("{agent} was faster than the other.", "{agent} did not lose the race."),
        ("{agent} lost the race.", "{agent} did not get {patient}."),
        ("{agent} had trained for weeks.", "{agent} was not tired."),
    ),
    "break": (
        ("{patient} was damaged.", "{patient} did not stay whole."),
        ("{patient} stayed whole.", "Nothing happened to {patient}."),
        ("{patient} had been broken before.", "Nobody would mend {patient}."),
    ),
    "greet": (
        ("{agent} turned to {recipient}.", "{agent} did not overlook {recipient}."),
        ("{agent} did not notice {recipient}.", "{agent} overlooked {recipient}."),
        ("{agent} had dreamed of {recipient}.", "{recipient} was not in a hurry."),
    ),
    "want": (
        ("{agent} would have been glad to have {patient}.", "{patient} was not of no interest to {agent}."),
        ("{agent} did not wish for {patient}.", "{patient} meant nothing to {agent}."),
        ("{agent} would get {patient} in the end.", "{agent} did not tell anybody about it."),
    ),
    "eat": (
        ("{agent} had something to eat.", "{agent} did not go without food."),
        ("{agent} ate nothing.", "{agent} refused all food."),
        ("{agent} had been hungry since dawn.", "{agent} was not hungry afterwards."),
    ),
    "work": (
        ("{agent} did some work.", "{agent} was not idle."),
        ("{agent} did no work.", "{agent} was idle."),
        ("{agent} was paid for it.", "{agent} did not like the work."),
    ),
}  # fmt: skip
LABELS = ("entailed", "contradicted", "neutral")


def entailments(doc: Document) -> tuple[Entailment, ...]:
    """One hypothesis of each label for each event that has hypotheses.

    The premise is the sentence if it names all that the hypothesis names, else the story up to that sentence.
    """
    out = []
    for event in doc.events:
        table = HYPOTHESES.get(event.verb)
        if (
            table is None
            or not 0 < event.sentence < doc.story_end
            or event.verb == "want"
            and "patient" not in event.roles
        ):
            continue
        fill = {role: named(entity) for role, entity in event.entities.items()}
        clear = all(role in event.spans and not event.spans[role].pronoun for role in event.roles)
        span = doc.spans[event.sentence]
        premise = span.text if clear else doc.text[doc.spans[1].start : span.end]
        draws = Draws(span.start, span.end, doc.spans[-1].end)
        for label, patterns in zip(LABELS, table, strict=True):
            fitting = [p for p in patterns if all("{" + r + "}" not in p or r in fill for r in ROLES)]
            if fitting:
                text = draws.pick(fitting).format(**fill)
                out.append(Entailment(premise, text[:1].upper() + text[1:], label))
    return tuple(out)


__all__ = [
    "Entailment",
    "Event",
    "Mention",
    "Question",
    "entailments",
    "events",
    "mentions",
    "questions",
]
