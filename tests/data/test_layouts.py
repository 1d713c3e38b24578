"""Layouts of conversations: each known one, what is made of it, and rows that are of no use."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo.data import layout_names, layouts, messages
from exnihilo.data.base import Drops
from exnihilo.data.roles import Skip
from exnihilo.errors import ConfigError, DataError


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


HELLO = [user("Hi"), said("Hello.")]
SYSTEM = {"role": "system", "content": "Be kind."}
SFT, PAIR, KTO = ("messages",), ("prompt", "chosen", "rejected"), ("prompt", "completion", "label")

CONVERSATIONS: list[tuple[str, dict[str, Any], str, list[dict[str, str]]]] = [
    ("openai", {"messages": HELLO}, "OpenAI messages", HELLO),
    ("as JSON", {"messages": json.dumps(HELLO)}, "conversations (JSON)", HELLO),
    ("parts", {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, said("Hello.")]},
     "OpenAI messages", HELLO),
    ("sharegpt", {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]},
     "ShareGPT conversations", HELLO),
    ("sharegpt with system", {"system": "Be kind.", "conversations": [{"from": "human", "value": "Hi"},
     {"from": "gpt", "value": "Hello."}]}, "ShareGPT conversations", [SYSTEM, *HELLO]),
    ("alpaca", {"instruction": "Add.", "input": "1 2", "output": "3"}, "Alpaca instructions",
     [user("Add.\n\n1 2"), said("3")]),
    ("alpaca without input", {"instruction": "Hi", "input": "", "output": "Hello."}, "Alpaca instructions",
     HELLO),
    ("alpaca response", {"instruction": "Hi", "input": "", "response": "Hello."}, "Alpaca instructions",
     HELLO),
    ("prompt and completion", {"prompt": "Hi", "completion": "Hello."}, "prompts with completions", HELLO),
    ("as messages", {"prompt": [user("Hi")], "completion": [said("Hello.")]}, "prompts with completions",
     HELLO),
    ("gsm8k", {"question": "Hi", "answer": "Hello."}, "questions with answers", HELLO),
    ("orca", {"id": "1", "system_prompt": "Be kind.", "question": "Hi", "response": "Hello."},
     "questions with answers", [SYSTEM, *HELLO]),
    ("svamp", {"ID": 1, "Body": "A has 2.", "Question": "How many?", "Equation": "2", "Answer": 2.0},
     "problems of body and question", [user("A has 2.\n\nHow many?"), said("2")]),
    ("self-instruct", {"id": "s", "instruction": "Hi", "instances": [{"input": "", "output": "Hello."}]},
     "self-instruct tasks", HELLO),
    ("pairs", {"prompt": "Hi", "chosen": "Hello.", "rejected": "No."}, "preference pairs: the chosen reply",
     HELLO),
]  # fmt: skip

PAIRS: list[tuple[str, dict[str, Any], list[dict[str, str]]]] = [
    ("strings", {"prompt": "Hi", "chosen": "Hello.", "rejected": "No."}, [user("Hi")]),
    ("alpaca", {"instruction": "Add.", "input": "1", "output": "x", "rejected": "No.", "chosen": "Hello."},
     [user("Add.\n\n1")]),
    ("lists", {"prompt": [user("Hi")], "chosen": [said("Hello.")], "rejected": [said("No.")]}, [user("Hi")]),
    ("ultrafeedback", {"prompt": "Hi", "chosen": HELLO, "rejected": [user("Hi"), said("No.")]}, [user("Hi")]),
    ("system", {"system": "Be kind.", "prompt": "Hi", "chosen": HELLO, "rejected": [user("Hi"), said("No.")]},
     [SYSTEM, user("Hi")]),
    ("wholes", {"chosen": [*HELLO, user("So?"), said("Hello.")],
      "rejected": [*HELLO, user("So?"), said("No.")]}, [*HELLO, user("So?")]),
    ("dialogues", {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: So?\n\nAssistant: Hello.",
      "rejected": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: So?\n\nAssistant: No."},
     [*HELLO, user("So?")]),
    ("votes", {"instruction": "Hi", "input": "", "response1": "No.", "response2": "Hello.", "annotator1": 2,
      "annotator2": 2, "annotator3": 0}, [user("Hi")]),
]  # fmt: skip


def read(
    records: list[dict[str, Any]], roles: tuple[str, ...], **more: Any
) -> tuple[list[dict[str, Any]], Drops, Any]:
    layout = layout_names.detect(records, wanted=roles, given=more.pop("given", {}), where="a.jsonl", **more)
    talks = layouts.Talks(layout, roles, more.get("extras", ()), "a.jsonl")
    drops = Drops()
    return [e for i, r in enumerate(records) for e in talks.examples(r, i, 0, drops)], drops, layout


@pytest.mark.parametrize(
    ("record", "name", "wanted"), [c[1:] for c in CONVERSATIONS], ids=[c[0] for c in CONVERSATIONS]
)
def test_conversations(record: dict[str, Any], name: str, wanted: list[dict[str, str]]) -> None:
    found, drops, layout = read([record], SFT)
    assert [e["messages"] for e in found] == [wanted] and not drops.counts
    assert layout.name == name and layout.fields()
    asked, _, _ = read([record], ("prompt",), extras=("answer", "record"))
    assert asked[0]["prompt"] == wanted[:-1] and asked[0]["record"] == record
    assert asked[0]["answer"] == wanted[-1]["content"]


@pytest.mark.parametrize(("record", "prompt"), [p[1:] for p in PAIRS], ids=[p[0] for p in PAIRS])
def test_pairs(record: dict[str, Any], prompt: list[dict[str, str]]) -> None:
    found, drops, _ = read([record], PAIR)
    assert not drops.counts
    assert [(e["prompt"], e["chosen"], e["rejected"]) for e in found] == [
        (prompt, [said("Hello.")], [said("No.")])
    ]
    both, _, _ = read([record], KTO)
    assert [(e["prompt"], e["completion"], e["label"]) for e in both] == [
        (prompt, [said("Hello.")], True),
        (prompt, [said("No.")], False),
    ]


@pytest.mark.parametrize(
    ("label", "good"), [(True, True), ("false", False), (1, True), ("Undesirable", False), (-1, False)]
)
def test_single_labels(label: Any, good: bool) -> None:
    found, _, layout = read([{"prompt": "Hi", "completion": "Hello.", "label": label}], KTO)
    assert found[0]["label"] is good and layout.fields()["label"] == "label"


BAD: list[tuple[dict[str, Any], tuple[str, ...], str]] = [
    ({"messages": [{"content": "x"}, said("y")]}, SFT, "with a message without a role"),
    ({"messages": [{"role": "robot", "content": "x"}]}, SFT, "with the unknown role 'robot'"),
    ({"messages": [user("x"), said("  ")]}, SFT, messages.EMPTY),
    ({"messages": [user("x")]}, SFT, messages.NO_REPLY),
    ({"messages": []}, SFT, "without messages"),
    ({"messages": "x"}, SFT, "whose messages are no list"),
    ({"messages": [user("x"), {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}]}, SFT,
     "with calls of tools apart from the text"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, said("x")]}, SFT,
     "with a message that is not text"),
    ({"prompt": "x", "chosen": "same ", "rejected": " same"}, PAIR, layouts.SAME),
    ({"prompt": "", "chosen": "a", "rejected": "b"}, PAIR, "with an empty prompt"),
    ({"prompt": "x", "chosen": "a", "rejected": ""}, PAIR, "with an empty rejected reply"),
    ({"prompt": "x", "chosen": "a", "rejected": None}, PAIR, "without a rejected reply"),
    ({"prompt": "Hi", "chosen": "Hello.", "rejected": "No."}, PAIR, layouts.TWICE),
    ({"prompt": "x", "completion": "y", "label": "perhaps"}, KTO, "whose label is neither good nor bad"),
    ({"instruction": "x", "output": ""}, SFT, "with an empty reply"),
    ({"question": "x", "answer": None}, SFT, "without a reply"),
]  # fmt: skip


@pytest.mark.parametrize(("record", "roles", "reason"), BAD, ids=[b[2] for b in BAD])
def test_rows_of_no_use_are_counted_with_their_place(
    record: dict[str, Any], roles: tuple[str, ...], reason: str
) -> None:
    good: dict[str, Any] = {"messages": HELLO} if "messages" in record else {}
    for name, value in (("instruction", "Hi"), ("question", "Hi"), ("prompt", "Hi"), ("output", "Hello."),
                        ("answer", "Hello."), ("completion", "Hello."), ("label", True), ("chosen", "Hello."),
                        ("rejected", "No.")):  # fmt: skip
        if name in record:
            good[name] = value
    found, drops, _ = read([good, record, good if roles != PAIR else {**good, "prompt": "Bye"}], roles)
    assert len(found) == 2 and drops.counts == {reason: 1}
    assert drops.first[reason] == "a.jsonl, record 2"


def test_votes_without_a_majority_are_left_out() -> None:
    def row(*votes: int) -> dict[str, Any]:
        named = {f"annotator{n}": v for n, v in enumerate(votes, 1)}
        return {"instruction": str(votes), "response1": "one", "response2": "two", **named}

    found, drops, _ = read([row(*v) for v in ((1, 1, 2), (0, 2, 2), (1, 2, 0), (0, 0, 1), (1, 2))], PAIR)
    assert [e["chosen"][0]["content"] for e in found] == ["one", "two"]
    assert drops.counts == {"without a majority of annotators for one reply": 3}


def test_columns_can_be_set_and_wrong_ones_are_refused() -> None:
    rows = [{"a": "Hi", "b": "there", "c": "Hello.", "d": "No."}]
    found, _, layout = read(rows, SFT, given={"prompt": "a+b", "completion": "c"})
    assert found[0]["messages"] == [user("Hi\n\nthere"), said("Hello.")]
    assert layout.fields() == {"prompt": "a+b", "completion": "c"}
    found, _, _ = read(rows, PAIR, given={"prompt": "a", "chosen": "c", "rejected": "d"})
    assert found[0]["rejected"] == [said("No.")]
    with pytest.raises(DataError, match="no column 'x'"):
        read(rows, SFT, given={"prompt": "x", "completion": "c"})
    with pytest.raises(ConfigError, match="'text'"):
        read(rows, SFT, given={"text": "a"})
    for roles in (SFT, PAIR, KTO):
        with pytest.raises(DataError, match="no known layout.*a, b, c, d"):
            read(rows, roles)


def test_variations_of_a_problem_are_one_group() -> None:
    rows = [{"Body": "A has 2.", "Question": q, "Answer": 1.0} for q in ("How many?", "How few?")]
    found, _, _ = read(rows, ("prompt",))
    assert len({e["_group"] for e in found}) == 1
    found, _, _ = read([{"messages": [*HELLO, user(q), said("x")]} for q in ("a", "b")], SFT)
    assert len({e["_group"] for e in found}) == 1


def test_dialogues_keep_what_looks_like_a_turn_inside_a_line() -> None:
    text = "\n\nHuman: He said: Human: no\n\nAssistant: Well,\n\nas Assistant: I say so"
    assert messages.dialogue(text) == [user("He said: Human: no"), said("Well,\n\nas Assistant: I say so")]
    with pytest.raises(Skip):
        messages.dialogue("Before\n\nHuman: x\n\nAssistant: y")


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "from", "content", "value", "text", "messages", "weight", "type"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=120, deadline=None)
@given(value=JSON, other=JSON, roles=st.sampled_from([SFT, PAIR, KTO, ("prompt",)]))
def test_any_values_are_read_or_counted(value: Any, other: Any, roles: tuple[str, ...]) -> None:
    good = {"messages": HELLO, "prompt": "Hi", "completion": "y", "chosen": "a", "rejected": "b", "label": 1}
    layout = layout_names.detect([good], wanted=roles, given={}, where="x")
    talks = layouts.Talks(layout, roles, ("answer", "record"), "x")
    drops = Drops()
    for name in good:
        made = list(talks.examples({**good, name: value, "answer": other}, 0, 0, drops))
        for example in made:
            for role in ("messages", "prompt", "completion", "chosen", "rejected"):
                for message in example.get(role, ()):
                    assert message["role"] in ("system", "user", "assistant", "tool")
                    assert isinstance(message["content"], str)


NAMES = ["messages", "prompt", "instruction", "chosen", "rejected", "output", "Body", "Question", "Answer"]
NAMES += ["response1", "response2", "annotator1", "instances"]


@settings(max_examples=60, deadline=None)
@given(records=st.lists(st.dictionaries(st.sampled_from(NAMES), JSON), min_size=1, max_size=3))
def test_any_records_have_a_layout_or_an_error(records: list[dict[str, Any]]) -> None:
    for roles in (SFT, PAIR, KTO, ("prompt",)):
        try:
            found, drops, _ = read(records, roles)
        except DataError as error:
            assert "no known layout" in str(error)
        else:
            assert len(found) <= 2 * sum(
                max(1, len(r["instances"])) if isinstance(r.get("instances"), list) else 1 for r in records
            )
            assert drops.counts.total() <= len(records)
