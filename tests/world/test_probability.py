"""The stated probability of a text is its exact probability."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo.errors import UsageError
from exnihilo.world import Document, Size, World

TINY = Size(
    people=4,
    places=5,
    things=3,
    animals=2,
    words=1,
    adjectives=1,
    templates=1,
    digressions=False,
    questions=0,
)


def test_parsed_equals_sampled(world: World, docs: list[Document]) -> None:
    for doc in [*docs, *world.stories(1200, start=10**9)]:
        found = world.parse(doc.text)
        assert found.derivations == 1, doc.text
        assert math.isclose(found.log_prob, doc.log_prob, rel_tol=1e-9), doc.text
        assert found.position == len(doc.text)


def test_every_plot_is_told(world: World, docs: list[Document]) -> None:
    assert {doc.plot for doc in docs} == set(world.plots.table)


@pytest.mark.parametrize(("plot", "questions"), [("trade", 0), ("repair", 0), ("errand", 0), ("learn", 1)])
def test_probabilities_sum_to_one(plot: str, questions: int) -> None:
    tiny = World(0, replace(TINY, questions=questions, plots=(plot,)))
    total, texts = 0, set()
    for i, (doc, p) in enumerate(tiny.enumerate()):
        total += p
        texts.add(doc.text)
        assert math.isclose(math.log(p), doc.log_prob, rel_tol=1e-9)
        if i % 97 == 0:  # parsed from the text alone
            found = tiny.parse(doc.text)
            assert found.derivations == 1 and math.isclose(found.log_prob, math.log(p), rel_tol=1e-9)
    assert total == 1  # exactly: fractions
    assert len(texts) == i + 1  # different derivations give different texts


def test_sampling_follows_the_probabilities() -> None:
    tiny = World(0, replace(TINY, plots=("learn",)))
    wanted = {doc.text: float(p) for doc, p in tiny.enumerate()}
    n = 20_000
    seen = dict.fromkeys(wanted, 0)
    for doc in tiny.stories(n):
        seen[doc.text] += 1
    chi2 = sum((seen[text] - n * p) ** 2 / (n * p) for text, p in wanted.items())
    k = len(wanted) - 1
    assert abs(chi2 - k) < 5 * math.sqrt(2 * k)


def test_foreign_text(world: World, docs: list[Document]) -> None:
    assert world.log_prob("") == -math.inf
    assert world.parse("Call me Ishmael.").position == 0
    text = docs[0].text
    assert world.log_prob(text + " And then?") == -math.inf
    assert world.log_prob(text[:-1]) == -math.inf
    assert world.read(text + "!") is None


def test_position_of_the_first_fault(world: World, docs: list[Document]) -> None:
    for doc in docs[:60]:
        sentence = doc.sentences[len(doc.sentences) // 2]
        broken = doc.text[: sentence.start] + "Zzz" + doc.text[sentence.start :]
        found = world.parse(broken)
        assert found.log_prob == -math.inf and found.derivations == 0
        assert sentence.start - 2 <= found.position <= sentence.start


def test_facts_matter(world: World) -> None:
    doc = next(d for d in world.stories(100) if d.sentences[0].kind == "ONCE")
    hero = doc.events[0].roles["agent"]
    job = world.sheet.person(hero).job
    wrong = next(p.job for p in world.sheet.people if p.job != job and p.f["ajob"][:3] == f"a {p.job}"[:3])
    assert world.log_prob(doc.text.replace(job, wrong)) == -math.inf


def test_reading_restores_the_truth(world: World, docs: list[Document]) -> None:
    for doc in docs[:40]:
        copy = world.read(doc.text)
        assert copy is not None
        assert copy.text == doc.text and copy.entities == doc.entities and copy.qa == doc.qa


def test_other_world_other_facts() -> None:
    one, two = World(1), World(2)
    assert one.sheet.lines() != two.sheet.lines()
    doc = one.document(0)
    assert two.log_prob(doc.text) == -math.inf or two.document(0).text != doc.text


def test_entropy_floor(world: World) -> None:
    floor = world.entropy_floor(400)
    assert floor.low < floor.nats < floor.high
    again = world.entropy_floor(400, start=12345)
    assert floor.low < again.high and again.low < floor.high  # two samples agree
    assert math.isclose(floor.bits_per_byte, floor.nats * 400 / floor.bytes / math.log(2))
    assert math.isclose(floor.per_token(floor.bytes), floor.nats_per_byte)
    tiny = World(0, replace(TINY, plots=("learn",)))
    exact = -sum(float(p) * math.log(p) for _, p in tiny.enumerate())
    estimate = tiny.entropy_floor(4000)
    assert abs(estimate.nats - exact) < 2 * (estimate.high - estimate.low)


def test_too_small_a_world() -> None:
    with pytest.raises(UsageError, match="people=2"):
        Size(people=2)


@given(st.text(max_size=60))
@settings(max_examples=50, deadline=None)
def test_any_text_can_be_scored(text: str) -> None:
    world = World(1, TINY)
    found = world.parse(text)
    assert found.log_prob == -math.inf and 0 <= found.position <= len(text)


@given(i=st.integers(0, 500), at=st.floats(0, 1), letter=st.sampled_from('aZ .,\n"é'))
@settings(max_examples=60, deadline=None)
def test_a_changed_letter_is_noticed(i: int, at: float, letter: str) -> None:
    world = World(1, TINY)
    text = world.document(i).text
    k = int(at * (len(text) - 1))
    changed = text[:k] + letter + text[k + 1 :]
    found = world.parse(changed)
    if found.derivations:  # it is another text of the world, or the same
        copy = world.read(changed)
        assert copy is not None and copy.text == changed
    else:
        assert found.position <= k + 1 + max(map(len, text.split()))
