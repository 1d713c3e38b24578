"""Predictions: the same alone, batched and reordered; little padding; bad rows named, the rest kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo.codec.base import Codec
from exnihilo.errors import DataError, ModelError, UsageError
from exnihilo.infer.predict import PADDING, Predictor, as_example, inputs_of, rows_of
from exnihilo.log import Quiet
from exnihilo.model import Model
from exnihilo.objective.base import Objective
from exnihilo.objective.causal_lm import CausalLM

Maker = Callable[..., Model]
Kind = type[Objective]
TEXTS = ["a", "bb " * 9, "c" * 31, "A fine film.", "d" * 200, "é 😀", "x y z " * 6, "word"]


@pytest.fixture
def net(make_model: Maker, bytes_codec: Codec) -> Model:
    return make_model("qwen3", vocab=bytes_codec.vocab_size)


@pytest.fixture
def predictor(net: Model, bytes_codec: Codec, windows: Kind) -> Predictor:
    return Predictor(net, bytes_codec, windows(length=48))


def close(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys() and x["windows"] == y["windows"]
        np.testing.assert_allclose(x["vector"], y["vector"], atol=1e-5)
        np.testing.assert_allclose(x["tokens"], y["tokens"], atol=1e-5)


def test_alone_is_batched_is_reordered(predictor: Predictor) -> None:
    together = predictor.predict(TEXTS)
    assert together[4]["windows"] == 5
    close([predictor.predict([text])[0] for text in TEXTS], together)
    close(predictor.predict(TEXTS[::-1])[::-1], together)
    close(predictor.predict(TEXTS * 5)[len(TEXTS) * 2 : len(TEXTS) * 3], together)
    for tokens in (1, 50, 100_000):
        close(predictor.predict(TEXTS, batch_tokens=tokens), together)


def test_alone_is_a_plain_forward(predictor: Predictor, net: Model, bytes_codec: Codec) -> None:
    import torch

    ids = [bytes_codec.bos_id, *bytes_codec.encode(TEXTS[3]), bytes_codec.eos_id]
    with torch.no_grad():
        hidden = net({"tokens": torch.tensor([ids])}, predictor.objective.attention)[0]
    [found] = predictor.predict([TEXTS[3]])
    np.testing.assert_allclose(found["vector"], hidden[0].numpy(), atol=1e-5)


def test_two_texts_with_segments(net: Model, bytes_codec: Codec, pairs: Kind) -> None:
    predictor = Predictor(net, bytes_codec, pairs(length=48))
    assert predictor.inputs == ("a", "b")
    named = predictor.predict([{"a": "it rains", "b": "it is wet", "label": "even"}])
    close(predictor.predict([("it rains", "it is wet")]), named)
    assert "a and b" in predictor.predict(["it rains"])[0]["error"]


def test_bad_rows_are_named_and_the_rest_goes_on(predictor: Predictor) -> None:
    rows: list[Any] = ["fine", "", {"words": 3}, {"text": 7}, "cannot", "  \n", {"text": None}, "good"]
    found = predictor.predict(rows)
    bad = {p["row"]: p["error"] for p in found if "error" in p}
    assert sorted(bad) == [2, 3, 4, 5, 6, 7]
    assert "empty text" in bad[2] and "no 'text'; found: 'words'" in bad[3] and "int 7" in bad[4]
    assert "cannot be read" in bad[5] and all("\n" not in text for text in bad.values())
    close([found[0], found[7]], predictor.predict(["fine", "good"]))
    with pytest.raises(DataError, match="example 2: empty text"):
        predictor.raw(rows)


def test_the_gold_is_never_seen(predictor: Predictor) -> None:
    plain = predictor.predict([{"text": text} for text in TEXTS])
    close(predictor.predict([{"text": text, "label": "odd", "id": 4} for text in TEXTS]), plain)


def test_raw_gives_items_with_their_outputs(predictor: Predictor) -> None:
    for (items, outputs), text in zip(predictor.raw(TEXTS), TEXTS, strict=True):
        assert len(items) == len(outputs) == -(-len(text.encode()) // 46)
        for item, output in zip(items, outputs, strict=True):
            assert len(output["every"]) == len(np.asarray(item["tokens"])) and output["first"].shape == (32,)


def test_streaming_reads_no_further_than_it_must(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exnihilo.infer import predict

    monkeypatch.setattr(predict, "_EXAMPLES", 3)
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield TEXTS[read % len(TEXTS)]

    stream = predictor.stream(endless())
    first = [next(stream) for _ in range(4)]
    assert read == 6
    close(first, predictor.predict([TEXTS[i] for i in range(1, 5)]))
    bad = list(predictor.stream(["a", "b", "c", ""], first=11))
    assert bad[3]["row"] == 14


def test_progress_and_modes(predictor: Predictor, net: Model) -> None:
    class Told(Quiet):
        done = 0.0

        def advance(self, amount: float = 1) -> None:
            self.done += amount

    told = Told()
    net.train()
    predictor.predict(TEXTS, progress=told)
    assert told.done == len(TEXTS) and net.training


def test_nothing_to_do(predictor: Predictor) -> None:
    assert predictor.predict([]) == [] and predictor.raw([]) == []


def test_wrong_use(predictor: Predictor, net: Model, bytes_codec: Codec, windows: Kind) -> None:
    with pytest.raises(UsageError, match="makes no predictions"):
        Predictor(net, bytes_codec, CausalLM())
    lacking = windows(length=48)
    lacking.heads = ("classes",)  # type: ignore[misc]
    with pytest.raises(ModelError, match="the model has no classes"):
        Predictor(net, bytes_codec, lacking)
    with pytest.raises(UsageError, match="a list is expected"):
        predictor.predict("one text")
    with pytest.raises(UsageError, match="batch_tokens"):
        Predictor(net, bytes_codec, windows(length=48), batch_tokens=0)
    with pytest.raises(UsageError, match="an item of 60 tokens"):
        Predictor(net, bytes_codec, windows(length=60)).predict(["x" * 100])


def test_what_a_caller_may_give(pairs: Any) -> None:
    class Words(pairs):
        roles = ("words", "tags")

    class Either(pairs):
        def asks(self, example: Any = None) -> tuple[str, ...]:
            return ("a", "b") if example and "a" in example else ("text",)

    class One(pairs):
        asks = ("a",)

    words, either, one = (cls() for cls in (Words, Either, One))
    assert as_example("x y", words) == {"text": "x y"}
    assert as_example(["x", "y"], words) == {"words": ["x", "y"]}
    assert as_example("x", either) == {"text": "x"}
    assert as_example(("x", "y"), either) == {"a": "x", "b": "y"}
    assert as_example("x", one) == as_example({"text": "x"}, one) == {"a": "x"}
    assert as_example(("x", "y"), one) == {"a": "x", "b": "y"}
    assert as_example({"z": 1}, pairs()) == {"z": 1}
    assert inputs_of(pairs()) == ("a", "b")
    with pytest.raises(DataError, match="3 texts where an example has a and b"):
        as_example(("x", "y", "z"), pairs())


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(1, 64), min_size=1, max_size=60),
    st.sampled_from([None, 64]),
    st.sampled_from([1, 64, 500, 10_000]),
)
def test_every_item_once_and_hardly_any_padding(sizes: list[int], longest: int | None, tokens: int) -> None:
    lengths = np.asarray(sizes)
    seen: list[int] = []
    for index, row, pieces in rows_of(lengths, longest, tokens):
        assert row <= max(longest or 2, max(sizes), 2)
        used = 0
        for row_pieces in pieces:
            inside = 0
            for document, start, length in row_pieces:
                assert start == 0 and length == sizes[index[document]]
                seen.append(int(index[document]))
                inside += length
            assert inside <= row
            used += inside
        if max(sizes) > 1:
            assert used >= (1 - PADDING) * row * len(pieces) or len(index) == 1
        assert row * len(pieces) <= max(tokens, max(sizes), 2) / (1 - PADDING) + row
    assert sorted(seen) == list(range(len(sizes)))
