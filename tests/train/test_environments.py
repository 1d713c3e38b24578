"""Environments: what the calculator says, and episodes whose tool turns nobody is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo import codec as codecs
from exnihilo.codec.chat import Chat
from exnihilo.config import CodecConfig
from exnihilo.errors import UsageError
from exnihilo.train.source.environments import (
    Environment,
    call,
    converse,
    create,
    names,
    tool_turn,
    value_of,
    written,
)

CHAT = Chat(codecs.train(CodecConfig(kind="bytes"), ["text"]))
TASK = [{"role": "user", "content": "What is 12 times 7, plus 1?"}]


def asked(text: str) -> str | None:
    found = create("calculator").reply([*TASK, {"role": "assistant", "content": text}])
    return None if found is None else found["content"]


def test_the_calculator_is_exact() -> None:
    said = {
        "12 * 7": "84",
        "(1.5 + 2) × 2": "7",
        "7 / 2": "3.5",
        "0.1 + 0.2": "0.3",
        "1/3": "0.3333333333",
        "-3 - -5": "2",
        "2 / 3 * 3": "2",
        "10 ÷ 4": "2.5",
        "007": "error",
        "1/0": "error",
        "2 ** 3": "error",
        "7 // 2": "error",
        "abs(1)": "error",
        "": "error",
        "1" * 300: "error",
        "(" * 150: "error",
        "1e5": "error",
        "−1": "-1",
    }
    for text, wanted in said.items():
        found = asked(f"<calculator>{text}</calculator>")
        assert found is not None and (
            found.startswith("error: ") if wanted == "error" else found == wanted
        ), text


def test_calls_in_both_ways_and_calls_that_are_none() -> None:
    long = '<tool_call>{"name": "calculator", "arguments": {"expression": "12*7"}}</tool_call>'
    assert asked(f"Let me see. {long}\n") == "84"
    for text in (
        "84",
        "<calculator>1+1</calculator> is 2",
        "<other>1</other>",
        "<calculator>1",
        "<tool_call>x",
        "",
    ):
        assert asked(text) is None, text
    for text in (
        '{"name": "x", "arguments": {}}',
        '{"name": 1}',
        '{"name": "calculator", "arguments": [1]}',
        "{x}",
        '{"name": "calculator", "arguments": {}}',
    ):
        assert str(asked(f"<tool_call>{text}</tool_call>")).startswith("error: "), text
    assert create("calculator").reply([]) is None and create("calculator").reply(TASK) is None


@given(st.text(st.sampled_from('0123456789+-*/(). \n<>{}"calculator_tool:,'), max_size=60))
@settings(max_examples=150, deadline=None)
def test_whatever_is_written_gets_an_answer_or_none(text: str) -> None:
    for form in ("{}", "<calculator>{}</calculator>", "<tool_call>{}</tool_call>"):
        found = asked(form.replace("{}", text))
        assert found is None or isinstance(found, str)
    assert call(text, {}) is None or text.rstrip().endswith("</tool_call>")


@given(st.integers(-(10**9), 10**9), st.integers(1, 10**6))
def test_what_is_written_is_the_value_up_to_ten_decimals(top: int, under: int) -> None:
    value = Fraction(top, under)
    assert abs(Fraction(written(value)) - value) <= Fraction(1, 2 * 10**10)
    assert value_of(f"({top}) / {under}") == value


@dataclass
class Said:
    ids: list[int]
    logprobs: list[float]
    reason: str = "eos"


def says(text: str, reason: str = "eos") -> Said:
    ids = CHAT.completion(text)
    ids = ids if reason == "eos" else ids[:-1]
    return Said(ids, [-0.5] * len(ids), reason)


def played(first: Sequence[Said], later: Sequence[Sequence[Said]], *, most: int = 200, context: int = 600):
    turns = iter(later)
    asked_for: list[tuple[list[int], list[list[int]], list[int], int]] = []

    def more(going, starts, left, turn):
        asked_for.append((list(going), [list(s) for s in starts], list(left), turn))
        return list(next(turns))

    prompts = [CHAT.prompt(TASK)] * len(first)
    found = converse(
        create("calculator"),
        CHAT,
        [TASK] * len(first),
        prompts,
        first,
        more,
        max_new_tokens=most,
        context=context,
    )
    return found, asked_for


CALL = "<calculator>12 * 7</calculator>"


def test_an_episode_is_the_conversation_and_only_the_model_is_trained() -> None:
    [two, one], asked_for = played([says(CALL), says("85")], [[says("84 + 1 = 85")]])
    assert asked_for[0][0] == [0] and asked_for[0][3] == 1 and len(asked_for) == 1
    turns = [
        {"role": "assistant", "content": CALL},
        {"role": "tool", "content": "84"},
        {"role": "assistant", "content": "84 + 1 = 85"},
    ]
    assert (
        list(two.messages) == turns and two.calls == 1 and two.text == "84 + 1 = 85" and two.reason == "eos"
    )
    prompt = CHAT.prompt(TASK)
    rendered = CHAT.render([*TASK, *turns])
    whole = [*prompt, *two.ids]
    assert whole == rendered.ids[: len(whole)]  # what follows is the last line break alone
    assert two.mask == rendered.mask[len(prompt) : len(whole)]  # tool turns and headers are not trained on
    assert all((logp == 0.0) == (on == 0) for logp, on in zip(two.logprobs, two.mask, strict=True))
    assert asked_for[0][1][0] == whole[: len(asked_for[0][1][0])]  # tokens in, tokens out
    assert one.ids == CHAT.completion("85") and set(one.mask) == {1} and one.calls == 0


def test_limits_end_an_episode() -> None:
    size = len(CHAT.completion(CALL))
    [cut], asked_for = played([says(CALL, "length")], [])
    assert cut.reason == "length" and not asked_for
    [full], asked_for = played([says(CALL)], [], most=size)
    assert full.reason == "length" and not asked_for and full.calls == 0
    [small], asked_for = played([says(CALL)], [], context=len(CHAT.prompt(TASK)) + size + 5)
    assert small.reason == "length" and not asked_for
    [left], asked_for = played([says(CALL)], [[says("85")]], most=size + 50)
    assert asked_for[0][2] == [50] and left.text == "85"
    [endless], asked_for = played([says(CALL)], [[says(CALL)]] * 10, most=10_000, context=10_000)
    assert endless.calls == create("calculator").turns == len(asked_for)


def test_a_reply_that_ends_the_text_calls_nothing() -> None:
    said = says(CALL)
    said.ids[-1] = CHAT.codec.eos_id
    [found], asked_for = played([said], [])
    assert not asked_for and found.reason == "eos"


def test_the_tools_turn_begins_behind_the_terminator() -> None:
    ids = tool_turn(CHAT, {"role": "tool", "content": "84"})
    assert (
        CHAT.codec.decode(ids, skip_special=False)
        == "\n<|im_start|>tool\n84<|im_end|>\n<|im_start|>assistant\n"
    )


def test_environments_by_name_and_ones_own(tmp_path: Path) -> None:
    assert names() == ("calculator",) and isinstance(create("calculator"), Environment)
    own = tmp_path / "my.py"
    own.write_text("class Echo:\n    turns = 2\n    def reply(self, messages):\n        return None\n")
    assert create(f"{own}:Echo").reply([]) is None
    for spec in ("calculater", f"{own}:Nobody", f"{tmp_path}/none.py:Echo"):
        with pytest.raises(UsageError):
            create(spec)
    own.write_text("class Echo: pass")
    with pytest.raises(UsageError, match="no reply"):
        create(f"{own}:Echo")
