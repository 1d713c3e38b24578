"""Graders in processes of their own: the user's file, patterns, schemas, symbolic mathematics."""

from __future__ import annotations

import textwrap
import time
from pathlib import Path

import pytest

from exnihilo.errors import UsageError
from exnihilo.eval.graders import create, grade_many
from exnihilo.eval.graders.base import Checker
from exnihilo.eval.graders.worker import Served

OWN = """
    import os, sys, time
    from beside import WANTED

    def grade(example, completion):
        print("this must not be taken for an answer")
        match completion:
            case "hang": time.sleep(60)
            case "loop":
                while True: pass
            case "raise": raise ValueError("bad")
            case "exit": sys.exit(3)
            case "die": os._exit(1)
            case "nan": return float("nan")
            case "text": return "1"
            case "none": return None
            case "flood": os.write(1, b"x" * 100000)
        return completion == example["answer"] and WANTED

    def other(example, completion):
        return len(example["record"]["words"]) / 4

    NUMBER = 3
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("WANTED = True\n")
    path = tmp_path / "my.py"
    path.write_text(textwrap.dedent(OWN))
    return path


def test_the_users_grader_may_do_anything(own: Path) -> None:
    said = ["7", "8", "hang", "loop", "raise", "exit", "die", "nan", "text", "none", "flood", "7"]
    grader = create(f"{own}:grade")
    begun = time.monotonic()
    found = grade_many(grader, [{"answer": "7"}] * len(said), said, seconds=0.5)
    assert time.monotonic() - begun < 55  # one of them sleeps for 60 s, another never ends
    assert [g.score for g in found] == [1.0, 0.0, *[None] * 8, 0.0, 1.0]
    assert [g.failed for g in found] == [False] * 2 + [True] * 7 + [False] * 3
    assert "line 11 of my.py" in str(found[4].error) and "took longer than 0.5 s" == found[2].error
    assert isinstance(grader, Checker)
    grader.close()
    assert grade_many(grader, [{"answer": "7"}], ["7"])[0].score == 1.0  # starts anew
    grader.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_asked_ahead_keeps_its_order_and_outlives_its_process(own: Path, workers: int) -> None:
    served = Served(own, "grade", workers=workers)
    said = [("die" if i % 17 == 5 else "exit" if i % 19 == 7 else str(i % 3)) for i in range(90)]
    said[40] = "1" * 100_000  # more than a pipe holds
    said[60] = "hang"
    found = served.many([{"answer": "1"}] * len(said), said, seconds=3)
    served.close()
    for text, one in zip(said, found, strict=True):
        if text in ("die", "exit", "hang"):
            assert one.failed and one.score is None
        else:
            assert one.score == float(text == "1"), (text[:9], one)


def test_the_users_grader_sees_the_record_and_takes_a_weight(own: Path) -> None:
    grader = create(f"{own}:other*2")
    assert grader({"record": {"words": ["a", "b"]}}, "") == 1.0
    assert grade_many(grader, [{"record": {"words": []}}], [""])[0].parts == {"other": 0.0}


@pytest.mark.parametrize(
    "text", ["grade = (", "import nowhere_at_all", "x = 1", "NUMBER = 3", "raise SystemExit"]
)
def test_a_file_that_cannot_be_used_is_refused_at_once(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(UsageError, match="cannot be used"):
        create(f"{path}:grade")


def test_a_process_that_cannot_be_started_again_is_an_error_of_the_reply(own: Path) -> None:
    grader = create(f"{own}:grade")
    own.unlink()
    found = grade_many(grader, [{"answer": "7"}] * 3, ["die", "die", "7"], seconds=2)
    assert all(g.failed for g in found[:2])


def test_a_catastrophic_pattern_is_ended() -> None:
    begun = time.monotonic()
    found = grade_many(create("regex:(a+)+$"), [{}] * 3, ["b", "aaa", "a" * 60 + "b"], seconds=0.5)
    assert [g.score for g in found] == [0.0, 1.0, None] and found[2].failed
    assert time.monotonic() - begun < 60  # the pattern alone would take years


def test_patterns_of_the_data() -> None:
    grader = create("regex")
    examples = [{"pattern": "^y"}, {"record": {"regex": "^n"}}, {}, {"pattern": "("}]
    found = grade_many(grader, examples, ["yes"] * 4)
    assert [g.score for g in found] == [1.0, 0.0, None, None]
    assert [g.failed for g in found] == [False, False, False, True]


SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}


def test_json_follows_its_schema(tmp_path: Path) -> None:
    pytest.importorskip("jsonschema")
    right = ['{"n": 1}', ' {"n": 1}\n', 'Here:\n```json\n{"n": 1}\n```\nDone.']
    wrong = [
        "",
        "{",
        '{"n": "1"}',
        '{"n": 1, "m": 2}',
        "[]",
        '{"n": NaN}',
        '{"n": 1, "n": 2}',
        '{"n": 1} {"n": 1}',
        '```\n{"n": 1}\n```\n```\n{"n": 2}\n```',
        "[" * 5000,
    ]
    grader = create("json")
    said = [*right, *wrong]
    found = grade_many(grader, [{"record": {"schema": SCHEMA}}] * len(said), said)
    assert [g.score for g in found] == [1.0] * 3 + [0.0] * len(wrong)
    gold = [{}, {"schema": "{"}, {"schema": {"type": "nonsense"}}]
    assert [g.score for g in grade_many(grader, gold, ["{}"] * 3)] == [None] * 3  # never a reward
    path = tmp_path / "schema.json"
    path.write_text('{"type": "array"}')
    assert create(f"json:{path}")({}, "[1]") == 1.0


def test_math_is_equivalence_and_unreadable_gold_is_never_paid() -> None:
    pytest.importorskip("math_verify")
    right = [
        ("\\frac{1}{2}", "so $0.5$"),
        ("1/2", "The answer is \\boxed{\\frac12}."),
        ("x^2+1", "$1+x^2$"),
        ("10", "#### 10."),
        ("7", "the answer is 7."),
        ("\\sqrt{8}", "<answer>2\\sqrt{2}</answer>"),
    ]
    wrong = [
        ("\\frac{1}{2}", "$0.4$"),
        ("7", ""),
        ("7", "The answer is 7 or 8."),
        ("7", "The answer is not 7."),
        ("7", "<think>7</think>"),
        ("7", "<answer>7</answer><answer>8</answer>"),
    ]
    bare = [("@@@", "@@@"), ("", ""), ("???", "7")]
    pairs = [*right, *wrong, *bare]
    grader = create("math")
    found = grade_many(grader, [{"answer": g} for g, _ in pairs], [t for _, t in pairs], seconds=20)
    assert [g.score for g in found[: len(right)]] == [1.0] * len(right)
    assert [g.score for g in found[len(right) : -len(bare)]] == [0.0] * len(wrong)
    assert all(g.score is None for g in found[-len(bare) :])


def test_math_that_takes_forever_is_ended() -> None:
    pytest.importorskip("math_verify")
    grader = create("math")
    assert grade_many(grader, [{"answer": "7"}], ["$7$"], seconds=20)[0].score == 1.0
    [graded] = grade_many(grader, [{"answer": "7"}], ["$9^{9^{9^{9}}}$"], seconds=1)
    assert not graded.right


def test_examples_that_are_no_json_are_told_as_text(own: Path) -> None:
    served = Served(own, "grade")
    [graded] = served.many([{"answer": Path("x")}], ["x"], seconds=5)
    assert graded.score == 1.0
    served.close()


def test_the_example_of_the_documentation_works(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "graders.md").read_text(encoding="utf-8")
    source = next(
        part.partition("```")[0] for part in page.split("```python\n") if "grader=my.py:grade" in part
    )
    path = tmp_path / "my.py"
    path.write_text(source)
    grader = create(f"{path}:grade,{path}:short*0.1")
    said = ["3 + 4 = 7\nThe answer is 7.", "7", "8", ""]
    found = grade_many(grader, [{"answer": "7"}] * 4, said)
    assert [g.score for g in found] == pytest.approx([1.1, 0.6, 0.1, 0.1])
    assert grade_many(grader, [{"answer": "?"}], ["7"])[0].score is None
