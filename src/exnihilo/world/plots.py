"""The plots: how a story runs, told through `Teller.say`; and what every plot shares.

A plot is a function of the teller and of what the title has already fixed. It may branch on what `say`
returns and on the state of the story, and on nothing else: that is what makes a text determine its
derivation.

Source of the plan: stories as plans of agents with wants (Meehan, "TALE-SPIN", IJCAI 1977), with surface
templates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .facts import Cands, Entity, Person, Place
from .plots_life import LIFE
from .plots_things import THINGS
from .sentences import common

if TYPE_CHECKING:
    from .chooser import Option, Teller
    from .grammar import Grammar, Kind
    from .world import World

Plot = Callable[["Teller", dict], None]


class Plots:
    """The plots of a world, with the options that all of them draw from."""

    def __init__(self, world: World, grammar: Grammar) -> None:
        self.world = world
        common(grammar)
        wanted = world.sheet.size.plots
        self.table: dict[str, Plot] = {}
        titles = []
        for name, (weight, kinds, titled, plot) in {**THINGS, **LIFE}.items():
            kinds(grammar)
            if wanted and name not in wanted:
                continue
            self.table[name] = plot
            args = {var: getattr(world, kind) for var, kind in titled.items()}
            titles.append((weight, grammar.kinds["T_" + name.upper()], args))
        self.titles = tuple(titles)
        g = grammar
        self.intro: tuple[Option, ...] = tuple(
            (weight, kind, {})
            for weight, kind in ((3, g.I_JOB), (3, g.I_HOME), (2, g.I_FOOD), (2, g.I_FRIEND), (1, g.I_HABIT))
        )
        base = ((3, g.SCENE), (1, g.SKY), (1, g.SNACK), (1, g.HOMESICK))
        self._base: tuple[Option, ...] = tuple((w, k, {}) for w, k in base)
        self._miss: Option = (1, g.MISS, {})
        pairs = ((g.Q_HOME, g.A_HOME), (g.Q_JOB, g.A_JOB), (g.Q_FOOD, g.A_FOOD), (g.Q_FRIEND, g.A_FRIEND))
        self.about: dict[Entity, tuple[Asked, ...]] = {
            p: tuple((1, q, {"d": p}, a, {"d": p}) for q, a in pairs) for p in world.sheet.people
        }
        self._glad, self._sad = (2, g.GLAD, {}), (2, g.SAD, {})
        self._beast = (1, g.BEAST, {})
        self._known_beast = ((1, g.FEED, {}), (1, g.SLEEPER, {}))

    def digressions(self, c: Teller) -> list[Option]:
        """What may be told between two steps of the plot, in the state the story is in."""
        out = list(self._base)
        hero = c.ctx["a"]
        if hero.friend not in c.loc:
            out.append(self._miss)
        mood = c.mood.get(hero, 0)
        if mood:
            out.append(self._glad if mood > 0 else self._sad)
        out += (self._beast,) if isinstance(c.ctx["x"], Cands) else self._known_beast
        thing = c.ctx.get("t")
        if thing is not None and c.has.get(thing) is hero:
            g = self.world.grammar
            out += ((1, g.USE, {}), (1, g.DETAIL, {}))
        return out


def tell(c: Teller) -> None:
    """Tell one whole story: title, plot, questions."""
    plots = c.world.plots
    kind, bound = c.say(*plots.titles)
    c.paragraph()
    plots.table[kind.name[2:].lower()](c, bound)
    coda(c)


def coda(c: Teller) -> None:
    """After some stories, a few questions with their answers, each a paragraph."""
    g = c.world.grammar
    if not c.world.sheet.size.questions:
        return
    asked = _askable(c)
    for _ in range(c.world.sheet.size.questions):
        total = sum([q[0] for q in asked])
        c.paragraph()
        kind, bound = c.say(*[(q[0], q[1], q[2]) for q in asked], (total, g.END, {}))
        if kind is g.END:
            return
        for i, (_, question, args, answer, more) in enumerate(asked):
            if question is kind and all(bound[var] is value for var, value in args.items()):
                c.one(answer, **more)
                del asked[i]
                break


Asked = tuple[int, "Kind", dict, "Kind", dict]  # weight, question and its slots, answer and its slots


def _askable(c: Teller) -> list[Asked]:
    """The questions that the story, as it stands, or the fact sheet answers."""
    g = c.world.grammar
    hero = c.ctx["a"]
    out: list[Asked] = []
    for thing, owner in c.has.items():
        if isinstance(owner, Person):
            out.append((4, g.Q_HAS, {"t": thing}, g.A_HAS, {"t": thing, "b": owner}))
            two = {"t": thing, "a": hero}
            out.append((1, g.Q_STILL, two, g.A_YES if owner is hero else g.A_NO, two))
        elif isinstance(owner, Place):
            out.append((4, g.Q_LIES, {"t": thing}, g.A_LIES, {"t": thing, "q": owner}))
    for being, place in c.loc.items():
        if isinstance(being, Person):
            out.append((2, g.Q_WHERE, {"a": being}, g.A_WHERE, {"a": being, "q": place}))
            out += c.world.plots.about[being]
        else:
            out.append((2, g.Q_BEAST, {"x": being}, g.A_BEAST, {"x": being, "q": place}))
    mood = c.mood.get(hero, 0)
    if mood:
        out.append((2, g.Q_FEEL, {"a": hero}, g.A_GOOD if mood > 0 else g.A_BAD, {"a": hero}))
    beast = c.ctx["x"]
    if not isinstance(beast, Cands):
        out.append((2, g.Q_FODDER, {"x": beast}, g.A_FODDER, {"x": beast}))
    return out
