"""The sentences that any story may use: openings, facts, scenery, meeting, feeling, endings, questions."""

from __future__ import annotations

from .grammar import Grammar


def common(g: Grammar) -> None:
    """Add the kinds that several plots share."""
    k = g.add
    at = "agent:a location:p"
    k("ONCE", "Once there was {a.ajob} called {a.n}.", "This is the story of {a.n}, {a.thejob}.",
      "Long ago, {a.n} worked as {a.ajob}.")  # fmt: skip
    k("ONCE_HOME", "Near {a.home} lived {a.ajob} called {a.n}.", "{a.n}, {a.ajob}, lived near {a.home}.")
    k("OPEN", "On a {weather} {time}, {a} was {p.at}.", "It was a {weather} {time}, and {a} was {p.at}.",
      "One {weather} {time}, {a} stood {p.at}.", "{a} was {p.at} on a {weather} {time}.",
      event="be", roles=at, does="loc a p", keep="weather time")  # fmt: skip
    # who the hero is: facts of the world
    k("I_JOB", "{a} was {a.ajob}.", "{a} worked as {a.ajob}.", "{a} was {a.ajob} and worked {a.workat}.",
      "Everyone knew that {a.n} was {a.ajob}.")  # fmt: skip
    k(
        "I_HOME",
        "{a} lived near {a.home}.",
        "{a.n} had a small house near {a.home}.",
        "{a.g} house stood near {a.home}.",
    )
    k(
        "I_FOOD",
        "{a} liked {a.food} best.",
        "{a.g} favourite food was {a.food}.",
        "{a} could eat {a.food} all day.",
    )
    k("I_FRIEND", "{a.g} best friend was {a.friend}, {a.fjob}.", "{a} had a good friend, {a.friend}.")
    k("I_HABIT", "{a} {habit} and took a break.", "As usual, {a} {habit} first.", "{a} {habit} before lunch.",
      event="work", roles="agent:a")  # fmt: skip
    # digressions
    k("SCENE", "{clause}.", "{p.at}, {clause}.", "As always, {clause}.", "All around was life: {clause}.",
      "For a moment it was quiet, but {clause}.")  # fmt: skip
    k("SKY", "Outside, {sky}.", "Meanwhile, {sky}.", "{sky}.", "Far and wide, {sky}.")
    k("GLAD", "{a} felt {glad}.", "{a} was {glad} and hummed a tune.", "{a} smiled and felt {glad}.",
      "It made {a.n} {glad}.", event="feel", roles="agent:a", v=1)  # fmt: skip
    k("SAD", "{a} felt {sad}.", "{a} was {sad} and said nothing.", "{a} sighed and felt {sad}.",
      "It made {a.n} {sad}.", event="feel", roles="agent:a", v=-1)  # fmt: skip
    k("SNACK", "{a} sat down and ate some {a.food}.", "{a} had some {a.food} in a pocket and ate everything.",
      "{a} stopped for a bite of {a.food}.", event="eat", roles="agent:a")  # fmt: skip
    k("HOMESICK", "{a} thought of the warm house near {a.home}.", "{a} wanted to be back near {a.home}.")
    k("MISS", "{a} wished that {a.friend} were there.", "{a} thought of {a.friend} and smiled.")
    k("BEAST", "{x.n} the {x.kind} {x.voice} and {x.act}.", "Nearby, {x.n} the {x.kind} {x.act}.",
      "{x.the} called {x.n} {x.voice} and {x.act2}.", "Nearby, {x.n} the {x.kind} {x.act2}.",
      event="act", roles="agent:x", keep="x")  # fmt: skip
    k("FEED", "{a} gave {x.n} some {x.food}, and {x.the} {x.voice}.",
      "{x.n} liked {x.food}, so {a} brought some.",
      event="feed", roles="agent:a recipient:x", v=1)  # fmt: skip
    k("SLEEPER", "{x.n} always slept {x.home}.", "At night {x.n} slept {x.home}.")
    k("USE", "{a} took out {t} and {t.use}.", "{a} looked at {t}, smiled and {t.use}.",
      "To pass the time, {a} picked up {t} and {t.use}.", event="use", roles="agent:a patient:t")  # fmt: skip
    k("DETAIL", "Everyone admired {t}, for {t.detail}.", "{t} was special: {t.detail}.",
      "There was no other {t.n} like it, for {t.detail}.")  # fmt: skip
    # moving and meeting
    k("GO", "{a} {go} {q.to}.", "So {a} {go} along the {road} {q.to}.", "Then {a} {go} {q.to}.",
      "{a} took the {road} and {go} {q.to}.", "After a while, {a} {go} {q.to}.",
      event="go", roles="agent:a destination:q", does="loc a q")  # fmt: skip
    k("GOHOME", "In the end {a} {go} home {q.to}.", "{a} {go} home, and home was near {q}.",
      "Tired, {a} {go} back home {q.to}.", event="go", roles="agent:a destination:q",
      does="loc a q")  # fmt: skip
    k("MEET", "There {a} met {b.n}.", "{b.n} was there too.", "{b.n}, the {b.job}, was there already.",
      "{b.n} came along and waved.", "{a} saw {b.n} there.",
      event="meet", roles="agent:a patient:b location:p", does="loc b p")  # fmt: skip
    k("HELLO", '"Hello, {b.n}," said {a.n}.', '"Good {day}, {b.n}," said {a.n}.',
      '"How are you, {b.n}?" asked {a.n}.',
      event="greet", roles="agent:a recipient:b")  # fmt: skip
    k("HELLO2", '"Hello, {a.n}," said {b.n}.', '"What brings you here, {a.n}?" asked {b.n}.',
      '"You look {glad} today, {a.n}," said {b.n}.', event="greet", roles="agent:b recipient:a")  # fmt: skip
    k("THANKS", '"Thank you," said {b.n}.', '"Thank you, {a.n}, it is {praise}," said {b.n}.',
      '"How {praise}!" cried {b.n}.', "{b.n} thanked {a.n} {way}.",
      event="thank", roles="agent:b recipient:a", does="mood b 1", v=1)  # fmt: skip
    # endings
    k("E_GLAD", "That night {a} slept well and felt {glad}.", "It was {praise.a} day for {a.n}.",
      "{a} was {glad} for the rest of the day.", "{a} went to bed {glad}.",
      "Nobody was more {glad} than {a.n}.",
      event="end", roles="agent:a", does="mood a 1", v=1)  # fmt: skip
    k("E_SAD", "That night {a} could not sleep and felt {sad}.", "It was a hard day for {a.n}.",
      "{a} was {sad} for the rest of the day.", "{a} went to bed {sad}.", "Nobody was more {sad} than {a.n}.",
      event="end", roles="agent:a", does="mood a -1", v=-1)  # fmt: skip
    k("E_HAS", "{b.n} kept {t} ever after.", "From then on, {t} had its place next to {b.g} bed.",
      "{b.n} never lent {t} to anyone.", event="keep", roles="agent:b patient:t", v=0)  # fmt: skip
    questions(g)


def questions(g: Grammar) -> None:
    """Questions and answers after a story: the answer follows from the story or from the fact sheet."""
    k = g.add
    k("END", "")
    k("Q_HAS", "Who had {t} in the end?", "In whose hands was {t} at last?")
    k("A_HAS", "{b.n} had {t}.")
    k("Q_LIES", "Where was {t} in the end?", "Where could {t} be found at last?")
    k("A_LIES", "{t} was {q.at}.")
    k("Q_WHERE", "Where was {a.n} last seen?", "In what place was {a.n} last?")
    k("A_WHERE", "{a.n} was {q.at}.")
    k("Q_BEAST", "Where was {x.n} the {x.kind} last seen?")
    k("A_BEAST", "{x.n} was {q.at}.")
    k("Q_STILL", "Did {a.n} have {t} in the end?")
    k("A_YES", "Yes, {a.n} had {t}.")
    k("A_NO", "No, {a.n} did not have {t}.")
    k("Q_FEEL", "How did {a.n} feel in the end?")
    k("A_GOOD", "{a.n} felt good.")
    k("A_BAD", "{a.n} felt bad.")
    k("Q_HOME", "Where did {d.n} live?", "Near what did {d.n} live?")
    k("A_HOME", "{d.n} lived near {d.home}.")
    k("Q_JOB", "What did {d.n} do for a living?", "What was {d.g} trade?")
    k("A_JOB", "{d.n} was {d.ajob}.")
    k("Q_FOOD", "What did {d.n} like best?", "What was {d.g} favourite food?")
    k("A_FOOD", "{d.n} liked {d.food} best.")
    k("Q_FRIEND", "Who was {d.g} best friend?")
    k("A_FRIEND", "{d.g} best friend was {d.friend}.")
    k("Q_FODDER", "What did {x.n} the {x.kind} like?")
    k("A_FODDER", "{x.n} liked {x.food}.")
