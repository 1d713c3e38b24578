"""Encoders over HTTP: the same answers as `predict`, each at its own address; odd requests named."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exnihilo import codec as codecs
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.interop import hf
from exnihilo.model import build, resolve
from exnihilo.predictions.run import load_run
from exnihilo.serve import encoders
from exnihilo.serve.settings import Settings

TEXTS = ["the cat sat on the mat", "a dog ran in the park", "hello, big world"] * 20
LONG = "the cat sat on the mat. " * 9
TAGS = {"labels": ["O", "B-A", "I-A"], "scheme": "bio"}
KINDS: dict[str, tuple[str, tuple[str, ...], int | None, dict[str, Any]]] = {
    "mood": ("sentence_classification", ("classes",), 2, {"kind": "binary", "labels": ["no", "yes"]}),
    "pairs": ("pair_classification", ("classes",), 3, {"kind": "multiclass", "labels": ["x", "y", "z"]}),
    "rank": ("rerank", ("classes",), 1, {}),
    "qa": ("span_qa", ("span",), None, {}),
    "tags": ("token_tagging", ("tags",), 3, TAGS),
    "mlm": ("masked_lm", ("mlm",), None, {}),
    "vectors": ("embeddings", ("embedding",), None, {}),
    "mix": ("mix", ("mlm", "next"), None, {}),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    codec = codecs.train(CodecConfig(kind="wordpiece", vocab_size=80), TEXTS)
    for seed, (name, (task, outputs, labels, facts)) in enumerate(KINDS.items()):
        config = ModelConfig(
            family="bert", depth=2, width=32, heads=2, context=40, outputs=outputs, labels=labels
        )
        model = build(resolve(config, codec.vocab_size), seed=seed)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        what = {"objective": task, "options": {}, "length": 40, "facts": facts}
        hf.save(model, codec, root / name, objective=what)
    return {name: root / name for name in KINDS}


@pytest.fixture(scope="module")
def client(folders: dict[str, Path], serving: Callable[..., Any]) -> Iterator[httpx.Client]:
    with (
        serving(list(folders.values()), Settings(reload=0, max_inputs=50)) as server,
        server.client() as found,
    ):
        yield found


def ask(client: httpx.Client, path: str, **body: Any) -> Any:
    reply = client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def refused(client: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    reply = client.post(path, json=body)
    assert reply.status_code in (400, 404), reply.text
    return reply.json()["error"]


def test_each_says_where_it_answers(client: httpx.Client) -> None:
    found = {card["id"]: card["endpoints"] for card in client.get("/v1/models").json()["data"]}
    assert found["mood"] == ["/v1/classify"] and found["qa"] == ["/v1/answer"]
    assert set(found["mix"]) == {"/v1/fill-mask", "/v1/pair"} and "/v1/pair" in found["vectors"]
    known = {path for paths in encoders.TASKS.values() for path in paths}
    assert known <= set(client.get("/openapi.json").json()["paths"])


def test_answers_are_those_of_predict(client: httpx.Client, folders: dict[str, Path]) -> None:
    texts = ["the cat sat", "a dog ran in the park today", "hello"]
    mine = load_run(folders["mood"]).predict(texts)
    found = ask(client, "/v1/classify", model="mood", input=texts)
    assert [d["index"] for d in found["data"]] == [0, 1, 2]
    for one, other in zip(found["data"], mine, strict=True):
        assert one["label"] == other["label"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
    assert found["usage"]["prompt_tokens"] > 9
    pair = ask(client, "/v1/pair", model="pairs", input={"a": "the cat", "b": "a dog"}, top_k=1)["data"][0]
    expected = load_run(folders["pairs"]).predict("the cat", "a dog")
    assert pair["label"] == expected["label"] and list(pair["probabilities"]) == [expected["label"]]
    near = ask(client, "/v1/pair", model="vectors", input=[{"a": "the cat", "b": "a dog"}])["data"][0]
    assert set(near) == {"index", "similarity"} and abs(near["similarity"]) <= 1
    assert "follows" in ask(client, "/v1/pair", model="mix", input=[{"a": "the cat", "b": "hi"}])["data"][0]


def test_rerank_puts_the_best_first(client: httpx.Client, folders: dict[str, Path]) -> None:
    documents = ["the cat", "a dog in the park", "hello", "the mat"]
    rows: list[Any] = [{"query": "cat", "document": text} for text in documents]
    scores = [found["score"] for found in load_run(folders["rank"]).predict(rows)]
    order = sorted(range(4), key=lambda i: -scores[i])
    whole = ask(client, "/v1/rerank", model="rank", query="cat", documents=documents)["results"]
    assert [each["index"] for each in whole] == order
    assert [each["relevance_score"] for each in whole] == pytest.approx(sorted(scores)[::-1], abs=1e-5)
    body = {"model": "rank", "query": "cat", "documents": documents, "top_n": 2, "return_documents": True}
    best = ask(client, "/v1/rerank", **body)["results"]
    assert [each["document"]["text"] for each in best] == [documents[i] for i in order[:2]]


def test_spans_stand_where_they_say(client: httpx.Client) -> None:
    text = "the cat 😀 sat on the mat, hello"
    for said in (text, LONG):
        one = ask(client, "/v1/tag", model="tags", input=said)["data"][0]
        assert one["text"] == said
        assert one["words"] == [said[a:b] for a, b in zip(one["starts"], one["ends"], strict=True)]
        assert all(said[s["start"] : s["end"]] == s["text"] for s in one["spans"])
    words = ask(client, "/v1/tag", model="tags", words=[["the", "cat"], ["hello"]])["data"]
    assert [one["words"] for one in words] == [["the", "cat"], ["hello"]]
    found = ask(client, "/v1/answer", model="qa", input={"question": "who", "context": LONG}, top_k=7)[
        "data"
    ][0]
    assert 5 < len(found["nbest"]) <= 7
    assert all(LONG[n["start"] : n["end"]] == n["text"] for n in found["nbest"])
    assert found["answer"] == LONG[found["start"] : found["end"]] == found["nbest"][0]["text"]


def test_gaps_list_as_many_as_asked(client: httpx.Client) -> None:
    text = "the [MASK] sat on the [MASK]"
    gaps = ask(client, "/v1/fill-mask", model="mlm", input=text)["data"][0]["gaps"]
    many = ask(client, "/v1/fill-mask", model="mlm", input=text, top_k=9)["data"][0]["gaps"]
    assert [len(gap) for gap in many] == [9, 9] and all(len(gap) == 5 for gap in gaps)
    for few, more in zip(gaps, many, strict=True):
        assert [g["id"] for g in few] == [g["id"] for g in more][:5]
        assert [g["probability"] for g in more] == sorted((g["probability"] for g in more), reverse=True)


def test_many_at_once_get_what_they_would_get_alone(client: httpx.Client) -> None:
    """Different models, lengths and numbers of alternatives, all in the same batches."""
    asked = [(n % 4 + 1, f"the [MASK] {'cat sat ' * (n % 6)}on") for n in range(24)]
    alone = [ask(client, "/v1/fill-mask", model="mlm", input=t, top_k=k)["data"] for k, t in asked]
    together: list[Any] = [None] * len(asked)

    def one(n: int) -> None:
        k, text = asked[n]
        together[n] = ask(client, "/v1/fill-mask", model="mlm", input=text, top_k=k)["data"]

    threads = [threading.Thread(target=one, args=(n,)) for n in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mine, other in zip(alone, together, strict=True):
        assert [[g["id"] for g in gap] for gap in mine[0]["gaps"]] == [
            [g["id"] for g in gap] for gap in other[0]["gaps"]
        ]


def test_too_long_is_refused_with_both_counts(client: httpx.Client) -> None:
    error = refused(client, "/v1/classify", model="mood", input=["short", "the cat " * 40])
    assert error["code"] == "context_length_exceeded" and error["param"] == "input[1]"
    assert "82 tokens" in error["message"] and "40" in error["message"]
    found = ask(client, "/v1/classify", model="mood", input="the cat " * 40, truncate=True)["data"][0]
    assert found["cut"] == 42 and found["label"] in ("no", "yes")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("classify", {"model": "mood", "input": []}, "input"),
        ("classify", {"model": "mood", "input": ["fine", " "]}, "input[1]"),
        ("classify", {"model": "mood", "input": ["a"] * 51}, "input"),
        ("classify", {"model": "mood", "input": 3}, None),
        ("classify", {"model": "mood", "input": "a", "temperature": 1}, "temperature"),
        ("classify", {"model": "mood", "input": "a", "top_k": 0}, "top_k"),
        ("classify", {"model": "mood", "input": "a", "top_k": 1.5}, "top_k"),
        ("classify", {"model": "tags", "input": "a"}, "model"),
        ("classify", {"model": "nobody", "input": "a"}, "model"),
        ("classify", {"input": "a"}, "model"),
        ("pair", {"model": "pairs", "input": [{"a": "x"}]}, None),
        ("pair", {"model": "pairs", "input": [{"a": "x", "b": ""}]}, "input[0]"),
        ("rerank", {"model": "rank", "query": "", "documents": ["a"]}, "documents[0]"),
        ("rerank", {"model": "rank", "query": "a", "documents": []}, "documents"),
        ("answer", {"model": "qa", "input": {"question": " ", "context": "x"}}, "input[0]"),
        ("tag", {"model": "tags"}, "input"),
        ("tag", {"model": "tags", "input": "a", "words": [["a"]]}, "input"),
        ("tag", {"model": "tags", "words": [[]]}, "words[0]"),
        ("fill-mask", {"model": "mlm", "input": "no gap"}, "input[0]"),
    ],
)
def test_bad_requests_name_the_parameter(
    client: httpx.Client, path: str, body: dict[str, Any], param: str | None
) -> None:
    error = refused(client, f"/v1/{path}", **body)
    assert param is None or error["param"] == param
    assert error["message"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=60))
def test_any_text_is_answered_or_refused(client: httpx.Client, text: str) -> None:
    for path, model in (("classify", "mood"), ("tag", "tags"), ("fill-mask", "mlm")):
        try:
            said = text.encode("utf-8").decode()
        except UnicodeEncodeError:
            continue
        reply = client.post(f"/v1/{path}", json={"model": model, "input": said})
        assert reply.status_code in (200, 400), reply.text


def test_a_model_that_fails_harms_nobody_else(
    folders: dict[str, Path], serving: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving([folders["mood"]], Settings(reload=0)) as server, server.client() as client:
        predictor = server.shelf.get("mood").batcher.predictor
        whole = predictor.answers

        def broken(examples: Any, **more: Any) -> Any:
            if any("poison" in str(example) for example in examples):
                raise RuntimeError("injected")
            return whole(examples, **more)

        monkeypatch.setattr(predictor, "answers", broken)
        assert client.post("/v1/classify", json={"model": "mood", "input": "poison"}).status_code == 500
        assert ask(client, "/v1/classify", model="mood", input="the cat")["data"][0]["label"]


def test_int8_weights_serve_the_same_labels(folders: dict[str, Path], serving: Callable[..., Any]) -> None:
    texts = ["the cat sat", "a dog ran in the park today", "hello"]
    mine = load_run(folders["mood"]).predict(texts)
    with serving([folders["mood"]], Settings(reload=0, weights="int8")) as server, server.client() as client:
        found = ask(client, "/v1/classify", model="mood", input=texts)["data"]
    for one, other in zip(found, mine, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=0.05)


def test_long_answers_are_written_beside_the_loop_and_none_once_it_drains(
    folders: dict[str, Path], serving: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    original = encoders.writing.encoded
    monkeypatch.setattr(
        encoders.writing, "encoded", lambda x: made.append(threading.current_thread().name) or original(x)
    )
    paths = [folders[name] for name in ("mood", "rank", "vectors")]
    with serving(paths, Settings(reload=0)) as server, server.client() as client:
        asked = {
            "/v1/classify": {"model": "mood", "input": ["the cat sat"] * 200},
            "/v1/rerank": {"model": "rank", "query": "a dog", "documents": ["the cat sat"] * 200},
            "/v1/embeddings": {"model": "vectors", "input": ["the cat sat"] * 200},
        }
        for path, body in asked.items():
            ask(client, path, **body)
        loop = next(t.name for t in threading.enumerate() if t.name == server._thread.name)
        assert len(made) == 3 and loop not in made
        server.shelf.draining = True
        for path, body in asked.items():
            reply = client.post(path, json=body)
            assert reply.status_code == 503 and reply.json()["error"]["code"] == "shutting_down"
            assert reply.headers["Retry-After"] == "5"
