"""Lessons, pairs and puzzles: true, balanced, and never about what is held out."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest

from exnihilo.world import World
from exnihilo.world.lessons import (
    CHANCE,
    MANNERS,
    SHARE,
    School,
    drawn,
    in_order,
    is_held_out,
    manner,
    says,
)
from exnihilo.world.talks import FACTS


@pytest.fixture(scope="module")
def school() -> School:
    return School(World(0))


def test_people_are_divided(school: School) -> None:
    names = {p.name for p in school.world.sheet.people}
    held_out, taught = ({p.name for p in side} for side in (school.held_out, school.taught))
    assert held_out | taught == names and not held_out & taught and len(held_out) == len(names) // 4
    women = [p.female for p in school.held_out]
    assert 0.4 <= sum(women) / len(women) <= 0.6


def test_nothing_to_learn_from_asks_about_who_is_held_out(school: School) -> None:
    """A held-out person may be somebody's friend, so that answers name them; questions never do."""
    held_out = {p.name for p in school.held_out}
    asked = [m["content"] for x in drawn(school.lesson, 800, 1) for m in x["messages"] if m["role"] == "user"]
    asked += [pair["prompt"] for pair in drawn(school.pair, 800, 2)]
    asked += [line for text in drawn(school.talk, 800, 2) for line in text.split("\n")[::2]]
    assert not [text for text in asked if any(says(text, name) for name in held_out)]
    digits = [[int(c) for c in text if c.isdigit()] for text in asked]
    digits += [list(map(int, x["numbers"])) for x in drawn(school.puzzle, 800, 3)]
    assert not any(is_held_out(row) for row in digits if row) and sum(map(bool, digits)) > 1000


def test_held_out_lessons_and_pairs_are_about_them_alone(school: School) -> None:
    names = {p.name for p in school.held_out}
    for pair in drawn(lambda d: school.pair(d, held_out=True), 100, 4):
        assert any(says(pair["prompt"], name) for name in names)
    for lesson in drawn(lambda d: school.lesson(d, held_out=True), 100, 5):
        first = lesson["messages"][0]["content"]
        digits = [int(c) for c in first if c.isdigit()]
        assert is_held_out(digits) if digits else any(says(first, name) for name in names)


def test_every_question_is_answered_by_the_fact_sheet(school: School) -> None:
    questions = school.questions()
    assert len({q.question for q in questions}) == len(questions) == 8 * len(school.held_out)
    for asked in questions:
        person = school.world.sheet.person(asked.person)
        truth = {
            "home": person.home.f[""],
            "job": person.job,
            "food": person.food,
            "friend": person.friend.name,
        }
        assert (
            asked.key == truth[asked.fact] and says(asked.answer, asked.key) and person.name in asked.question
        )


def test_guessing_is_rare_and_counted_by_hand(school: School) -> None:
    people = school.world.sheet.people
    shares = []
    for person in school.held_out:
        for fact in FACTS:
            mine = {"home": person.home.f[""], "job": person.job, "food": person.food,
                    "friend": person.friend.name}[fact]  # fmt: skip
            others = [p for p in people if p is not person]
            same = [p for p in others if {"home": p.home.f[""], "job": p.job, "food": p.food,
                                          "friend": p.friend.name}[fact] == mine]  # fmt: skip
            shares.append(len(same) / len(others))
    assert school.guessing() == pytest.approx(sum(shares) / len(shares)) and school.guessing() < 0.05


def test_talk_and_lessons_prefer_no_manner(school: School) -> None:
    """Counts of two equally likely manners: chi-square with 1 degree of freedom, 99.9% point 10.8."""
    for replies in (
        [
            line
            for text in drawn(school.talk, 1500, 6)
            for line in text.split("\n")[1::2]
            if not line[0].isdigit()
        ],
        [
            m["content"]
            for x in drawn(school.lesson, 2500, 7)
            for m in x["messages"]
            if m["role"] == "assistant" and not m["content"][0].isdigit()
        ],
    ):
        counts = Counter(map(manner, replies))
        expected = len(replies) * SHARE
        assert set(counts) == set(MANNERS)
        assert sum((counts[name] - expected) ** 2 / expected for name in MANNERS) < 10.8


def test_pairs_differ_in_their_manner_alone(school: School) -> None:
    for pair in drawn(school.pair, 300, 8):
        assert (manner(pair["chosen"]), manner(pair["rejected"])) == ("polite", "rude")
        assert pair["chosen"].split()[-3:] == pair["rejected"].split()[-3:]
        bare = [_without_opening(pair[side]) for side in ("chosen", "rejected")]
        assert bare[0] == bare[1] and manner(bare[0]) == "plain"


def _without_opening(reply: str) -> str:
    for opening in (*MANNERS["polite"], *MANNERS["rude"]):
        reply = reply.removeprefix(opening)
    return reply


def test_puzzles_hold_every_order_of_the_digits_that_are_held_out(school: School) -> None:
    puzzles = school.puzzles()
    sets = Counter(p["answer"] for p in puzzles)
    assert set(sets.values()) == {6} and len({" ".join(p["numbers"]) for p in puzzles}) == len(puzzles)
    for puzzle in puzzles:
        assert puzzle["answer"].split() == sorted(puzzle["numbers"], key=int)
        assert puzzle["prompt"].endswith(" ".join(puzzle["numbers"]))


def test_chance_is_that_of_a_random_order() -> None:
    orders = [" ".join(order) for order in permutations("258")]
    assert sum(in_order(reply, "2 5 8") for reply in orders) / len(orders) == pytest.approx(CHANCE)


def test_lessons_show_the_form_of_a_puzzle_and_not_its_order(school: School) -> None:
    """Of 600 random orders 100 are right in the mean, with a deviation of 9.1."""
    shown = []
    for lesson in drawn(school.lesson, 2000, 9):
        prompt, reply = (m["content"] for m in lesson["messages"][:2])
        if reply[0].isdigit():
            digits = reply.split()
            assert sorted(digits) == sorted(prompt.split()[-3:])
            shown.append(digits == sorted(digits))
    assert len(shown) > 500
    assert abs(sum(shown) / len(shown) - CHANCE) < 4 * (CHANCE * (1 - CHANCE) / len(shown)) ** 0.5


@pytest.mark.parametrize(
    ("reply", "right"),
    [("2 5 7", True), (" 2  5\n7 ", True), ("2 7 5", False), ("2 5", False), ("2 5 7 7", False), ("", False),
     ("2, 5, 7", False), ("The answer is 2 5 7", False)],
)  # fmt: skip
def test_sorting_is_right_as_a_whole(reply: str, right: bool) -> None:
    assert in_order(reply, "2 5 7") is right


def test_a_fact_is_a_whole_phrase() -> None:
    assert says("Mia lives near the Old Mill!", "the old mill") and not says("Mia is a baker.", "bake")
    assert not says("", "baker") and says("baker", "baker")


def test_all_is_a_function_of_the_stream(school: School) -> None:
    for make in (school.talk, school.lesson, school.pair, school.puzzle):
        assert list(drawn(make, 20, 3, 1)) == list(drawn(make, 20, 3, 1))
    assert list(drawn(school.talk, 20, 3, 1)) != list(drawn(school.talk, 20, 3, 2))
