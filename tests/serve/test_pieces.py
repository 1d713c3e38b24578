"""Parts by themselves: texts that grow, tools in replies, names of parameters, metrics."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from exnihilo import codec as codecs
from exnihilo.config import CodecConfig
from exnihilo.errors import UsageError
from exnihilo.infer.request import Token
from exnihilo.serve.errors import ApiError, named
from exnihilo.serve.metrics import Metrics
from exnihilo.serve.models import Shelf
from exnihilo.serve.settings import Settings
from exnihilo.serve.texts import Growing
from exnihilo.serve.tools import CLOSE, OPEN, Call, Reader

CODEC = codecs.train(CodecConfig(kind="bytes"), ["text"])
CALL = f'{OPEN}\n{{"name": "sum", "arguments": {{"a": 1}}}}\n{CLOSE}'


def grown(text: str, stops: list[str], ends: bool) -> tuple[str, str, int, int]:
    """(text, reason, tokens, facts) of a text that is written token by token."""
    ids = [*CODEC.encode(text), *([CODEC.eos_id] if ends else [])]
    growing = Growing(CODEC, 0, stops, frozenset({CODEC.eos_id}), facts=True)
    said, made, facts = "", 0, 0
    for number, id in enumerate(ids):
        last = number == len(ids) - 1
        reason = ("eos" if ends else "length") if last else None
        piece = growing.push(Token(0, 0, id, -1.0, -1.0, -1.0, reason))
        said, made, facts = said + piece.text, made + piece.tokens, facts + len(piece.facts)
        if piece.reason is not None:
            assert growing.over
            return said, piece.reason, made, facts
    return said, "", made, facts


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30), st.booleans())
def test_a_text_is_its_tokens_decoded(text: str, ends: bool) -> None:
    said, reason, made, facts = grown(text, [], ends)
    count = len(CODEC.encode(text))
    assert said == text and reason == ("stop" if ends else "length")
    assert facts == count and made == count + ends


@given(st.text("ab", min_size=1, max_size=20), st.text("ab", min_size=1, max_size=3))
def test_nothing_of_a_stop_string_is_told(text: str, stop: str) -> None:
    said, reason, _, facts = grown(text, [stop], False)
    assert said == text.partition(stop)[0]
    assert reason == ("stop" if stop in text else "length")
    assert facts == len(said)


@given(st.lists(st.integers(0, 255), min_size=1, max_size=12))
def test_bytes_that_are_no_character_are_shown_as_such(raw: list[int]) -> None:
    table = {piece: id for id, piece in enumerate(CODEC.pieces) if piece}  # type: ignore[attr-defined]
    ids = [table[bytes([byte])] for byte in raw]
    growing = Growing(CODEC, 0, [], frozenset(), facts=True)
    said, facts = "", 0
    for number, id in enumerate(ids):
        piece = growing.push(Token(0, 0, id, 0.0, 0.0, 0.0, "length" if number == len(ids) - 1 else None))
        said, facts = said + piece.text, facts + len(piece.facts)
    assert said == bytes(raw).decode("utf-8", "replace") and facts == len(ids)


@given(st.lists(st.integers(1, 9), max_size=30), st.text("a< \n", max_size=10), st.text("b>", max_size=10))
def test_calls_are_found_however_they_come(cuts: list[int], before: str, after: str) -> None:
    text = before + CALL + "\n" + CALL + after
    reader, parts = Reader(["sum"]), []
    at = 0
    for size in [*cuts, len(text)]:
        parts += reader.push(text[at : at + size])
        at += size
    parts += reader.finish()
    assert [p for p in parts if isinstance(p, Call)] == [Call("sum", '{"a": 1}')] * 2
    assert "".join(p for p in parts if isinstance(p, str)) == before + "\n" + after


def test_what_is_no_whole_call_of_a_known_tool_stays_text() -> None:
    for text in (
        CALL.replace("sum", "other"),
        CALL[:-3],
        f"{OPEN}nonsense{CLOSE}",
        f"{OPEN}[1]{CLOSE}",
        f'{OPEN}{{"name": "sum", "arguments": "a"}}{CLOSE}',
        OPEN,
        "<tool",
    ):
        reader = Reader(["sum"])
        parts = [*reader.push(text), *reader.finish()]
        assert "".join(p for p in parts if isinstance(p, str)) == text
    whole = Reader(["sum"], whole=True)
    assert whole.push('{"name": "sum", ') == [] and whole.push('"arguments": {}}') == []
    assert whole.finish() == [Call("sum", "{}")]
    cut = Reader(["sum"], whole=True)
    assert cut.push('{"name"') == [] and cut.finish() == ['{"name"']
    plain = Reader([])
    assert plain.push(CALL) == [CALL] and plain.finish() == []


def test_calls_hold_what_json_can_and_utf8_too() -> None:
    [call] = Reader(["sum"]).push(f'{OPEN}{{"name": "sum", "arguments": {{"a": "\\ud800"}}}}{CLOSE}')
    assert isinstance(call, Call)
    json.dumps(call.shown()).encode()
    call.arguments.encode()


def test_parameters_are_named_as_they_were_written() -> None:
    assert named(("messages", 0, "user", "content")) == "messages[0].content"
    assert named(("prompt", "list[str]", 1)) == "prompt[1]"
    assert named(("user",)) == "user"
    assert named(("response_format", "json_schema", "json_schema")) == "response_format.json_schema"
    assert named(()) == ""


def test_errors_hold_what_was_given_in_measure() -> None:
    error = ApiError.of(UsageError("top_p=2", expected="at most 1", next="less"))
    assert error.param == "top_p" and error.body()["error"]["message"] == "top_p=2; expected: at most 1"
    long = ApiError("\ud800" + "x" * 5000, param="\ud800" * 900).response()
    assert len(bytes(long.body)) < 3000


def test_metrics_count_in_prometheus_format(runs: dict[str, Path]) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    metrics = Metrics()
    shelf = Shelf.open([runs["base"], runs["vectors"]], Settings(slots=3, reload=0), metrics=metrics)
    metrics.first("base", 0.03)
    metrics.over("base", 11, 0.1)
    metrics.over("base", 1, 0.0)  # one token has no time a token
    metrics.drawn("base", 12)
    families = {f.name: f for f in text_string_to_metric_families(metrics.text().decode())}
    shelf.close()
    values = {
        s.name: s.value for f in families.values() for s in f.samples if s.labels.get("model") == "base"
    }
    assert values["exnihilo_generated_tokens_total"] == 12 and values["exnihilo_texts_total"] == 2
    assert values["exnihilo_tpot_seconds_count"] == 1 and values["exnihilo_tpot_seconds_sum"] == 0.01
    assert values["exnihilo_ttft_seconds_sum"] == 0.03
    assert values["exnihilo_slots"] == 3 and values["exnihilo_kv_use"] == 0
    queue = {s.labels["model"]: s.value for s in families["exnihilo_queue"].samples}
    assert queue == {"base": 0, "vectors": 0}
