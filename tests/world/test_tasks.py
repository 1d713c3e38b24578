"""Tasks, dialogues and preferences: the stated answers are right, and the checkers know right from wrong."""

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exnihilo.errors import UsageError
from exnihilo.world import World
from exnihilo.world.talks import PROPERTIES
from exnihilo.world.tasks import MAKERS, reaches, value


@pytest.mark.parametrize("kind", sorted(MAKERS))
@pytest.mark.parametrize("size", [1, 2, 4])
def test_answers_pass_and_others_fail(world: World, kind: str, size: int) -> None:
    for task in world.tasks(60, seed=1, kind=kind, size=size):
        assert task.kind == kind
        assert task.check(task.answer) and task.check(f"Let me think.\nThe answer is {task.answer}.")
        assert not task.check("") and not task.check("I do not know.") and not task.check(task.answer + " 1")


def test_answers_by_another_way(world: World) -> None:
    for task in world.tasks(200, kind="subtract", size=3):
        a, b = (int(x) for x in task.prompt[8:-1].split(" - "))
        assert int(task.answer) + b == a
    for task in world.tasks(200, kind="count"):
        question, words = task.prompt[:-1].split(" in: ")
        assert Counter(words)[question.split('"')[1]] == int(task.answer)
    for task in world.tasks(200, kind="order"):
        numbers = task.answer.split()
        assert all(int(x) <= int(y) for x, y in zip(numbers, numbers[1:], strict=False))
        assert Counter(numbers) == Counter(task.prompt.split(": ")[1].split())


def test_countdown_wants_the_numbers_given() -> None:
    numbers, target = (2, 3, 7), 13
    assert reaches("2 * 3 + 7", numbers, target) and reaches("7 + (3*2) = 13", numbers, target)
    for wrong in (
        "13",
        "2 * 3 + 8",
        "2 + 2 + 2 + 7",
        "2 ** 3 + 5",
        "2 * 3 + 7 = 12",
        "",
        "(2 * 3 + 7",
        "7 / 0",
    ):
        assert not reaches(wrong, numbers, target), wrong


TREES = st.recursive(
    st.integers(0, 99).map(lambda n: (str(n), Fraction(n))),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(
        lambda t: (f"({t[0][0]} {t[1]} {t[2][0]})", combine(t[0][1], t[1], t[2][1]))
    ),
    max_leaves=12,
)


def combine(a: Fraction | None, sign: str, b: Fraction | None) -> Fraction | None:
    if a is None or b is None or (sign == "/" and b == 0):
        return None
    return {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b}[sign]()


@given(TREES)
def test_expressions(tree: tuple[str, Fraction | None]) -> None:
    text, wanted = tree
    found = value(text)
    assert (found is None) == (wanted is None)
    assert found is None or found[0] == wanted


@given(st.text(max_size=40))
def test_any_text_is_read_without_an_error(text: str) -> None:
    found = value(text)
    assert found is None or isinstance(found[0], Fraction)


def test_precedence() -> None:
    for text, wanted in (("2+3*4", 14), ("2-3-4", -5), ("8/4/2", 1), ("2*(3+4)", 14)):
        found = value(text)
        assert found is not None and found[0] == wanted


def test_unknown_kinds_are_refused(world: World) -> None:
    with pytest.raises(UsageError, match="countdwn"):
        next(world.tasks(1, kind="countdwn"))
    with pytest.raises(UsageError, match="size"):
        next(world.tasks(1, size=0))
    with pytest.raises(UsageError):
        next(world.dialogues(1, kind="x"))
    with pytest.raises(UsageError):
        next(world.preferences(1, property="x"))
    with pytest.raises(UsageError):
        world.probes("x", 1)


def test_dialogues(world: World) -> None:
    facts = set(world.sheet.lines())
    for talk in world.dialogues(80):
        roles = [m["role"] for m in talk.messages]
        assert roles == ["user", "assistant"] * len(talk.answers)
        for i in range(len(talk.answers)):
            reply = talk.messages[2 * i + 1]["content"]
            assert talk.check(reply, i) and not talk.check("I do not know", i)
            if talk.kind == "fact":
                past = (
                    reply.replace(" lives ", " lived ").replace(" likes ", " liked ").replace(" is ", " was ")
                )
                assert past in facts
        if talk.kind == "story":
            assert talk.answers[0] in talk.messages[0]["content"]
        if talk.kind == "tell":
            doc = world.read(talk.answers[0])
            assert doc is not None and f'"{doc.title}"' in talk.messages[0]["content"]
    assert [t.messages for t in world.dialogues(9)] == [t.messages for t in world.dialogues(9)]


def test_check_wants_whole_words(world: World) -> None:
    talk = next(world.dialogues(1, kind="fact"))
    assert not talk.check("x" + talk.answers[-1] + "x")
    assert talk.check(f"It is {talk.answers[-1].upper()}!")


def test_preferences_differ_in_one_property(world: World) -> None:
    facts = set(world.sheet.lines())

    def true(text: str) -> bool:
        past = text.replace(" lives ", " lived ").replace(" likes ", " liked ").replace(" is ", " was ")
        return past in facts

    seen = Counter()
    for pair in world.preferences(200):
        seen[pair.property] += 1
        assert pair.chosen != pair.rejected
        if pair.property == "honest":
            assert true(pair.chosen) and not true(pair.rejected)
            assert len(pair.chosen.split()) - len(pair.rejected.split()) in range(-2, 3)
        elif pair.property == "brief":
            assert true(pair.chosen) and pair.rejected.startswith(pair.chosen)
        elif pair.property == "complete":
            assert true(pair.chosen) and pair.chosen.startswith(pair.rejected)
        elif pair.property == "polite":
            assert pair.chosen.split(". ")[-1] == pair.rejected.split(". ")[-1]
        else:
            assert pair.chosen.split(". ")[0] == pair.rejected.split(". ")[0]
    assert set(seen) == set(PROPERTIES) and len(set(seen.values())) == 1
