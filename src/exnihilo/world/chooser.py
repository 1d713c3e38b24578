"""One telling, three readings: draw a story, parse a story, or enumerate all of them.

A plot is ordinary Python that calls `say(...)` on a `Teller` once a sentence. `say` is given weighted
options, chooses one together with a template and the words of its slots, and returns what was chosen.
There is no other source of randomness and no choice without a trace in the text, so:

- `Sampler` draws the choices and adds up their log-probability;
- `Scorer` finds the choices in a text; where several alternatives match at one place it follows each of
  them by telling the story again, so that all derivations are found (`derivations == 1` is tested, not
  assumed);
- `Enumerator` takes every choice in turn, which shows that the probabilities of a tiny world sum to 1.

Probabilities are ratios of small integers; a draw is `u * total >> 64` with a 64-bit u, so the drawn
distribution differs from the stated one by less than 2^-53.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from math import log
from typing import TYPE_CHECKING, NamedTuple

from .facts import Cands, Entity, Person, Place, Thing
from .rng import block

if TYPE_CHECKING:
    from .grammar import Kind, Template
    from .world import World

LOG = (0.0, *(log(i) for i in range(1, 4097)))
PRONOUN, NAME = 3, 1  # odds of a pronoun against a name, where both are clear
IT, THE = 1, 2  # odds of "it" against "the kite"
Option = tuple[int, "Kind", dict]


class Step(NamedTuple):
    """One sentence of a derivation: what stands before it, how it was made, and the parts of its surface."""

    sep: str
    kind: Kind
    template: Template
    bound: dict
    parts: list[str]


class Mismatch(Exception):
    """The text cannot be derived; `position` is where the parse stopped."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


class Teller:
    """The state of a story while it is told: who is where, who has what, who was mentioned last."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.steps: list[Step] = []
        self.log_prob = 0.0
        self.sep = ""
        self.subject: Person | None = None
        self.people: list = []
        self.things: tuple = ()
        self.loc: dict[Entity, Place] = {}
        self.has: dict[Thing, Entity] = {}
        self.mood: dict[Entity, int] = {}
        self.ctx: dict = dict(world.lex)
        self.used: set = set()
        self.limit = world.sheet.size.templates

    # what a plot calls

    def say(
        self, *options: Option, pad: int = 0, pool: tuple[Option, ...] | None = None
    ) -> tuple[Kind, dict]:
        """Tell one of the options (weight, kind, arguments); before it, up to `pad` digressions."""
        if not self.world.sheet.size.digressions:
            pad = 0
        while pad:
            extra = self.world.plots.digressions(self) if pool is None else pool
            extra = [option for option in extra if option[1] not in self.used]
            kind, bound = self._choose([*options, *extra])
            if not any(kind is option[1] for option in options):
                self.used.add(kind)
                pad -= 1
                continue
            return kind, bound
        return self._choose(options)

    def one(self, kind: Kind, pad: int = 0, **args) -> dict:
        """Tell a sentence of this kind; returns what its slots hold."""
        return self.say((6, kind, args), pad=pad)[1]

    def paragraph(self) -> None:
        """The next sentence opens a paragraph."""
        self.sep = "\n\n"
        self.subject = None
        self.things = ()

    def at(self, place: Place) -> None:
        """The hero is here now: scenery is taken from this place."""
        self.ctx["p"] = place
        self.ctx["clause"] = place.clauses
        self.used.discard(self.world.grammar.SCENE)

    # what a reading implements

    def _choose(self, options) -> tuple[Kind, dict]:
        raise AssertionError("a Teller is abstract: use Sampler, Scorer or Enumerator")

    # shared

    def clear(self, person: Entity) -> bool:
        """Whether a pronoun would be understood as this person."""
        if self.subject is not person:
            return False
        for other in self.people:
            if other is not person and other.female == person.female:  # type: ignore[attr-defined]
                return False
        return True

    def _done(self, kind: Kind, template: Template, bound: dict, parts: list[str]) -> None:
        if kind.silent:
            return
        self.steps.append(Step(self.sep, kind, template, bound, parts))
        self.sep = " "
        self.subject = bound[template.subject] if template.subject else None
        people = [bound[var] for var in template.people]
        for var in template.friends:
            people.append(bound[var].friend)
        self.people = people
        self.things = tuple([bound[var] for var in template.things]) if template.things else ()
        for what, x, y in kind.effects:
            if what == "loc":
                self.loc[bound[x]] = bound[y]
            elif what == "has":
                self.has[bound[y]] = bound[x]
            elif what == "mood":
                self.mood[bound[x]] = y
            elif what == "gone":  # nobody knows where it is
                self.has.pop(bound[x], None)
            else:  # "away": nobody knows where they are
                self.loc.pop(bound[x], None)
        for var in kind.keep:
            self.ctx[var] = bound[var]


class Sampler(Teller):
    """Draws a story from a stream of 64-bit integers."""

    def __init__(self, world: World, key: int) -> None:
        super().__init__(world)
        self._key, self._from = key, 0
        self._next = iter(()).__next__

    def _refill(self) -> int:
        self._next = iter(block(self._key, self._from, 128)).__next__
        self._from += 128
        return self._next()

    def below(self, n: int) -> int:
        """An integer in [0, n), each with probability 1/n."""
        try:
            return self._next() * n >> 64
        except StopIteration:
            return self._refill() * n >> 64

    def among(self, options, total: int) -> int:
        """A point in [0, total): option k covers as much of it as its weight."""
        return self.below(total)

    def flip(self, part: int, total: int) -> bool:
        """True with probability part / total."""
        return self.below(total) < part

    def _choose(self, options) -> tuple[Kind, dict]:
        below = self.below
        lp = 0.0
        if len(options) > 1:
            total = 0
            for option in options:
                total += option[0]
            r = self.among(options, total)
            for weight, kind, args in options:  # noqa: B007 (kind and args are used after the loop)
                if r < weight:
                    break
                r -= weight
            lp = LOG[weight] - LOG[total]
        else:
            weight, kind, args = options[0]
        templates = kind.templates
        n = min(len(templates), self.limit)
        if n > 1:
            template = templates[below(n)]
            lp -= LOG[n]
        else:
            template = templates[0]
        bound = dict(args)
        ctx = self.ctx
        parts = []
        for literal, var, form in template.ops:
            value = bound.get(var)
            if value is None:
                value = ctx[var]
            if value.__class__ is Cands:
                n = value.n
                if n > 1:
                    lp -= value.logn
                    value = value.items[below(n)]
                else:
                    value = value.items[0]
            bound[var] = value
            if form == "ref" or form == "^ref":
                if self.clear(value):
                    if self.flip(PRONOUN, PRONOUN + NAME):
                        lp += LOG[PRONOUN] - LOG[PRONOUN + NAME]
                        form = "s" if form == "ref" else "^s"
                    else:
                        lp += LOG[NAME] - LOG[PRONOUN + NAME]
                        form = "n"
                else:
                    form = "n"
            elif form == "it":
                form = ""
                if self.things == (value,):
                    if self.flip(IT, IT + THE):
                        lp += LOG[IT] - LOG[IT + THE]
                        parts += (literal, "it")
                        continue
                    lp += LOG[THE] - LOG[IT + THE]
            parts += (literal, value.f[form])
        parts.append(template.tail)
        self.log_prob += lp
        self._done(kind, template, bound, parts)
        return kind, bound


class Enumerator(Sampler):
    """Takes the choices of `path`, then always the first.

    `sizes` tells how many there were each time, `probability` is the product of the choices' shares, worked
    out apart from `log_prob`.
    """

    def __init__(self, world: World, path: list[int]) -> None:
        super().__init__(world, 0)
        self.path, self.sizes = path, []
        self.probability = Fraction(1)

    def below(self, n: int) -> int:
        self.probability /= n
        return self._take(n)

    def among(self, options, total: int) -> int:
        k = self._take(len(options))
        self.probability *= Fraction(options[k][0], total)
        return sum(option[0] for option in options[:k])

    def flip(self, part: int, total: int) -> bool:
        yes = self._take(2) == 0
        self.probability *= Fraction(part if yes else total - part, total)
        return yes

    def _take(self, n: int) -> int:
        at = len(self.sizes)
        self.sizes.append(n)
        return self.path[at] if at < len(self.path) else 0


class Scorer(Teller):
    """Finds the choices in a text. `forced` are the alternatives taken where several matched, in order."""

    def __init__(self, world: World, text: str, forced: list[int]) -> None:
        super().__init__(world)
        self.text, self.forced = text, forced
        self.pos = 0
        self.taken: list[int] = []
        self.open: list[list[int]] = []

    def _choose(self, options) -> tuple[Kind, dict]:
        text, start = self.text, self.pos
        self.furthest = start
        total = sum([option[0] for option in options])
        found: list[tuple] = []
        if start == len(text):  # only silence stands after the end
            options = [option for option in options if option[1].silent]
            found = [(LOG[w] - LOG[total], start, kind, kind.templates[0], {}, []) for w, kind, _ in options]
        elif text.startswith(self.sep, start):
            start += len(self.sep)
            options = [option for option in options if not option[1].silent]
        else:
            raise Mismatch(start)
        for weight, kind, args in options if not found else ():
            n = min(len(kind.templates), self.limit)
            base = LOG[weight] - LOG[total] - LOG[n]
            for template in kind.templates[:n]:
                for lp, end, bound, parts in self._match(template, 0, start, args, 0.0, []):
                    found.append((base + lp, end, kind, template, bound, parts))
        if not found:
            raise Mismatch(self.furthest)
        index = 0
        if len(found) > 1:
            at = len(self.taken)
            if at < len(self.forced):
                index = self.forced[at]
            else:
                self.open += [[*self.taken, other] for other in range(1, len(found))]
            self.taken.append(index)
        lp, self.pos, kind, template, bound, parts = found[index]
        self.log_prob += lp
        self._done(kind, template, bound, parts)
        return kind, bound

    def _match(
        self, template: Template, at: int, pos: int, bound: dict, lp: float, parts: list[str]
    ) -> Iterator:
        text = self.text
        if at == len(template.ops):
            if text.startswith(template.tail, pos):
                yield lp, pos + len(template.tail), bound, [*parts, template.tail]
            elif pos > self.furthest:
                self.furthest = pos
            return
        literal, var, form = template.ops[at]
        if not text.startswith(literal, pos):
            if pos > self.furthest:
                self.furthest = pos
            return
        pos += len(literal)
        if pos > self.furthest:
            self.furthest = pos
        value = bound.get(var)
        if value is None:
            value = self.ctx[var]
        if value.__class__ is Cands:
            lp -= value.logn
            values = value.items
        else:
            values = (value,)
        for value in values:
            for lp_form, surface in self._surfaces(value, form):
                if text.startswith(surface, pos):
                    end = pos + len(surface)
                    now = {**bound, var: value}
                    yield from self._match(
                        template, at + 1, end, now, lp + lp_form, [*parts, literal, surface]
                    )

    def _surfaces(self, value, form: str) -> list[tuple[float, str]]:
        if form == "ref" or form == "^ref":
            if self.clear(value):
                total = LOG[PRONOUN + NAME]
                pronoun = value.f["s" if form == "ref" else "^s"]
                return [(LOG[PRONOUN] - total, pronoun), (LOG[NAME] - total, value.name)]
            return [(0.0, value.name)]
        if form == "it":
            if self.things == (value,):
                total = LOG[IT + THE]
                return [(LOG[IT] - total, "it"), (LOG[THE] - total, value.f[""])]
            form = ""
        return [(0.0, value.f[form])]
