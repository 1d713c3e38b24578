"""Instruction dialogues with exact answers, and preference pairs that differ in one known property."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UsageError, nearest
from .document import HELD_OUT, Document
from .facts import Person, capital
from .rng import Draws
from .tasks import Task, tasks

if TYPE_CHECKING:
    from .world import World


@dataclass(frozen=True)
class Dialogue:
    """Turns of a user and an assistant; `answers[i]` is the checkable part of the i-th assistant turn."""

    messages: tuple[dict[str, str], ...]
    answers: tuple[str, ...]
    kind: str

    def check(self, reply: str, turn: int = -1) -> bool:
        """Whether a reply holds the right answer of a turn: as a whole phrase, whatever stands around it."""
        wanted, text = self.answers[turn].lower(), f" {reply.lower()} "
        at = text.find(wanted)
        while at >= 0:
            before, after = text[at - 1], text[at + len(wanted)]
            if not (before.isalnum() or after.isalnum()):
                return True
            at = text.find(wanted, at + 1)
        return False


@dataclass(frozen=True)
class Preference:
    """A prompt with a better and a worse reply that differ in one `property` only."""

    prompt: str
    chosen: str
    rejected: str
    property: str


# fact -> (questions, follow-ups about the same person, answer, checked part)
FACTS = {
    "home": (("Where does {n} live?", "Near what does {n} live?"), "And where does {s} live?",
             "{n} lives near {home}.", "home"),
    "job": (("What does {n} do for a living?",
    "What is the trade of {n}?"), "And what does {s} do for a living?",
            "{n} is {ajob}.", "job"),
    "food": (("What does {n} like best?", "What is {g} favourite food?"), "And what does {s} like best?",
             "{n} likes {food} best.", "food"),
    "friend": (("Who is {g} best friend?",
    "Whose company does {n} like best?"), "And who is {p} best friend?",
               "{g} best friend is {friend}.", "friend"),
}  # fmt: skip
ASKING = ("{}", "Please tell me: {}", "I have a question. {}", "{} Answer in one sentence.")
KINDS = ("fact", "story", "task", "tell")
PROPERTIES = ("polite", "honest", "brief", "complete", "kind")


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _asked(d: Draws, question: str) -> str:
    return d.pick(ASKING).format(question)


def fact(world: World, d: Draws) -> Dialogue:
    """One to three questions about the facts of one person."""
    person = d.pick(world.sheet.people)
    turns, answers = [], []
    for i, name in enumerate(d.sample(list(FACTS), 1 + d.below(3))):
        first, more, answer, key = FACTS[name]
        question = d.pick(first) if i == 0 else more
        turns.append(_turn("user", (_asked(d, question) if i == 0 else question).format(**person.f)))
        turns.append(_turn("assistant", answer.format(**person.f)))
        answers.append(person.f[key])
    return Dialogue(tuple(turns), tuple(answers), "fact")


def story(world: World, d: Draws) -> Dialogue:
    """A story, and a question whose answer stands in it."""
    while True:
        found = about(world.document(d.below(HELD_OUT)), d)
        if found is not None:
            return found


def about(doc: Document, d: Draws) -> Dialogue | None:
    """A question about one story; None where it answers none."""
    known = [(q.question, q.answer) for q in doc.qa if q.answer is not None]
    if not known:
        return None
    question, answer = d.pick(known)
    prompt = f"Read this story.\n\n{doc.story}\n\n{question}"
    turns = (_turn("user", prompt), _turn("assistant", capital(answer) + "."))
    return Dialogue(turns, (answer,), "story")


def task(world: World, d: Draws) -> Dialogue:
    made: Task = next(tasks(d, d.pick(sorted(world.task_kinds)), world.word_list, 1 + d.below(2)))
    return Dialogue((_turn("user", made.prompt), _turn("assistant", made.answer)), (made.answer,), "task")


def tell(world: World, d: Draws) -> Dialogue:
    """A request for a story with a title; the answer is one that the world tells."""
    return told(world.document(d.below(HELD_OUT)), d)


def told(doc: Document, d: Draws) -> Dialogue:
    """A request for one story."""
    ask = d.pick(
        ('Tell me the story "{}".', 'Write a story called "{}".', 'Please write the story "{}" for me.')
    )
    turns = (_turn("user", ask.format(doc.title)), _turn("assistant", doc.story))
    return Dialogue(turns, (doc.story,), "tell")


def dialogues(world: World, n: int, seed: int = 0, kind: str | None = None) -> Iterator[Dialogue]:
    """n dialogues of one kind, or of all kinds in turn."""
    if kind is not None and kind not in KINDS:
        raise UsageError(f"there are no dialogues of kind {kind!r}", expected=nearest(kind, KINDS))
    d = Draws(world.seed, seed, 0xD1A)
    makers = {"fact": fact, "story": story, "task": task, "tell": tell}
    for i in range(n):
        yield makers[kind or KINDS[i % len(KINDS)]](world, d)


RUDE = ("Find out yourself. ", "What a silly question. ", "You should know that by now. ")
POLITE = ("Gladly. ", "Thank you for asking. ", "With pleasure. ")
RAMBLE = (
    " There is a lot more to say about that, and I could go on for a long time.",
    " That reminds me of many other things, which I shall not tell now.",
    " By the way, the weather in the village is always worth a word or two.",
)
CARING = (" I hope that helps you.", " Ask me again whenever you like.", " I am happy to help.")
COLD = (" Now leave me alone.", " Do not ask me again.", " I do not care what you do with it.")


def preferences(world: World, n: int, seed: int = 0, property: str | None = None) -> Iterator[Preference]:
    """n preference pairs, of one property or of all in turn.

    polite: the rejected reply is rude; honest: it is false; brief: it rambles; complete: it breaks off;
    kind: it ends coldly.
    """
    if property is not None and property not in PROPERTIES:
        raise UsageError(
            f"there are no preferences of property {property!r}", expected=nearest(property, PROPERTIES)
        )
    d = Draws(world.seed, seed, 0x93EF)
    for i in range(n):
        yield preference(world, d, property or PROPERTIES[i % len(PROPERTIES)])


def preference(world: World, d: Draws, name: str) -> Preference:
    """One preference pair of a property."""
    person: Person = d.pick(world.sheet.people)
    first, _, pattern, key = FACTS[d.pick(list(FACTS))]
    prompt, answer = _asked(d, d.pick(first).format(**person.f)), pattern.format(**person.f)
    if name == "polite":
        chosen, rejected = d.pick(POLITE) + answer, d.pick(RUDE) + answer
    elif name == "honest":
        other = d.pick([p for p in world.sheet.people if p.f[key] not in (person.f[key], person.name)])
        swapped = {k: other.f[k] for k in ("home", "job", "ajob", "food", "friend")}
        chosen, rejected = answer, pattern.format(**(person.f | swapped))
    elif name == "brief":
        chosen, rejected = answer, answer + d.pick(RAMBLE)
    elif name == "complete":
        words = answer.split()
        chosen, rejected = answer, " ".join(words[: len(words) // 2])
    else:
        chosen, rejected = answer + d.pick(CARING), answer + d.pick(COLD)
    return Preference(prompt, chosen, rejected, name)
