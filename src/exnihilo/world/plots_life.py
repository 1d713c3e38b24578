"""Plots about people and animals: a pet, a quarrel, a feast, a lesson, a race, a walk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .facts import Cands
from .grammar import Grammar
from .shared import elsewhere, glad, meet, opening, others, sad

if TYPE_CHECKING:
    from .chooser import Teller

ORDINALS = ("first", "second", "third", "fourth")
COUNTS = ("No guest", "One guest", "Two guests", "Three guests")


def pet_kinds(g: Grammar) -> None:
    k = g.add
    k("T_PET", "{x.n} the {x.K}", "{a.n} and {x.n}", "A Hungry {x.K}", "A Friend Called {x.n}")
    k(
        "SPOT",
        "{p.at}, {a} found {x.n} the {x.kind}.",
        "{x.n} the {x.kind} sat {p.at} and looked at {a.n}.",
        "Suddenly {a} heard {x.n} the {x.kind}.",
        event="meet",
        roles="agent:a patient:x location:p",
        does="loc x p",
    )
    k("HUNGRY", "{x.n} was hungry and {x.voice}.", "{x.the} was very hungry.",
      "{x.n} {x.voice} and wanted food.",
      event="want", roles="agent:x", does="mood x -1", v=-1)  # fmt: skip
    k("WRONG", "{a} held out some {fodder}, but {x.n} turned away.",
      "{a} tried {fodder}, but {x.n} did not like that.",
      "{x.n} sniffed at some {fodder} and left it.",
      event="offer", roles="agent:a recipient:x", v=-1)  # fmt: skip
    k("RIGHT", "Then {a} brought some {x.food}, and {x.n} ate everything.",
      "{a} tried {x.food}, and {x.n} {x.voice} with joy.",
      "But {x.food} made {x.n} happy at once.",
      event="feed", roles="agent:a recipient:x", does="mood x 1; mood a 1", v=1)  # fmt: skip
    k("ADVICE", '"{x.n} likes {x.food}," said {b.n}.', '"Try {x.food}," said {b.n}.',
      event="tell", roles="agent:b recipient:a", v=1)  # fmt: skip
    k("NOTHING", "{a} had nothing else to give.", "There was no more food in {a.p} bag.",
      event="lack", roles="agent:a", does="mood a -1", v=-1)  # fmt: skip
    k("FOLLOW", "{x.n} followed {a.n} home, and home was near {q}.",
      "{a} {go} home {q.to}, and {x.n} came along.",
      event="follow", roles="agent:x patient:a destination:q", does="loc x q; loc a q", v=1)  # fmt: skip
    k("RUNOFF", "{x.n} ran off {q.to}, for it always slept {x.home}.", "{x.n} went back to sleep {x.home}.",
      event="go", roles="agent:x destination:q", does="loc x q")  # fmt: skip


def pet(c: Teller, f: dict) -> None:
    g = c.world.grammar
    x = f["x"]
    a = opening(c, f["a"])
    p = c.ctx["p"]
    x = c.say((4, g.SPOT, {"a": a, "x": x, "p": p}), pad=2, pool=c.world.plots.intro)[1]["x"]
    c.ctx["x"] = x
    c.used.add(g.FEED)  # what it likes is what the hero has to find out
    args = {"a": a, "x": x}
    c.one(g.HUNGRY, **args)
    c.paragraph()
    wrong = args | {"fodder": c.world.fodder[x]}
    kind = c.say((2, g.WRONG, wrong), (2, g.RIGHT, args))[0]
    if kind is g.WRONG:
        kind = c.say((1, g.WRONG, wrong), (2, g.RIGHT, args), (1, g.NOTHING, args), pad=1)[0]
    if kind is g.WRONG:
        b = meet(c, a, others(c, a), 0)
        c.one(g.ADVICE, a=a, b=b, x=x)
        c.one(g.RIGHT, **args)
    if kind is g.NOTHING:
        c.one(g.RUNOFF, 1, x=x, q=x.home)
        sad(c, a)
        return
    c.paragraph()
    if c.say((2, g.FOLLOW, args | {"q": a.home}), (1, g.RUNOFF, args | {"q": x.home}), pad=2)[0] is g.FOLLOW:
        c.at(a.home)
    glad(c, a)


def quarrel_kinds(g: Grammar) -> None:
    k = g.add
    k("T_QUARREL", "The Quarrel", "{a.n} Gets Angry", "One {t.T} for Two", "The Quarrel about the {t.T}")
    k("GROUND", "On the ground lay {t.a}.", "They found {t.a} at their feet.", "Between them lay {t.a}.",
      event="spot", roles="agent:a patient:t location:p", does="has p t")  # fmt: skip
    k("BOTH", "Both of them wanted {t}.", "{a} and {b.n} reached for {t} at the same time.",
      event="want", roles="agent:a patient:t")  # fmt: skip
    k("GRAB", "{b.n} grabbed {t} and held on to it.", "{b.n} was faster and took {t}.",
      "{b.n} snatched {t} away.",
      event="take", roles="agent:b patient:t", does="has b t; mood a -1", v=-1)  # fmt: skip
    k("MINE", '"It is mine!" shouted {a.n}.', '"I saw {t} first!" cried {a.n}.',
      '"Give me {t}!" shouted {a.n}.',
      event="shout", roles="agent:a recipient:b", v=-1)  # fmt: skip
    k("YOURS", '"Never!" cried {b.n}.', '"You are a thief!" shouted {b.n}.', "{b.n} laughed at {a.n}.",
      event="shout", roles="agent:b recipient:a", v=-1)  # fmt: skip
    k("JUDGE", '"Take turns," said {d.n}.', '"Friends should share," said {d.n}.',
      '"Toss a penny for it," said {d.n}.',
      event="advise", roles="agent:d recipient:a", v=1)  # fmt: skip
    k("SORRY", '"I am sorry," said {b.n}.', '"Forgive me, {a.n}," said {b.n}.', "{b.n} was ashamed.",
      event="apologise", roles="agent:b recipient:a", v=1)  # fmt: skip
    k("YIELD", '"Keep it," said {a.n}, "I have enough at home."', "{a.n} let {b.n} keep {t}.",
      event="yield", roles="agent:a patient:t recipient:b", does="mood a 1; mood b 1", v=1)  # fmt: skip
    k("TEAR", "They pulled until the {t.part} broke.", "{a} pulled, {b.n} pulled, and {t} fell into the mud.",
      event="break", roles="agent:a patient:t location:p",
      does="has p t; mood a -1; mood b -1", v=-1)  # fmt: skip
    k("PART", "{b.n} went away with {t}.", "Without a word, {b.n} left with {t}.",
      event="depart", roles="agent:b patient:t", does="away b b", v=-1)  # fmt: skip


def quarrel(c: Teller, f: dict) -> None:
    g = c.world.grammar
    a = opening(c, f["a"])
    p = c.ctx["p"]
    b = c.say((4, g.MEET, {"a": a, "b": others(c, a), "p": p}), pad=2, pool=c.world.plots.intro)[1]["b"]
    t = c.one(g.GROUND, a=a, t=f["t"], p=p)["t"]
    c.ctx["t"] = t
    args = {"a": a, "b": b, "t": t}
    c.one(g.BOTH, **args)
    c.one(g.GRAB, **args)
    c.paragraph()
    c.one(g.MINE, **args)
    c.one(g.YOURS, **args)
    end = [(2, g.SORRY, args), (2, g.TEAR, args | {"p": p}), (1, g.PART, args), (1, g.YIELD, args)]
    kind, bound = c.say(*end, (3, g.MEET, {"a": a, "b": others(c, a, b), "p": p}), pad=1)
    if kind is g.MEET:
        c.one(g.JUDGE, a=a, d=bound["b"])
        kind = c.say(*end, pad=1)[0]
    if kind is g.SORRY:
        c.one(g.BACK, **args)
        c.say((1, g.THANKS, {"a": b, "b": a}), (1, g.E_HAS, {"b": a, "t": t}))
    if kind in (g.SORRY, g.YIELD):
        glad(c, a)
    else:
        sad(c, a)


def feast_kinds(g: Grammar) -> None:
    k = g.add
    k("T_FEAST", "{a.n} Cooks a Meal", "The Feast", "Guests for {a.n}", "The Long Table")
    k("PLAN", "{a} wanted to cook {a.food} for some friends.", "{a} had made far too much {a.food} for one.",
      "It was time for a feast, and {a} would cook {a.food}.",
      event="plan", roles="agent:a")  # fmt: skip
    k("INVITE", "{a} invited {b.n}.", '"Come and eat with me, {b.n}," said {a.n}.',
      "{a} wrote a note to {b.n}.",
      event="invite", roles="agent:a patient:b")  # fmt: skip
    k("HOMEWARD", "{a} {go} home {q.to} and stirred the pot.", "At home, near {q}, {a} set the table.",
      event="go", roles="agent:a destination:q", does="loc a q")  # fmt: skip
    k("ARRIVE", "{b.n} came and brought {t.a}.", "{b.n} knocked and held out {t.a}.",
      "Then {b.n} arrived with {t.a}.",
      event="come", roles="agent:b patient:t recipient:a location:q",
      does="loc b q; has a t", v=1)  # fmt: skip
    k("ABSENT", "{b.n} did not come.", "{b.n} was ill and stayed in bed.", "Nobody saw {b.n} that night.",
      event="miss", roles="agent:b", v=-1)  # fmt: skip
    k("TALLY", "{count} sat at the table.", "{count} ate with {a.n}.", event="count", roles="agent:a")
    k("EAT", "They ate {a.food} until the pot was empty.", "They all praised the {a.food}.",
      event="eat", roles="agent:a", does="mood a 1", v=1)  # fmt: skip
    k("ALONE", "{a} ate the {a.food} alone.", "The {a.food} grew cold.", event="eat", roles="agent:a", v=-1)


def feast(c: Teller, f: dict) -> None:
    g = c.world.grammar
    a = opening(c, f["a"])
    c.say((4, g.PLAN, {"a": a}), pad=2, pool=c.world.plots.intro)
    c.paragraph()
    guests = [c.one(g.INVITE, a=a, b=others(c, a))["b"]]
    home = {"a": a, "q": a.home}
    for _ in range(2):
        kind, bound = c.say((3, g.INVITE, {"a": a, "b": others(c, a, *guests)}), (2, g.HOMEWARD, home), pad=1)
        if kind is g.HOMEWARD:
            break
        guests.append(bound["b"])
    else:
        c.one(g.HOMEWARD, **home)
    c.at(a.home)
    c.paragraph()
    came = 0
    gifts: list[str] = []
    for b in guests:
        free = c.world.things if not gifts else Cands(t for t in c.world.things.items if t.noun not in gifts)
        args = {"a": a, "b": b, "q": a.home}
        kind, bound = c.say((4, g.ARRIVE, args | {"t": free}), (1, g.ABSENT, args))
        if kind is g.ARRIVE:
            came += 1
            gifts.append(bound["t"].noun)
    c.one(g.TALLY, 1, a=a, count=c.world.counts[came])
    if came:
        c.one(g.EAT, a=a)
        glad(c, a)
    else:
        c.one(g.ALONE, a=a)
        sad(c, a)


def learn_kinds(g: Grammar) -> None:
    k = g.add
    k("T_LEARN", "{a.n} Learns a Trade", "The Teacher of {a.n}", "A New Skill", "Practice Makes Perfect")
    k("WISH", "{a} wanted to learn the trade of {b.n}, {b.thejob}.", "{a} admired {b.n}, who was {b.ajob}.",
      event="want", roles="agent:a patient:b")  # fmt: skip
    k("TOWORK", "So {a} {go} {q.to}, where {b.n} worked.", "{b.n} worked {q.at}, so {a} {go} there.",
      event="go", roles="agent:a destination:q host:b", does="loc a q; loc b q")  # fmt: skip
    k("ASKTEACH", '"Will you teach me?" asked {a.n}.', '"I want to be {b.ajob} too," said {a.n}.',
      event="ask", roles="agent:a recipient:b")  # fmt: skip
    k("AGREED", '"Watch me first," said {b.n}.', '"Yes, but it is hard," said {b.n}.',
      '"Gladly," said {b.n}.',
      event="agree", roles="agent:b recipient:a", v=1)  # fmt: skip
    k("SHOW", "{b.n} {habit}, and {a.n} watched.", "First {b.n} {habit}.", event="work", roles="agent:b")
    k("TRY", "{a} tried for the {nth} time and failed.", "The {nth} attempt of {a.n} went wrong.",
      event="try", roles="agent:a", does="mood a -1", v=-1)  # fmt: skip
    k("MASTER", "The {nth} time it worked: {a.n} {habit} without help.",
      "At the {nth} attempt {a} {habit} like a master.",
      event="work", roles="agent:a", does="mood a 1", v=1)  # fmt: skip
    k("CHEER", '"Well done!" said {b.n}.', '"You are a born {b.job}," said {b.n}.', "{b.n} clapped loudly.",
      event="praise", roles="agent:b recipient:a", v=1)  # fmt: skip
    k("QUIT", '"I shall never learn it," said {a.n}.', "{a} threw everything down.",
      event="quit", roles="agent:a", v=-1)  # fmt: skip


def learn(c: Teller, f: dict) -> None:
    g = c.world.grammar
    a = opening(c, f["a"])
    apart = c.world.apart[a]
    b = c.say((4, g.WISH, {"a": a, "b": apart}), pad=2, pool=c.world.plots.intro)[1]["b"]
    c.paragraph()
    args = {"a": a, "b": b}
    c.one(g.TOWORK, **args, q=b.work)
    c.at(b.work)
    c.one(g.ASKTEACH, 1, **args)
    c.one(g.AGREED, **args)
    habit = c.one(g.SHOW, **args, habit=b.habits)["habit"]
    c.paragraph()
    for i in range(4):
        turn = args | {"habit": habit, "nth": c.world.ordinals[i]}
        options = [(2, g.MASTER, turn)] if i == 3 else [(3, g.TRY, turn), (2, g.MASTER, turn)]
        if i == 2:
            options.append((1, g.QUIT, args))
        kind = c.say(*options, pad=1)[0]
        if kind is g.MASTER:
            c.one(g.CHEER, **args)
            glad(c, a)
            return
        if kind is g.QUIT:
            break
    sad(c, a)


def race_kinds(g: Grammar) -> None:
    k = g.add
    k("T_RACE", "The Great Race", "First to the {q.T}", "{a.n} Runs a Race", "The Race for the {t.T}")
    k("DARE", '"I bet I am first {q.at}," said {b.n}.', '"Let us race {q.to}," said {b.n}.',
      event="challenge", roles="agent:b recipient:a")  # fmt: skip
    k("PRIZE", "The prize was {t.a}.", '"And the winner gets {t.a}," said {a.n}.', "{t.a} was the prize.")
    k(
        "START",
        "They counted to three and ran.",
        "Off they went, side by side.",
        "A whistle blew, and they were off.",
    )
    k("LEAD_A", "{a.n} took the lead.", "{b.n} tripped, and {a.n} passed.", "Now {a.n} was in front.",
      event="lead", roles="agent:a")  # fmt: skip
    k("LEAD_B", "{b.n} took the lead.", "{a.n} stumbled, and {b.n} passed.", "Now {b.n} was in front.",
      event="lead", roles="agent:b")  # fmt: skip
    k("WIN_A", "{a.n} was the first {q.at} and won {t}.", "Nobody passed {a.n} again, and {t} went to {a.n}.",
      event="win", roles="agent:a patient:t location:q rival:b",
      does="has a t; loc a q; loc b q; mood a 1; mood b -1", v=1)  # fmt: skip
    k("WIN_B", "{b.n} was the first {q.at} and won {t}.", "Nobody passed {b.n} again, and {t} went to {b.n}.",
      event="win", roles="agent:b patient:t location:q rival:a",
      does="has b t; loc a q; loc b q; mood b 1; mood a -1", v=-1)  # fmt: skip
    k("SPORT", '"You ran well," said {b.n}.', "They shook hands.", "{b.n} bowed to {a.n} {way}.",
      event="greet", roles="agent:b recipient:a", v=1)  # fmt: skip


def race(c: Teller, f: dict) -> None:
    g = c.world.grammar
    a = opening(c, f["a"])
    p = c.ctx["p"]
    b = c.say((4, g.MEET, {"a": a, "b": others(c, a), "p": p}), pad=2, pool=c.world.plots.intro)[1]["b"]
    q = f["q"]
    if isinstance(q, Cands) or q is p:
        q = elsewhere(c, p)
    q = c.one(g.DARE, a=a, b=b, q=q)["q"]
    t = c.one(g.PRIZE, a=a, t=f["t"])["t"]
    c.ctx["t"] = t
    c.paragraph()
    args = {"a": a, "b": b, "t": t, "q": q}
    c.one(g.START, **args)
    leader = c.say((1, g.LEAD_A, args), (1, g.LEAD_B, args))[0]
    for _ in range(3):
        change = g.LEAD_B if leader is g.LEAD_A else g.LEAD_A
        win = g.WIN_A if leader is g.LEAD_A else g.WIN_B
        kind = c.say((1, change, args), (1, win, args), pad=1)[0]
        if kind is win:
            break
        leader = kind
    else:
        c.one(g.WIN_A if leader is g.LEAD_A else g.WIN_B, **args)
    c.at(q)
    c.one(g.SPORT, **args)
    if leader is g.LEAD_A:
        glad(c, a)
    else:
        sad(c, a)


def walk_kinds(g: Grammar) -> None:
    g.add("T_WALK", "A Short Walk", "{a.n} Takes a Walk", "A Quiet Day", "A Day Off")


def walk(c: Teller, f: dict) -> None:
    g = c.world.grammar
    a = opening(c, f["a"])
    pad, pool = 2, c.world.plots.intro
    for _ in range(3):
        options = [(4, g.GO, {"a": a, "q": elsewhere(c, c.ctx["p"], a.home)})]
        if pad == 1:
            options.append((2, g.GOHOME, {"a": a, "q": a.home}))
        kind, bound = c.say(*options, pad=pad, pool=pool if pad == 2 else None)
        c.at(bound["q"])
        if kind is g.GOHOME:
            break
        pad = 1
    else:
        c.at(c.one(g.GOHOME, a=a, q=a.home)["q"])
    glad(c, a)


# name -> (weight, kinds, what a title may fix, plot)
LIFE = {
    "pet": (4, pet_kinds, {"a": "people", "x": "animals"}, pet),
    "quarrel": (3, quarrel_kinds, {"a": "people", "t": "things"}, quarrel),
    "feast": (3, feast_kinds, {"a": "people"}, feast),
    "learn": (3, learn_kinds, {"a": "people"}, learn),
    "race": (3, race_kinds, {"a": "people", "t": "things", "q": "places"}, race),
    "walk": (3, walk_kinds, {"a": "people"}, walk),
}
