"""Structured output against what Python's own re, jsonschema and enumeration say; hostile grammars."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exnihilo import codec as codecs
from exnihilo.codec.base import Codec
from exnihilo.config import CodecConfig
from exnihilo.errors import UsageError
from exnihilo.infer import Sampling, generate, native
from exnihilo.infer.engine import Engine
from exnihilo.infer.request import Request
from exnihilo.infer.structure import Constraint, constraint
from exnihilo.model import Model

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llguidance") is None, reason="the extra structured is not installed"
)
TEXTS = ["the fox said yes, the hen said no", '{"name": "Ann", "age": 12, "likes": ["red", "blue"]}'] * 20
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["fox", "hen"]},
        "likes": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2},
    },
    "required": ["age", "kind", "likes"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def bpe() -> Codec:
    return codecs.train(CodecConfig(kind="bpe", vocab_size=300), TEXTS)


def follow(shape: Constraint, ids: list[int]) -> tuple[bool, bool]:
    """(each id was allowed, the text may end)"""
    state = shape.start()
    for i in ids:
        if not state.allowed()[i]:
            return False, False
        state.take(i)
    return state.failed is None, state.accepting


@pytest.mark.parametrize("pattern", ["a+b?", "(ab|ba)*", "[^a]{1,2}", "a|b|", "(a?b){2}"])
def test_a_regex_allows_what_re_matches(bytes_codec, pattern):
    """All texts of up to four letters: a text may end where re matches it whole, and an id is allowed where
    some longer text matches."""
    shape = constraint({"regex": pattern}, bytes_codec)
    texts = ["".join(t) for n in range(6) for t in itertools.product("abc", repeat=n)]
    whole = {t for t in texts if re.fullmatch(pattern, t)}
    begins = {t[:n] for t in whole for n in range(len(t) + 1)}
    for text in texts:
        if len(text) > 4:
            continue
        good, ends = follow(shape, bytes_codec.encode(text))
        assert ends == (text in whole)
        assert good == (text in begins)


def test_choices_where_one_begins_another(bytes_codec, bpe):
    for codec in (bytes_codec, bpe):
        shape = constraint({"choice": ["no", "none", "é\n"]}, codec)
        for text, wanted in (("no", True), ("none", True), ("é\n", True), ("non", False), ("nonee", False)):
            assert follow(shape, codec.encode(text))[1] == wanted
        state = shape.start()
        for i in codec.encode("none"):
            state.take(i)
        assert state.done and not state.allowed().any()


def test_a_grammar_counts(bytes_codec):
    """What no regular expression can: nesting."""
    shape = constraint({"grammar": 'start: "(" start ")" | "x"'}, bytes_codec)
    for text, wanted in (("x", True), ("((x))", True), ("((x)", False), ("(x))", False)):
        assert follow(shape, bytes_codec.encode(text))[1] == wanted


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    value=st.one_of(
        st.integers(-5, 200),
        st.text(max_size=4),
        st.fixed_dictionaries(
            {
                "age": st.integers(-3, 200),
                "kind": st.sampled_from(["fox", "hen", "cow"]),
                "likes": st.lists(st.text(max_size=4), max_size=3),
            }
        ),
    ),
    ascii=st.booleans(),
)
def test_a_schema_allows_what_jsonschema_validates(bytes_codec, bpe, value, ascii):
    jsonschema = pytest.importorskip("jsonschema")
    if isinstance(value, dict):
        value = {key: value[key] for key in PERSON["properties"]}  # a schema's order is the text's
    text = json.dumps(value, ensure_ascii=ascii)
    wanted = jsonschema.Draft202012Validator(PERSON).is_valid(value)
    for codec in (bytes_codec, bpe):
        assert follow(constraint({"json_schema": PERSON}, codec), codec.encode(text))[1] == wanted


@pytest.mark.parametrize("path", ["native", "torch"])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0), Sampling(1.5, top_k=5, min_p=0.1)])
def test_what_a_random_model_writes_is_valid(make_model, bytes_codec, path, sampling):
    jsonschema = pytest.importorskip("jsonschema")
    if path == "native" and isinstance(why := native.library(), str):
        pytest.skip(why)
    codec = bytes_codec
    model: Model = make_model("qwen3", vocab=codec.vocab_size + 9, context=256)  # spare rows of the embedding
    shape = constraint({"json_schema": PERSON}, codec)
    free = Request([codec.bos_id, 70], 20, sampling, seed=1)
    bound = Request([codec.bos_id], 200, sampling, n=3, seed=1, constraint=shape)
    engine = Engine(model, slots=4, eos={codec.eos_id}, path=path)  # type: ignore[arg-type]
    alone = Engine(model, slots=1, eos={codec.eos_id}, path=path).run([free])  # type: ignore[arg-type]
    found = engine.run([free, bound])
    assert found[0][0].ids == alone[0][0].ids  # a neighbour without a constraint is as alone
    for done in found[1]:
        assert all(np.isfinite(done.raw)) and all(np.isfinite(done.processed))
        if done.reason == "length":  # cut: still the beginning of something valid
            assert follow(shape, done.ids)[0]
            continue
        assert done.reason == "eos" and done.ids[-1] == codec.eos_id
        jsonschema.validate(json.loads(codec.decode(done.ids)), PERSON)


def test_without_stop_ids_a_text_ends_where_nothing_can_follow(make_model, bytes_codec):
    model = make_model("qwen3", vocab=bytes_codec.vocab_size)
    shape = constraint({"choice": ["yes", "no"]}, bytes_codec)
    (done,) = Engine(model).run([Request([1], 30, constraint=shape)])[0]
    assert bytes_codec.decode(done.ids) in ("yes", "no") and done.reason == "eos"


def test_a_stop_id_comes_only_where_the_text_may_end(make_model, bytes_codec):
    model, codec = make_model("qwen3", vocab=bytes_codec.vocab_size), bytes_codec
    shape = constraint({"regex": "(ab){3,}"}, codec)
    (b,) = codec.encode("b")
    for seed in range(5):
        request = Request([1], 30, seed=seed, constraint=shape, stop_ids=frozenset({codec.eos_id}))
        (done,) = Engine(model).run([request])[0]
        assert re.fullmatch("(ab){3,}(ab|a)?", codec.decode(done.ids)) and len(done.ids) >= 6
    # an id that ends texts and that the grammar needs: no text is whole then, and none is given out as one
    request = Request([1], 30, constraint=shape, stop_ids=frozenset({b}))
    (done,) = Engine(model).run([request])[0]
    assert done.reason == "failed"
    with pytest.raises(UsageError, match="no text can begin"):
        Engine(model, eos=codec.encode("a")).run([request])


def test_generate_takes_a_constraint_and_tells_the_likeliest(make_model, bytes_codec):
    model = make_model("qwen3", vocab=bytes_codec.vocab_size)
    shape = constraint({"choice": ["yes", "no"]}, bytes_codec)
    found = generate(model, bytes_codec, ["a", "b"], constraint=shape, top=3, seed=2)
    for each in found:
        assert each.text in ("yes", "no") and each.finish_reason == "eos"
        assert len(each.top) == len(each.ids) and all(len(t) == 3 for t in each.top)


BOMBS = [
    {"regex": "(a"},
    {"regex": ""},
    {"regex": "(?=a)b"},
    {"regex": "[a&&b]"},
    {"regex": "\ud800"},
    {"regex": 7},
    {"choice": []},
    {"choice": [""]},
    {"choice": "yes"},
    {"choice": ["a", 1]},
    {"grammar": 'start: "a" )'},
    {"grammar": 'begin: "a"'},
    {"json_schema": {"type": "nope"}},
    {"json_schema": {"not": {"type": "string"}}},
    {"json_schema": {"$ref": "http://elsewhere/x"}},
    {"json_schema": "{"},
    {"json_schema": False},
    {"json_schema": {"const": float("nan")}},
    {"json_schema": [1]},
    {"regex": "a" * 300_000},
    {"regex": "a", "choice": ["b"]},
    {"xml": "a"},
    None,
    "a",
]


@pytest.mark.parametrize("spec", BOMBS, ids=lambda s: str(s)[:40])
def test_a_bad_specification_is_refused(bytes_codec, spec):
    with pytest.raises(UsageError):
        constraint(spec, bytes_codec)


def test_deep_and_explosive_specifications_harm_nobody(bytes_codec):
    """These crash or hang a compiler that has no process of its own."""
    rules = "".join(f'r{i}: r{i + 1} "a"\n' for i in range(3000))
    doubled = "".join(f"R{i}: R{i + 1} R{i + 1}\n" for i in range(25))
    deep: Any = {}
    for _ in range(5000):
        deep = {"items": deep}
    for spec in (
        {"grammar": f'start: r0\n{rules}r3000: "b"'},
        {"grammar": f'start: R0\n{doubled}R25: "b"'},
        {"json_schema": deep},
        {"regex": "(" * 5000 + ")" * 5000},
    ):
        with pytest.raises(UsageError):
            constraint(spec, bytes_codec)
    assert constraint({"choice": ["a"]}, bytes_codec).start().failed is None


def test_a_step_that_costs_too_much_fails_closed(make_model, bytes_codec, monkeypatch):
    shape = constraint({"regex": "[a-z]{1,40}"}, bytes_codec)
    begin = shape.start

    def broken():
        state = begin()
        take = state.take

        def failing(id: int) -> None:
            take(id)
            state.failed, state.done = "a limit", True

        monkeypatch.setattr(state, "take", failing)
        return state

    monkeypatch.setattr(shape, "start", broken)
    model = make_model("qwen3", vocab=bytes_codec.vocab_size)
    (bad,), (good,) = Engine(model).run([Request([1], 9, constraint=shape), Request([1], 9)])
    assert bad.reason == "failed" and len(bad.ids) == 1 and good.reason == "length"


def test_a_wordpiece_codec_is_refused():
    codec = codecs.train(CodecConfig(kind="wordpiece", vocab_size=120), TEXTS)
    with pytest.raises(UsageError, match="wordpiece"):
        constraint({"choice": ["a"]}, codec)
