"""Templates and kinds of sentences.

A kind is one thing that can be said (`GIVE`), with several templates, the event it tells and its effects
on the world. A template is text with slots `{var}` or `{var.form}`:

- `{a}` for a person: the name, or a pronoun where it is clear; `{a.n}` always the name; `{a.o} {a.p}` him,
  his;
- `{t}` the kite; `{t.it}` it or the kite; `{t.a}` a red kite; `{q.at}` by the pond; `{a.home}` a fact.

A slot at the start of the template, or of the speech in quotes, gets a capital letter.

    kind("GIVE", "{a} gave {t.it} to {b.n}.", event="give", roles="agent:a patient:t recipient:b",
    does="has b t")
"""

from __future__ import annotations

import re
from typing import Any

SLOT = re.compile(r"\{(\w+)(?:\.(\w+))?\}")
PEOPLE, THINGS, PLACES, ANIMALS = set("abcd"), {"t", "u"}, set("pqr"), {"x"}
NO_MENTION = {
    "home",
    "work",
    "workat",
    "food",
    "friend",
    "fjob",
    "thejob",
    "use",
    "detail",
    "part",
    "voice",
    "K",
    "F",
}


def _named(ops: list[tuple[str, str, str]]) -> list[tuple[str, str]]:
    """The slots that name their variable itself, not a fact about it."""
    return [(var, form) for _, var, form in ops if form.lstrip("^") not in NO_MENTION]


class Template:
    """A compiled template: `ops` are (literal before, variable, form); `tail` follows the last slot."""

    __slots__ = ("source", "ops", "tail", "subject", "people", "things", "friends", "vars")

    def __init__(self, source: str) -> None:
        self.source = source
        ops, at = [], 0
        for match in SLOT.finditer(source):
            literal = source[at : match.start()]
            var, form = match.group(1), match.group(2) or ""
            if var[0] in PEOPLE and len(var) == 1 and not form:
                before = [v for v, f in _named(ops) if v in PEOPLE and v != var]
                form = "n" if before else "ref"  # "Tess came, and she" would be Tess
            if var[0] in THINGS and len(var) == 1 and form == "it":
                form = "it"
            elif match.start() == 0 or literal == '"' or (literal.endswith(' "') and not at):
                form = "^" + form
            ops.append((literal, var, form))
            at = match.end()
        self.ops = tuple(ops)
        self.tail = source[at:]
        self.vars = tuple(dict.fromkeys(var for _, var, _ in ops))
        named = _named(ops)
        self.people = tuple(dict.fromkeys(var for var, _ in named if var in PEOPLE))
        self.things = tuple(dict.fromkeys(var for var, _ in named if var in THINGS))
        self.friends = tuple(dict.fromkeys(var for _, var, form in ops if form == "friend" and var in PEOPLE))
        spoken = [var for var, form in named if var in PEOPLE and form.lstrip("^") in ("ref", "n", "s", "p")]
        self.subject = spoken[0] if spoken else None


class Kind:
    """One thing that can be said.

    Attributes:
        name: its name in the grammar.
        templates: the ways of saying it, equally likely.
        event: the verb of the event it tells, or None.
        roles: role -> variable, e.g. {"agent": "a", "patient": "t"}.
        effects: what it changes: ("has", "b", "t"), ("loc", "a", "q"), ("mood", "a", 1).
        keep: variables whose values later sentences of the story share, e.g. the weather.
        valence: -1, 0 or 1: how the sentence feels.
    """

    __slots__ = ("name", "templates", "event", "roles", "effects", "valence", "keep", "silent")

    def __init__(
        self,
        name: str,
        templates: tuple[str, ...],
        event: str,
        roles: str,
        does: str,
        valence: int,
        keep: str,
    ) -> None:
        self.name, self.event, self.valence = name, event or None, valence
        self.templates = tuple(Template(text) for text in templates)
        self.silent = not templates[0]  # the end: nothing stands there
        self.keep = tuple(keep.split())
        self.roles: dict[str, str] = {}
        for pair in roles.split():
            role, var = pair.split(":")
            self.roles[role] = var
        effects: list[tuple[str, str, Any]] = []
        for effect in filter(None, (part.strip() for part in does.split(";"))):
            what, x, y = effect.split()
            effects.append((what, x, int(y) if what == "mood" else y))
        self.effects = tuple(effects)

    def __repr__(self) -> str:
        return self.name


class Grammar:
    """All kinds, by name: `grammar.GIVE`."""

    def __init__(self) -> None:
        self.kinds: dict[str, Kind] = {}

    def add(
        self,
        name: str,
        *templates: str,
        event: str = "",
        roles: str = "",
        does: str = "",
        v: int = 0,
        keep: str = "",
    ) -> None:
        """Add a kind; `does` lists effects ("has b t; mood b 1"), `keep` what later sentences share."""
        kind = Kind(name, templates, event, roles, does, v, keep)
        self.kinds[name] = kind
        setattr(self, name, kind)

    def __getattr__(self, name: str) -> Kind:
        raise AttributeError(f"the grammar has no kind {name!r}")  # kinds are attributes, set by `add`
