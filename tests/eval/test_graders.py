"""Graders that read text: right answers are paid in every form, what deceives other checkers is not."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from fractions import Fraction
from itertools import permutations, product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo.errors import UsageError
from exnihilo.eval.graders import Graded, GraderError, create, grade_many, names
from exnihilo.eval.graders import countdown as counting
from exnihilo.eval.graders.forms import formed
from exnihilo.eval.graders.number import final
from exnihilo.eval.graders.tagged import after_thought, answered, thought

TEXTS = st.text(st.sampled_from("0123456789.,-+*/()=#$% \nabo<>answerthik{}\\−×"), max_size=60)

# number -------------------------------------------------------------------------------------------------

FORMS = {
    "#### 10.": 10,
    "#### 10": 10,
    "the answer is 7.": 7,
    "The answer is 7": 7,
    "The answer is: -7": -7,
    "answer: −7.": -7,
    "so\n#### 1,000.50": Fraction(2001, 2),
    "3/4": Fraction(3, 4),
    "1 1/2": Fraction(3, 2),
    "$5": 5,
    "It costs -$5.": -5,
    "50%": 50,
    "1e3": 1000,
    "So 3 + 4 = 7": 7,
    "The answer is **7**.": 7,
    "*7*": 7,
    "\\boxed{7}": 7,
    "\\boxed{\\frac{3}{4}}": Fraction(3, 4),
    "The answer is $\\frac{1}{2}$": Fraction(1, 2),
    "<answer>7</answer>": 7,
    "<think>6 8</think>7": 7,
    "007": 7,
    ".5": Fraction(1, 2),
    "3.0": 3,
    "-7": -7,
    "There are 7 apples.": 7,
    "- 7 apples": 7,
    "x = 7": 7,
    "The answer is 7, for 3 + 4 = 7.": 7,
    "+7": 7,
    "The answer is\n7": 7,
    "The answer is 7 because of 8.": 7,
    "The answer is 7\n\nQuestion: 9": 7,
}
NONE = (
    "",
    "seven",
    "#### ",
    "#### seven",
    "1.5*2",
    "2**3",
    "2^3",
    "7//2",
    "3 + 4",
    "10 - 7",
    "10-7",
    "7 or 8",
    "The answer is 7 or 8",
    "The answer is 7, 8",
    "The answer is not 7.",
    "the answer isn't 7",
    "1,2,3",
    "v2",
    "<answer>7</answer><answer>8</answer>",
    "<answer>7",
    "<think>7</think>",
    "the answer is 2**3",
    "3.14.15",
    "1 000",
    "12:30",
    "1/0",
    "covid-19",
    "--7",
    "9" * 100,
    "\\boxed{7",
    "٣",
)


@pytest.mark.parametrize("text", FORMS)
def test_a_final_number_is_read_in_the_forms_it_comes_in(text: str) -> None:
    assert final(text) == FORMS[text]


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_final_number_gives_none(text: str) -> None:
    assert final(text) is None


@given(
    st.fractions(max_denominator=1),
    st.sampled_from(["{}", "#### {}.", "the answer is {}.", "<answer>{}</answer>"]),
)
@settings(max_examples=60, deadline=None)
def test_any_whole_number_survives_any_form(value: Fraction, form: str) -> None:
    whole = int(value) % 10**15
    for number in (whole, -whole):
        assert final(form.format(number)) == number
        assert final(form.format(f"{number:,}")) == number


@given(st.decimals(-(10**9), 10**9, places=3, allow_nan=False))
@settings(max_examples=60, deadline=None)
def test_decimals_are_exact(value: Any) -> None:
    assert final(f"The answer is {value}.") == Fraction(value)


@given(TEXTS, TEXTS)
@settings(max_examples=200, deadline=None)
def test_number_never_fails_and_pays_only_what_equals_the_gold(gold: str, text: str) -> None:
    [graded] = grade_many(create("number"), [{"answer": gold}], [text])
    wanted = final(gold)
    assert not graded.failed
    if wanted is None or not gold.strip():
        assert graded.score is None  # gold that cannot be read is never a reward
    else:
        assert graded.score == float(final(text) == wanted)


def test_the_tolerance_is_absolute() -> None:
    grade = create("number:0.01")
    assert grade({"answer": "3.14"}, "3.145") == 1.0
    assert grade({"answer": "3.14"}, "3.16") == 0.0


def test_gold_of_gsm8k_is_its_last_line() -> None:
    gold = {"answer": "He has 3 + 4 = <<3+4=7>>7 apples.\n#### 1,234"}
    assert create("number")(gold, "The answer is 1234.") == 1.0


def test_reading_takes_time_in_proportion_to_the_text() -> None:
    begun = time.process_time()
    for text in ("1," * 200_000, "#" * 400_000, "(" * 100_000, "-" * 300_000, "1 " * 200_000, "*" * 200_000):
        final(text)
    assert time.process_time() - begun < 5


# countdown ----------------------------------------------------------------------------------------------

_OPS = {"+": Fraction.__add__, "-": Fraction.__sub__, "*": Fraction.__mul__, "/": Fraction.__truediv__}


def _tree(numbers: tuple[int, ...], signs: tuple[str, ...]) -> tuple[str, Fraction] | None:
    """A right-leaning expression with its value, made without the parser."""
    text, value = str(numbers[-1]), Fraction(numbers[-1])
    for number, sign in zip(reversed(numbers[:-1]), reversed(signs), strict=True):
        if sign == "/" and value == 0:
            return None
        text, value = f"{number} {sign} ({text})", _OPS[sign](Fraction(number), value)
    return text, value


@given(st.lists(st.integers(0, 20), min_size=2, max_size=4), st.data())
@settings(max_examples=100, deadline=None)
def test_an_expression_has_the_value_of_its_tree(numbers: list[int], data: Any) -> None:
    signs = tuple(data.draw(st.sampled_from("+-*/")) for _ in numbers[1:])
    made = _tree(tuple(numbers), signs)
    if made is None:
        return
    text, value = made
    found = counting.value(text)
    assert found is not None and found[0] == value and sorted(found[1]) == sorted(numbers)
    assert counting.reaches(text, numbers, value)
    assert not counting.reaches(text, numbers, value + 1)
    assert not counting.reaches(text, [*numbers, 3], value)  # each number exactly once
    assert counting.reaches(text, [*numbers, 3], value, use="any")  # at most once
    assert not counting.reaches(text, numbers[:-1], value, use="any")


@given(TEXTS)
@settings(max_examples=200, deadline=None)
def test_whatever_is_written_is_paid_only_for_the_value_and_the_numbers(text: str) -> None:
    example = {"record": {"nums": [1, 2], "target": 3}}
    [graded] = grade_many(create("countdown"), [example], [text])
    assert graded.score in (0.0, 1.0)
    if graded.score == 1.0:
        body = counting.expression(text).split("=")[0].replace("×", "*").replace("−", "-")
        assert counting.value(body) is not None


TRICKS = (
    "1.5*2",
    "2**3",
    "7//2",
    "2^3",
    "6 % 4",
    "int('6')",
    "abs(-6)",
    "[6][0]",
    "6 if 1 else 0",
    "0x6",
    "6j",
    "True*6",
    "1_2/2",
    "2<<1",
    "~-7",
    "+6",
    "6;6",
    "lambda: 6",
    "(6",
    "6)",
    "",
    "()",
    "6 6",
    "__import__('os')",
    "6 and 6",
    "3 * 2 = 6 = 6",
    "3 * 2 = 7",
    "1" * 500,
    "(" * 300 + "6" + ")" * 300,
)


@pytest.mark.parametrize("text", TRICKS)
def test_what_a_known_checker_pays_for_is_no_expression(text: str) -> None:
    numbers = [int(c) for c in text if c in "123456789"][:6] or [6]
    for use in ("all", "any"):
        assert create(f"countdown:{use}")({"numbers": numbers, "target": 6}, text) == 0.0
        assert create(f"countdown:{use}")({"numbers": numbers, "target": 3}, text) == 0.0


def test_forms_of_a_countdown_answer() -> None:
    example = {"numbers": [3, 4, 7], "target": 25}
    for text in (
        "3 * 7 + 4",
        "<think>no</think>\n<answer>(3*7)+4</answer>",
        "7 × 3 + 4 = 25",
        "I try:\n4 - -3*7\n",
    ):
        assert create("countdown")(example, text) == 1.0, text
    assert create("countdown")({"target": 3}, "3") is None
    beside = {
        "answer": "1 + 2",
        "record": {"numbers": [1, 2], "target": 3},
    }  # somebody's expression: no target
    assert create("countdown")(beside, "2 + 1") == 1.0
    assert create("countdown")({"numbers": [1, 2], "answer": "#### 3"}, "2 + 1") == 1.0
    assert create("countdown")({"numbers": [1, 2], "target": 3, "use": "any"}, "1 + 2") == 1.0


def test_a_solution_is_found_wherever_there_is_one() -> None:
    """Against brute force over all orders, signs and the two shapes of parentheses of three numbers."""
    from exnihilo.doctor.fuzz import solve

    for numbers in ((1, 2, 3), (5, 5, 1), (2, 7, 9)):
        reachable = set()
        for order in permutations(numbers):
            for signs in product("+-*/", repeat=2):
                made = _tree(order, signs)
                if made is not None:
                    reachable.add(made[1])
        for target in range(1, 30):
            text = solve(numbers, target)
            if text is not None:
                assert counting.reaches(text, numbers, target)
            elif target in {int(v) for v in reachable if v.denominator == 1}:
                # only trees that lean to the left are tried: each right-leaning one here has a mirror
                assert target not in _left(numbers)


def _left(numbers: tuple[int, ...]) -> set[Fraction]:
    out = set()
    for a, b, c in permutations(map(Fraction, numbers)):
        for first, second in product("+-*/", repeat=2):
            if first == "/" and b == 0 or second == "/" and c == 0:
                continue
            out.add(_OPS[second](_OPS[first](a, b), c))
    return out


# exact, forms -------------------------------------------------------------------------------------------


def test_exact_compares_all_but_white_space() -> None:
    grade, fold = create("exact"), create("exact:fold")
    assert grade({"answer": "New York"}, " New\n York ") == 1.0
    assert (
        grade({"answer": "New York"}, "new york.") == 0.0 and fold({"answer": "New York"}, "new york.") == 1.0
    )
    assert grade({"answer": "é"}, "e\u0301") == 1.0  # one letter, written in two ways
    assert grade({"answer": ["a", "b"]}, "b") == 1.0
    assert grade({"answer": " "}, "") is None and grade({}, "") is None
    assert grade({"answer": "7"}, "<think>so</think><answer>7</answer>") == 1.0
    assert grade({"answer": "7"}, "<answer>7</answer><answer>8</answer>") == 0.0
    assert fold({"answer": "..."}, "") is None  # gold of which nothing is left


@given(TEXTS)
@settings(max_examples=100, deadline=None)
def test_exact_pays_the_gold_and_tags_never_fail(text: str) -> None:
    [graded] = grade_many(create("exact"), [{"answer": text}], [text])
    assert not graded.failed
    if text.strip() and answered(text) is None:
        assert graded.score == 1.0
    inside = thought(text)
    assert isinstance(after_thought(text), str) and (inside is None or inside in text)


GOOD = "<think>3 + 4</think>\n<answer>7</answer>"
BAD = (
    "",
    "7",
    "<think></think><answer>7</answer>",
    "<think> \n</think><answer>7</answer>",
    "<think>...</think><answer>7</answer>",
    "<think>x</think><answer></answer>",
    "<answer>7</answer><think>x</think>",
    "<think>x</think>7<answer>7</answer>",
    "<think>x<answer>7</answer></think>",
    GOOD + "!",
    "so " + GOOD,
    "<think>x</think><answer>7</answer><answer>8</answer>",
    "<think><think>x</think></think><answer>7</answer>",
)


def test_a_form_needs_a_thought_with_something_in_it() -> None:
    assert formed(GOOD)
    for text in BAD:
        assert not formed(text), text
        assert create("format&number")({"answer": "7"}, text) == 0.0, text
    assert create("format&number")({"answer": "7"}, GOOD) == 1.0
    assert create("format&number")({"answer": "8"}, GOOD) == 0.0


# sums, specs --------------------------------------------------------------------------------------------


def test_a_sum_weighs_its_parts_and_keeps_them() -> None:
    grader = create("number*1,length*-0.01")
    [graded] = grade_many(grader, [{"answer": "7"}], ["#### 7"])
    assert graded.score == pytest.approx(1 - 0.01 * 5) and graded.parts == {"number": 1.0, "length": 5.0}
    assert graded.right
    [lost] = grade_many(grader, [{"answer": "?"}], ["#### 7"])
    assert lost.score is None and not lost.right  # no half rewards
    assert create(["number*2", "length:3*-0.5"])({"answer": "7"}, "#### 7") == pytest.approx(2 - 0.5 * 2)
    twice = grade_many(create("number,number:1"), [{"answer": "7"}], ["8"])[0]
    assert twice.parts == {"number": 0.0, "number-2": 1.0} and not twice.right


def test_commas_and_ampersands_inside_arguments_stay() -> None:
    grader = create("regex:^a{1,2}&b$,length*0")
    assert grade_many(grader, [{}] * 2, ["aa&b", "aaa&b"])[0].parts["regex"] == 1.0
    split = create(("regex:^a{1", "2}$"))  # as a configuration may have cut it at its commas
    assert split({}, "aa") == 1.0 and split({}, "aaa") == 0.0


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "numbr",
        "number*inf",
        "number:x",
        "number:-1",
        "exact:x",
        "countdown:x",
        "regex:(",
        "length:x",
        "format:x",
        "code:x",
        "json:/nowhere.json",
        "math:x",
        "nowhere.py:grade",
        "reward_model",
        "reward_model:nowhere",
    ],
)
def test_a_spec_that_cannot_be_is_refused(spec: str) -> None:
    with pytest.raises(UsageError):
        create(spec)


def test_names_are_those_that_can_be_made() -> None:
    assert {"exact", "number", "math", "countdown", "json", "regex", "code", "reward_model"} <= set(names())
    with pytest.raises(UsageError, match="did you mean 'number'"):
        create("nubmer")


# any function -------------------------------------------------------------------------------------------


def _odd(example: Mapping[str, Any], completion: str) -> Any:
    match completion:
        case "raise":
            raise ValueError("bad")
        case "exit":
            raise SystemExit(3)
        case "nan":
            return math.nan
        case "inf":
            return math.inf
        case "text":
            return "1"
        case "none":
            return None
        case "true":
            return True
        case "hang":
            while True:
                pass
    return 0.5


def test_a_function_that_fails_costs_its_reply_and_nothing_else() -> None:
    said = ["raise", "exit", "nan", "inf", "text", "none", "true", "hang", "half"]
    found = grade_many(_odd, [{}] * len(said), said, seconds=1)
    assert [g.score for g in found] == [None] * 6 + [1.0, None, 0.5]
    assert [g.failed for g in found] == [True] * 5 + [False, False, True, False]
    assert found[0].error == "raised ValueError: bad" and "took longer" in str(found[7].error)
    deadline = time.monotonic() + 60
    while any(t.name == "grader" for t in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(t.name == "grader" for t in threading.enumerate())  # the loop was interrupted


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    import numpy as np
    import torch

    for value in (np.float32(0.5), np.array(0.5), torch.tensor(0.5), np.bool_(True), Fraction(1, 2)):
        grader: Any = lambda e, c, v=value: v  # noqa: E731
        assert grade_many(grader, [{}], [""])[0].score in (0.5, 1.0)
    assert grade_many(lambda e, c: np.zeros(2), [{}], [""])[0].failed  # type: ignore[arg-type, return-value]


def test_calling_a_grader_that_fails_says_so() -> None:
    with pytest.raises(GraderError, match="regex"):
        create("regex")({"pattern": "("}, "x")
    assert create("regex")({}, "x") is None
    with pytest.raises(UsageError):
        grade_many(_odd, [{}], ["a", "b"])
    with pytest.raises(UsageError):
        grade_many(_odd, [{}], ["a"], seconds=0)


def test_right_is_the_first_part_in_full() -> None:
    assert Graded(0.7, parts={"number": 1.0, "length": 30.0}).right
    assert not Graded(1.0, parts={"format": 0.5, "number": 1.0}).right
    assert not Graded(None).right and Graded(1.0).right and not Graded(0.99).right
