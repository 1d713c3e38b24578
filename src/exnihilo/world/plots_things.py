"""Plots about things: lost, given, carried, swapped, mended, hidden. Each has its sentences above it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .facts import Cands, Person
from .grammar import Grammar
from .shared import elsewhere, glad, meet, opening, others, sad, travel

if TYPE_CHECKING:
    from .chooser import Teller

AT = "agent:a patient:t location:p"


def lost_kinds(g: Grammar) -> None:
    k = g.add
    k("T_LOST", "The Lost {t.T}", "{a.n} and the Lost {t.T}", "{a.n} Loses the {t.T}", "Where Is the {t.T}?")
    k("OWN", "{a} owned {t.a}.", "{a} had {t.a}, and {t.detail}.", "{a.g} greatest treasure was {t.a}.",
      "In a bag {a} carried {t.a}.", event="own", roles="agent:a patient:t", does="has a t")  # fmt: skip
    k("LOSE", "But suddenly {t} was gone.", "Then {a} noticed that {t} was missing.",
      "But then {a} lost {t}.",
      "When {a} looked again, {t} was nowhere to be seen.",
      event="lose", roles="agent:a patient:t", does="gone t t; mood a -1", v=-1)  # fmt: skip
    k("SEARCH", "{a} looked {where}, but {t} was not there.", "{a} searched {where} and found nothing.",
      "{t} was not there, not even {where}.", event="search", roles=AT, v=-1)  # fmt: skip
    k("FOUND", "{a} looked {where} and found {t}.", "There, {where}, lay {t}!", "And there {t} was, {where}!",
      event="find", roles=AT, does="has a t; mood a 1", v=1)  # fmt: skip
    k("SEEN", '"Have you seen my {t.n}?" asked {a.n}.', '"I am looking for {t.a}," said {a.n}.',
      '"Where is my {t.n}?" asked {a.n}.', event="ask", roles="agent:a recipient:b")  # fmt: skip
    k("SEEN_NO", '"No, I have not," said {b.n}.', '"I have not seen it, I am sorry," said {b.n}.',
      "{b.n} shook {b.p} head.", event="answer", roles="agent:b recipient:a", v=-1)  # fmt: skip
    k("SEEN_AT", '"I saw it {q.at}," said {b.n}.', '"It is {q.at}, I think," said {b.n}.',
      '"Somebody left it {q.at}," answered {b.n}.', event="answer", roles="agent:b recipient:a")  # fmt: skip
    k("SEEN_ME", '"Here it is, I found it {q.at}," said {b.n}.', '"I picked it up {q.at}," said {b.n}.',
      event="answer", roles="agent:b recipient:a patient:t", does="has b t", v=1)  # fmt: skip
    k("BACK", "{b.n} gave {t} back to {a.n}.", "Then {b.n} put {t} into {a.g} hands.",
      "{b.n} gave {a.n} {t}.",
      event="give", roles="agent:b patient:t recipient:a", does="has a t; mood a 1", v=1)  # fmt: skip
    k("GIVEUP", "At last {a} gave up.", "{a} never saw {t} again.", "{t} was lost for good.",
      event="end", roles="agent:a", v=-1)  # fmt: skip


def lost(c: Teller, f: dict) -> None:
    g = c.world.grammar
    t = f["t"]
    a = opening(c, f["a"])
    c.say((4, g.OWN, {"a": a, "t": t}), pad=2, pool=c.world.plots.intro)
    c.ctx["t"] = t
    c.one(g.LOSE, 2, a=a, t=t)
    seen = [c.ctx["p"]]
    for _ in range(3):
        c.paragraph()
        p = travel(c, a, elsewhere(c, *seen), 0)
        seen.append(p)
        here = {"a": a, "t": t, "p": p}
        kind, bound = c.say(
            (3, g.SEARCH, here), (2, g.FOUND, here), (5, g.MEET, here | {"b": others(c, a)}), pad=1
        )
        if kind is g.FOUND:
            break
        if kind is g.MEET:
            b = bound["b"]
            c.one(g.SEEN, a=a, b=b, t=t)
            two = {"a": a, "b": b, "t": t}
            there = {"q": elsewhere(c, *seen)}
            kind, bound = c.say((3, g.SEEN_NO, two), (3, g.SEEN_AT, two | there), (2, g.SEEN_ME, two | there))
            if kind is g.SEEN_AT:
                p = travel(c, a, bound["q"], 0)
                c.one(g.FOUND, 1, a=a, t=t, p=p)
                break
            if kind is g.SEEN_ME:
                c.one(g.BACK, **two)
                c.one(g.THANKS, a=b, b=a)
                break
    if t in c.has:
        glad(c, a)
    else:
        c.one(g.GIVEUP, 1, a=a, t=t)
        sad(c, a)


def gift_kinds(g: Grammar) -> None:
    k = g.add
    k("T_GIFT", "{t.aT} for {b.n}", "The Birthday of {b.n}", "A Present for {b.n}", "{a.n} Buys a Present")
    k("BIRTHDAY", "It was the birthday of {b.n}.", "{b.n} had a birthday, and {a} wanted to bring a present.",
      "Soon {b.n} would be one year older.")  # fmt: skip
    k("DREAM", "{b.n} had always wanted {t.a}.", "{a} knew that {b.n} wished for {t.a}.",
      "{t.a} would be just right for {b.n}.", event="want", roles="agent:b patient:t")  # fmt: skip
    k("SELLS", "{b.n} had {t.a} for sale.", "{b.n} wanted to sell {t.a}.",
      event="offer", roles="agent:b patient:t", does="has b t")  # fmt: skip
    k("PRICE", '"How much is {t}?" asked {a.n}.', '"I would like to buy {t}," said {a.n}.',
      '"Is {t} very dear?" asked {a.n}.', event="ask", roles="agent:a recipient:b")  # fmt: skip
    k("COSTS", '"It costs {num} pennies," said {b.n}.', '"I want {num} pennies for it," answered {b.n}.',
      event="answer", roles="agent:b recipient:a")  # fmt: skip
    k("BUY", "{a} paid {num} pennies and took {t}.",
      "{a} counted out {num} pennies, and {b.n} handed over {t}.",
      event="buy", roles="agent:a patient:t", does="has a t; mood a 1", v=1)  # fmt: skip
    k("POOR", "But {a} had only {less} pennies.", "{a} counted: there were only {less} pennies.",
      event="count", roles="agent:a", does="mood a -1", v=-1)  # fmt: skip
    k("CHEAP", '"Then take it for {less} pennies," said {b.n}.',
      '"{less} pennies will do," said {b.n} {way}.',
      event="sell", roles="agent:b patient:t recipient:a", does="has a t; mood a 1", v=1)  # fmt: skip
    k("REFUSE", '"That is not enough," said {b.n}.', '"Come back with {num} pennies," said {b.n}.',
      event="refuse", roles="agent:b recipient:a", v=-1)  # fmt: skip
    k("VISIT", "{b.n} lived near {q}, so {a} {go} there.", "{a} {go} {q.to}, for {b.n} lived near it.",
      event="go", roles="agent:a destination:q host:b", does="loc a q; loc b q")  # fmt: skip
    k("GIVE", "{a} gave {t} to {b.n}.", "{a} handed {t} to {b.n} {way}.", "{a} gave {b.n} {t}.",
      event="give", roles="agent:a patient:t recipient:b", does="has b t; mood b 1", v=1)  # fmt: skip
    k("COOKED", "So {a} cooked some {b.food} for {b.n} instead.",
      "{b.n} loved {b.food}, so {a} brought some.",
      event="cook", roles="agent:a recipient:b", does="mood b 1; mood a 1", v=1)  # fmt: skip


def visit(c: Teller, a: Person, b: Person, pad: int = 1) -> None:
    """The hero goes to where b lives."""
    c.one(c.world.grammar.VISIT, pad, a=a, b=b, q=b.home)
    c.at(b.home)


def gift(c: Teller, f: dict) -> None:
    g = c.world.grammar
    b = f["b"]
    a = opening(c, f["a"] if isinstance(b, Cands) else others(c, b))
    b = others(c, a) if isinstance(b, Cands) else b
    if isinstance(b, Cands):
        b = c.say((4, g.BIRTHDAY, {"a": a, "b": b}), pad=2, pool=c.world.plots.intro)[1]["b"]
    else:
        c.say((4, g.BIRTHDAY, {"a": a, "b": b}), pad=2, pool=c.world.plots.intro)
    t = c.one(g.DREAM, a=a, b=b, t=f["t"])["t"]
    c.paragraph()
    travel(c, a, elsewhere(c, c.ctx["p"], b.home), 0)
    s = meet(c, a, others(c, a, b))
    c.one(g.SELLS, b=s, t=t)
    c.ctx["t"] = t
    two = {"a": a, "b": s, "t": t}
    c.one(g.PRICE, **two)
    num = c.one(g.COSTS, **two, num=c.world.prices)["num"]
    two["num"] = num
    kind, bound = c.say((3, g.BUY, two), (2, g.POOR, {"a": a, "less": c.world.below[num]}))
    if kind is g.POOR:
        two["less"] = bound["less"]
        c.say((2, g.CHEAP, two), (2, g.REFUSE, two))
    c.paragraph()
    visit(c, a, b)
    if c.has[t] is a:
        c.one(g.GIVE, 1, a=a, b=b, t=t)
    else:
        c.one(g.COOKED, 1, a=a, b=b)
    c.one(g.THANKS, a=a, b=b)
    glad(c, b if c.has[t] is b else a)


def errand_kinds(g: Grammar) -> None:
    k = g.add
    k("T_ERRAND", "{a.n} Runs an Errand", "{a.n} Carries {t.aT}", "The Errand", "The {t.T} on the Way")
    k("REQUEST", '"Please take {t.a} to {d.n}," said {b.n}.',
      '"{d.n} needs {t.a}, can you bring it?" asked {b.n}.',
      '"This is {t.a} for {d.n}, please carry it," said {b.n}.',
      event="ask", roles="agent:b recipient:a")  # fmt: skip
    k("PROMISE", '"I will," said {a.n}.', '"Of course," said {a.n}.', "{a} nodded {way}.",
      '"With pleasure," said {a.n}.',
      event="promise", roles="agent:a recipient:b")  # fmt: skip
    k("HANDS", "{b.n} handed {t} to {a.n}.", "So {b.n} gave {t} to {a.n}.", "{a.n} took {t} from {b.n}.",
      event="give", roles="agent:b patient:t recipient:a", does="has a t")  # fmt: skip
    k("FORGET", "{a} took a rest and forgot {t} there.", "{a} put {t} down and left without it.",
      event="leave", roles=AT, does="has p t")  # fmt: skip
    k("SEEK", "{d.n} worked {q.at}, so {a} {go} there.", "{a} {go} {q.to}, where {d.n} worked.",
      event="go", roles="agent:a destination:q host:d", does="loc a q; loc d q")  # fmt: skip
    k("EMPTY", "But {a.g} hands were empty: {t} was still {q.at}.", "But {a} had left {t} {q.at}.",
      event="notice", roles="agent:a patient:t", does="mood a -1", v=-1)  # fmt: skip
    k("FETCH", "{a} picked up {t} and {go} back.", "There was {t}, and {a} took it back.",
      event="take", roles="agent:a patient:t destination:q", does="has a t; loc a q")  # fmt: skip
    k("LATE", '"Better late than never," said {d.n}.', "{d.n} laughed and waited.",
      event="answer", roles="agent:d recipient:a", v=1)  # fmt: skip


def errand(c: Teller, f: dict) -> None:
    g = c.world.grammar
    a = opening(c, f["a"])
    b = c.say((4, g.MEET, {"a": a, "b": others(c, a), "p": c.ctx["p"]}), pad=2, pool=c.world.plots.intro)[1][
        "b"
    ]
    bound = c.one(g.REQUEST, a=a, b=b, t=f["t"], d=others(c, a, b))
    t, d = bound["t"], bound["d"]
    c.one(g.PROMISE, a=a, b=b)
    c.one(g.HANDS, a=a, b=b, t=t)
    c.ctx["t"] = t
    c.paragraph()
    goal = {"a": a, "d": d, "q": d.work}
    left = None
    for _ in range(2):
        places = elsewhere(c, c.ctx["p"], d.work)
        kind, bound = c.say((3, g.GO, {"a": a, "q": places}), (3, g.SEEK, goal), pad=1)
        if kind is g.SEEK:
            break
        left = bound["q"]
        c.at(left)
        here = {"a": a, "t": t, "p": left}
        kind, _ = c.say((2, g.FORGET, here), (5, g.SEEK, goal), pad=2)
        if kind is g.SEEK:
            break
        c.one(g.SEEK, 1, **goal)
        break
    else:
        c.one(g.SEEK, **goal)
    c.at(d.work)
    if c.has[t] is not a:
        c.one(g.EMPTY, a=a, t=t, q=left)
        c.paragraph()
        travel(c, a, left or d.work, 0)
        c.one(g.FETCH, 1, a=a, t=t, q=d.work)
        c.at(d.work)
        c.one(g.LATE, a=a, d=d)
    c.one(g.GIVE, a=a, b=d, t=t)
    c.one(g.THANKS, a=a, b=d)
    c.mood[a] = 1
    glad(c, a)


def trade_kinds(g: Grammar) -> None:
    k = g.add
    k("T_TRADE", "A Fair Swap", "The {t.T} and the {u.T}", "{a.n} Wants the {u.T}", "{a.n} Makes an Offer")
    k("COVET", "But {a} wanted {u.a}, and {b.n} had just that.", "{b.n} had {u.a}, and {a} wanted it badly.",
      "Yet {a} dreamed of {u.a} like that of {b.n}.",
      event="want", roles="agent:a patient:u owner:b", does="has b u")  # fmt: skip
    k("OFFER", '"Will you give me {u} for {t.a}?" asked {a.n}.', '"I offer you {t.a} for {u}," said {a.n}.',
      event="offer", roles="agent:a patient:t recipient:b")  # fmt: skip
    k("AGREE", '"That is fair," said {b.n}.', '"Yes, let us swap," said {b.n}.', "{b.n} nodded {way}.",
      event="agree", roles="agent:b recipient:a", v=1)  # fmt: skip
    k("SWAP", "{a} gave {t} to {b.n} and got {u} in return.", "So {a} took {u}, and {b.n} took {t}.",
      event="swap", roles="agent:a patient:u recipient:b exchange:t",
      does="has b t; has a u; mood a 1; mood b 1",
      v=1)  # fmt: skip
    k("DECLINE", '"No, I would never part with {u}," said {b.n}.', '"I do not need {t.an}," said {b.n}.',
      "{b.n} shook {b.p} head and kept {u}.",
      event="refuse", roles="agent:b recipient:a", does="mood a -1", v=-1)  # fmt: skip
    k("LEND", '"But you may borrow {u} for a week," said {b.n}, and {a.n} took it.',
      "But {b.n} lent {u} to {a.n} for a week.",
      event="lend", roles="agent:b patient:u recipient:a", does="has a u; mood a 1", v=1)  # fmt: skip
    k("LEAVE", "So {a} kept {t} and {go} home {q.to}.",
      "{a} went home {q.to} with {t} and without {u}.",
      event="keep", roles="agent:a patient:t destination:q", does="loc a q", v=-1)  # fmt: skip


def trade(c: Teller, f: dict) -> None:
    g = c.world.grammar
    a = opening(c, f["a"])
    t = c.say((4, g.OWN, {"a": a, "t": f["t"]}), pad=2, pool=c.world.plots.intro)[1]["t"]
    c.ctx["t"] = t
    bound = c.one(g.COVET, 1, a=a, b=others(c, a), u=f["u"])
    b, u = bound["b"], bound["u"]
    c.paragraph()
    visit(c, a, b, 0)
    c.say((2, g.HELLO, {"a": a, "b": b}), (2, g.HELLO2, {"a": a, "b": b}), pad=1)
    args = {"a": a, "b": b, "t": t, "u": u}
    c.one(g.OFFER, **args)
    if c.say((3, g.AGREE, args), (2, g.DECLINE, args))[0] is g.AGREE:
        c.one(g.SWAP, **args)
        glad(c, a)
    elif c.say((1, g.LEND, args), (2, g.LEAVE, args | {"q": a.home}))[0] is g.LEND:
        c.one(g.THANKS, a=b, b=a)
        glad(c, a)
    else:
        sad(c, a)


def repair_kinds(g: Grammar) -> None:
    k = g.add
    k(
        "T_REPAIR",
        "The Broken {t.T}",
        "{a.n} Needs Help",
        "Who Can Mend the {t.T}?",
        "{a.n} and the Broken {t.T}",
    )
    k("BREAK", "But the {t.part} of {t} broke.", "Then {a} dropped {t}, and the {t.part} snapped.",
      "One day the {t.part} cracked, and {t} was of no use.",
      event="break", roles="agent:a patient:t", does="mood a -1", v=-1)  # fmt: skip
    k("CRAFT", "{d.n} was {d.ajob} and worked {q.at}, so {a} {go} there.",
      "{a} took {t} to {d.n}, {d.thejob}, who worked {q.at}.",
      event="go", roles="agent:a destination:q host:d", does="loc a q; loc d q")  # fmt: skip
    k("ASKMEND", '"Can you mend {t.it}?" asked {a.n}.', '"The {t.part} is broken, please help," said {a.n}.',
      '"Look at my poor {t.n}," said {a.n}.', event="ask", roles="agent:a recipient:d")  # fmt: skip
    k("CANNOT", '"I am sorry, that is beyond me," said {d.n}.',
      '"I have no new {t.part} for it," said {d.n}.',
      event="refuse", roles="agent:d recipient:a", v=-1)  # fmt: skip
    k("CAN", '"Nothing is easier," said {d.n}.', '"Leave it to me," said {d.n}.', '"I will try," said {d.n}.',
      event="agree", roles="agent:d recipient:a", v=1)  # fmt: skip
    k("MEND", "{d.n} mended the {t.part}, and {t} was as good as new.", "In an hour {d.n} had repaired {t}.",
      "{d.n} put in a new {t.part} and gave {t} back to {a.n}.",
      event="mend", roles="agent:d patient:t", does="mood a 1; has a t", v=1)  # fmt: skip
    k("PAY", "{a} paid {num} pennies for the work.",
      "{a} paid with some {d.food}, for {d.n} liked that best.",
      event="pay", roles="agent:a recipient:d")  # fmt: skip
    k("FREE", '"It costs you nothing," said {d.n}.', "{d.n} wanted no money for it.",
      event="help", roles="agent:d recipient:a", v=1)  # fmt: skip


def repair(c: Teller, f: dict) -> None:
    g = c.world.grammar
    a = opening(c, f["a"])
    t = c.say((4, g.OWN, {"a": a, "t": f["t"]}), pad=2, pool=c.world.plots.intro)[1]["t"]
    c.ctx["t"] = t
    c.one(g.BREAK, 1, a=a, t=t)
    tried: list[Person] = []
    for _ in range(2):
        c.paragraph()
        taken = (a, *tried)
        able = [p for p in c.world.craft.items if p not in taken and p.work is not c.ctx["p"]]
        able = able or [p for p in c.world.craft.items if p not in taken]
        options = [(1, g.CRAFT, {"a": a, "d": d, "q": d.work, "t": t}) for d in able]
        d = c.say(*options)[1]["d"]
        tried.append(d)
        c.at(d.work)
        args = {"a": a, "d": d, "t": t}
        c.one(g.ASKMEND, 1, **args)
        if c.say((2, g.CAN, args), (1, g.CANNOT, args))[0] is g.CAN:
            c.one(g.MEND, 1, **args)
            c.say((2, g.PAY, args | {"num": c.world.prices}), (1, g.FREE, args))
            glad(c, a)
            return
    sad(c, a)


def hide_kinds(g: Grammar) -> None:
    k = g.add
    k("T_HIDE", "The Secret Place", "{a.n} Hides the {t.T}", "The Hidden {t.T}", "{a.n} Has a Secret")
    k("HIDE", "{a} hid {t} {hid} {p.at}.", "{p.at}, {a} put {t} {hid}.",
      event="hide", roles=AT, does="has p t")  # fmt: skip
    k("SPY", "Later {b.n} came {q.to} and found {t}.",
      "But {b.n} had been watching and soon found {t} {q.at}.",
      event="discover", roles="agent:b patient:t location:q", does="loc b q")  # fmt: skip
    k("MOVE", "{b.n} carried {t} {r.to} and hid it {hid}.", "{b.n} took {t} and hid it {r.at}, {hid}.",
      event="move", roles="agent:b patient:t destination:r", does="has r t; loc b r")  # fmt: skip
    k("STEAL", "{b.n} took {t} and told nobody.", "{b.n} put {t} into {b.p} bag.",
      event="take", roles="agent:b patient:t", does="has b t")  # fmt: skip
    k("STAY", "But {b.n} left {t} where it was.", "{b.n} smiled and touched nothing.",
      event="leave", roles="agent:b patient:t")  # fmt: skip
    k("GONE", "But {t} was not there any more.", "The hiding place was empty, and {t} was gone.",
      event="notice", roles="agent:a patient:t", does="mood a -1", v=-1)  # fmt: skip
    k("CONFESS", '"Forgive me, it is {r.at} now," said {b.n}.', '"I took it {r.to}," said {b.n} {way}.',
      event="confess", roles="agent:b recipient:a")  # fmt: skip
    k("SILENT", "{b.n} heard about it and said nothing.", "Nobody told {a.n} who had been there.",
      event="hide", roles="agent:b", v=-1)  # fmt: skip


def hide(c: Teller, f: dict) -> None:
    g = c.world.grammar
    a = opening(c, f["a"])
    t = c.say((4, g.OWN, {"a": a, "t": f["t"]}), pad=2, pool=c.world.plots.intro)[1]["t"]
    c.ctx["t"] = t
    p = travel(c, a, elsewhere(c, c.ctx["p"]))
    c.one(g.HIDE, 1, a=a, t=t, p=p)
    there = travel(c, a, elsewhere(c, p))
    c.paragraph()
    b = c.one(g.SPY, a=a, b=others(c, a), t=t, q=p)["b"]
    args = {"a": a, "b": b, "t": t}
    r = elsewhere(c, p, there)
    kind, bound = c.say((3, g.MOVE, args | {"r": r}), (2, g.STEAL, args), (2, g.STAY, args))
    c.paragraph()
    travel(c, a, p, 0)
    if kind is g.STAY:
        c.one(g.FOUND, 1, a=a, t=t, p=p)
        glad(c, a)
        return
    c.one(g.GONE, 1, a=a, t=t)
    if c.say((2, g.MEET, args | {"p": p}), (1, g.SILENT, args), pad=1)[0] is g.SILENT:
        sad(c, a)
        return
    if kind is g.STEAL:
        c.one(g.BACK, **args)
        c.one(g.THANKS, a=b, b=a)
    else:
        c.one(g.CONFESS, **args, r=bound["r"])
        travel(c, a, bound["r"], 0)
        c.one(g.FOUND, 1, a=a, t=t, p=bound["r"])
    glad(c, a)


# name -> (weight, kinds, what a title may fix, plot)
THINGS = {
    "lost": (4, lost_kinds, {"a": "people", "t": "things"}, lost),
    "gift": (3, gift_kinds, {"a": "people", "b": "people", "t": "things"}, gift),
    "errand": (3, errand_kinds, {"a": "people", "t": "things"}, errand),
    "trade": (3, trade_kinds, {"a": "people", "t": "things_even", "u": "things_odd"}, trade),
    "repair": (3, repair_kinds, {"a": "people", "t": "things"}, repair),
    "hide": (3, hide_kinds, {"a": "people", "t": "things"}, hide),
}
