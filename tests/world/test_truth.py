"""Everything that a document says about itself is so: offsets, references, events, answers."""

from collections import Counter

import pytest

from exnihilo.world import Document, World
from exnihilo.world.tags import TAGS

HE_SHE = {
    "he": False,
    "him": False,
    "his": False,
    "himself": False,
    "she": True,
    "her": True,
    "herself": True,
}


def test_mentions_have_exact_offsets(docs: list[Document]) -> None:
    kinds = Counter()
    for doc in docs:
        last = 0
        for m in doc.entities:
            assert doc.text[m.start : m.end] == m.text
            assert m.start >= last and m.end > m.start
            last = m.end
            span = doc.spans[m.sentence]
            assert span.start <= m.start and m.end <= span.end
            kinds[m.type] += 1
            if not m.pronoun and m.type != "ANIMAL":  # "the pony" is called Treacle
                assert m.name.split()[-1].lower() in m.text.lower()
    assert set(kinds) == {"PERSON", "PLACE", "THING", "ANIMAL", "FOOD"}


def test_pronouns_mean_one_person(world: World, docs: list[Document]) -> None:
    seen = 0
    for doc in docs:
        for m in doc.entities:
            if m.pronoun and m.type == "PERSON":
                person = world.sheet.person(m.name)
                assert HE_SHE[m.text.lower()] == person.female
                before = [
                    x for x in doc.entities if x.type == "PERSON" and x.end <= m.start and not x.pronoun
                ]
                same = [x for x in before if world.sheet.person(x.name).female == person.female]
                assert same[-1].name == m.name or same[-1].sentence < m.sentence - 1, (doc.text, m)
                seen += 1
    assert seen > 500


def test_every_name_is_a_mention(world: World, docs: list[Document]) -> None:
    names = {p.name for p in world.sheet.people}
    for doc in docs[:300]:
        marked = {(m.start, m.end) for m in doc.entities}
        for word, start, end, tag, bio in doc.tags:
            if word in names:
                assert (start, end) in marked and tag == "PROPN" and bio == "B-PERSON", (word, doc.text)


def simulate(doc: Document) -> tuple[dict, dict]:
    """Who has what and who is where at the end, worked out from the events' verbs and roles alone."""
    has: dict[str, str] = {}
    loc: dict[str, str] = {}
    for event in doc.events:
        verb, r = event.verb, event.roles
        thing = r.get("patient", "")
        if thing and verb in ("own", "find", "buy", "take", "win", "offer", "swap", "answer"):
            has[thing] = r["agent"]
        if verb in ("give", "sell", "lend", "come", "yield"):
            has[thing] = r["recipient"]
        if verb == "want" and "owner" in r:
            has[thing] = r["owner"]
        if verb == "swap":
            has[r["exchange"]] = r["recipient"]
        if verb == "lose":
            has.pop(thing, None)
        if verb in ("hide", "leave", "spot", "break") and "location" in r:
            has[thing] = r["location"]
        if verb == "move":
            has[thing] = r["destination"]
        if verb in ("be", "discover", "come", "win"):
            loc[r["agent"]] = r["location"]
        if verb == "win":
            loc[r["rival"]] = r["location"]
        if verb == "meet":
            loc[r["patient"]] = r["location"]
        if verb in ("go", "move", "follow", "keep", "take") and "destination" in r:
            loc[r["agent"]] = r["destination"]
            if "host" in r:
                loc[r["host"]] = r["destination"]
            if verb == "follow":
                loc[r["patient"]] = r["destination"]
        if verb == "depart":
            loc.pop(r["agent"], None)
    return has, loc


def test_state_by_simulation(docs: list[Document]) -> None:
    for doc in docs:
        has, loc = simulate(doc)
        stated_loc, stated_has = doc.state
        assert {t.name: owner.name for t, owner in stated_has.items()} == has, doc.text
        assert {x.name: place.name for x, place in stated_loc.items()} == loc, doc.text


def test_answers_in_the_text_are_right(world: World, docs: list[Document]) -> None:
    asked = Counter()
    for doc in docs:
        has, loc = simulate(doc)
        nouns = {name.split()[-1]: owner for name, owner in has.items()}
        for q, a in zip(doc.sentences, doc.sentences[1:], strict=False):
            if q.kind[:2] != "Q_":
                continue
            asked[q.kind] += 1
            words = a.text.rstrip(".").split()
            if q.kind == "Q_HAS":
                assert nouns[words[-1]] == words[0]
            elif q.kind == "Q_LIES":
                assert nouns[words[1]] == words[-1]
            elif q.kind in ("Q_WHERE", "Q_BEAST"):
                assert loc[words[0]] == words[-1]
            elif q.kind == "Q_STILL":
                assert (words[0] == "Yes,") == (nouns[words[-1]] == words[1])
            elif q.kind == "Q_HOME":
                assert world.sheet.person(words[0]).home.n == words[-1]
            elif q.kind == "Q_JOB":
                assert world.sheet.person(words[0]).job == words[-1]
            elif q.kind == "Q_FOOD":
                assert world.sheet.person(words[0]).food in a.text
            elif q.kind == "Q_FRIEND":
                assert world.sheet.person(words[0][:-2]).friend.name == words[-1]
            elif q.kind == "Q_FODDER":
                assert any(x.name == words[0] and x.food in a.text for x in world.sheet.animals)
            else:
                assert (a.kind == "A_GOOD") == (doc.sentiment > 0) or doc.plot == "gift"
    assert len(asked) == 11 and min(asked.values()) > 5


def test_question_spans(docs: list[Document]) -> None:
    kinds = Counter()
    for doc in docs:
        assert len({q.question for q in doc.qa if q.answer}) == sum(q.answer is not None for q in doc.qa)
        for q in doc.qa:
            kinds[q.kind, q.answer is None] += 1
            assert q.question.endswith("?") and "{" not in q.question
            if q.answer is None:
                assert q.start is None and q.end is None
            else:
                assert doc.story[q.start : q.end] == q.answer == doc.text[q.start : q.end]
                assert q.answer.lower() not in ("it", "he", "she")
    assert {kind for kind, none in kinds if not none} >= {"who", "what", "where"}
    assert sum(n for (_, none), n in kinds.items() if none) > len(docs) / 2


def test_questions_about_the_end(world: World, docs: list[Document]) -> None:
    for doc in docs:
        has, loc = simulate(doc)
        for q in doc.qa:
            if q.answer is not None and q.question.startswith("Who had the "):
                noun = q.question.split()[3]
                assert {t.split()[-1]: o for t, o in has.items()}[noun] == q.answer
            if q.answer is not None and "last seen" in q.question:
                assert loc[q.question.split()[2]] == q.answer.split()[-1]


def test_unanswerable_is_unanswered(world: World, docs: list[Document]) -> None:
    for doc in docs:
        for q in doc.qa:
            words = q.question.rstrip("?").split()
            if q.answer is None and q.question.startswith("Where did"):
                assert f"the {world.sheet.person(words[2]).home.n}" not in doc.story.lower()
            if q.answer is None and q.kind == "who":
                assert words[-1] not in doc.story.lower()


def test_events_name_their_roles(docs: list[Document]) -> None:
    verbs = Counter()
    for doc in docs:
        for event in doc.events:
            verbs[event.verb] += 1
            assert "agent" in event.roles
            for role, m in event.spans.items():
                assert m.name == event.roles[role] and m.sentence == event.sentence
    assert len(verbs) > 35


def test_entailment_labels_are_balanced(docs: list[Document]) -> None:
    labels = Counter()
    negated = Counter()
    for doc in docs:
        for pair in doc.entailment:
            labels[pair.label] += 1
            negated[pair.label] += any(
                w in f" {pair.hypothesis.lower()}" for w in (" not ", " never ", " no", "still")
            )
            assert pair.premise in doc.story and "{" not in pair.hypothesis and pair.hypothesis[0].isupper()
    assert set(labels) == {"entailed", "contradicted", "neutral"}
    assert max(labels.values()) - min(labels.values()) < 0.02 * sum(labels.values())
    assert all(0.2 < negated[label] / labels[label] < 0.95 for label in labels)  # negation gives nothing away


def test_sentiment(docs: list[Document]) -> None:
    share = sum(doc.sentiment > 0 for doc in docs) / len(docs)
    assert 0.5 < share < 0.9 and all(doc.sentiment for doc in docs)
    for doc in docs:
        assert {s.sentiment for s in doc.spans} <= {-1, 0, 1}


def test_tags_cover_the_text(docs: list[Document]) -> None:
    for doc in docs:
        at, open_type = 0, ""
        for word, start, end, tag, bio in doc.tags:
            assert doc.text[start:end] == word and not doc.text[at:start].strip() and tag in TAGS
            if bio.startswith("I-"):
                assert bio[2:] == open_type
            open_type = bio[2:]
            at = end
        assert at == len(doc.text)
        named = [m for m in doc.entities if not m.pronoun]
        assert sum(bio.startswith("B-") for *_, bio in doc.tags) == len(named)


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("She was at the mill", "PRON AUX ADP DET NOUN"),
        ("Then he lost the saw", "ADV PRON VERB DET NOUN"),
        ("He wanted to cook pancakes", "PRON VERB PART VERB NOUN"),
    ],
)
def test_word_classes(text: str, tags: str) -> None:
    from exnihilo.world.tags import word_class

    words = text.lower().split()
    got = [
        word_class(w, words[i - 1] if i else "", words[i + 1] if i + 1 < len(words) else "")
        for i, w in enumerate(words)
    ]
    if "saw" in words:
        got[-1] = "NOUN"  # a thing stands in a slot, which decides
    assert got == tags.split()
