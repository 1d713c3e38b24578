"""Arguments: one rule for every verb, and nothing is ignored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exnihilo.cli.parse import Arguments, Option, Verb, parse
from exnihilo.errors import UsageError


def verb(**more: object) -> Verb:
    fields: dict[str, object] = {
        "positionals": ("RUN", "PROMPT"),
        "required": 1,
        "options": {
            "temperature": Option("", float, least=0),
            "max_new_tokens": Option("", int, least=1),
            "stop": Option("", many=True),
            "to": Option("", choices=("hf", "gguf")),
            "out": Option(""),
        },
        "flags": {"json": "", "dry_run": ""},
        **more,
    }
    return Verb("demo", "", "exnihilo demo RUN [PROMPT]", lambda a: None, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "words",
    [
        ["r", "temperature=0.5"],
        ["--temperature=0.5", "r"],
        ["--temperature", "0.5", "r"],
        ["r", "temperature=0.5", "temperature=0.50"],
    ],
)
def test_three_ways_to_say_the_same(words: list[str]) -> None:
    found = parse(verb(), words)
    assert found.options == {"temperature": 0.5}
    assert found.positionals == ["r"]


def test_dashes_stand_for_underscores_and_flags_take_no_value() -> None:
    found = parse(verb(), ["r", "--max-new-tokens", "7", "--dry-run", "json=false"])
    assert found.options == {"max_new_tokens": 7}
    assert found.flags == {"dry_run"}


def test_repeatable_options_gather() -> None:
    assert parse(verb(), ["r", "stop=a", "--stop", "b"]).options["stop"] == ["a", "b"]


def test_after_two_dashes_everything_is_positional() -> None:
    found = parse(verb(), ["r", "--", "--json"])
    assert (found.positionals, found.flags) == (["r", "--json"], set())
    assert parse(verb(), ["r", "--", "x=1"]).positionals == ["r", "x=1"]


def test_text_with_spaces_before_the_sign_is_text() -> None:
    assert parse(verb(), ["r", "two and = three"]).positionals == ["r", "two and = three"]
    assert parse(verb(), ["r", "-5 degrees"]).positionals == ["r", "-5 degrees"]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["r", "temprature=1"], "'temperature'"),
        (["r", "--temprature", "1"], "'temperature'"),
        (["r", "--jsn"], "'json'"),
        (["r", "-json"], "'--json'"),
        (["r", "--temperature"], "--temperature VALUE"),
        (["r", "temperature=-1"], "at least 0"),
        (["r", "temperature=nan"], "a number"),
        (["r", "max_new_tokens=1.5"], "a whole number"),
        (["r", "to=hff"], "one of hf, gguf"),
        (["r", "json=maybe"], "true or false"),
        ([], "exnihilo demo RUN"),
        (["r", "p", "third"], "exnihilo demo RUN"),
        (["r", "out=a", "out=b"], "one value"),
    ],
)
def test_wrong_use_says_what_is_expected(words: list[str], hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(verb(), words)
    assert hint in caught.value.expected
    assert caught.value.exit_code == 2


def test_settings_pass_through_and_unknown_ones_name_the_nearest() -> None:
    found = parse(verb(settings=True), ["r", "model.depth=3", "--data", "books/", "--optim.lr=0.1"])
    assert found.settings == ["model.depth=3", "data=books/", "optim.lr=0.1"]
    with pytest.raises(UsageError) as caught:
        parse(verb(settings=True), ["r", "modle.depth=3"])
    assert "model.depth" in caught.value.expected


def test_none_empties_a_number() -> None:
    assert parse(verb(), ["r", "temperature=none"]).options == {"temperature": None}


@given(st.lists(st.text(max_size=12), max_size=5))
def test_no_words_crash_it(words: list[str]) -> None:
    try:
        found = parse(verb(), words)
    except UsageError as error:
        assert error.given
    else:
        assert isinstance(found, Arguments) and found.positionals
