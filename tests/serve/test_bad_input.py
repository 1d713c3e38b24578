"""What is wrong is refused with its name, by 400 and the like, and harms nobody else."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from exnihilo.serve.settings import Settings

TEXT = {"model": "base", "prompt": "Once", "max_tokens": 4}
TALK = {"model": "talk", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
JSON = {"content-type": "application/json"}


def refused(response: httpx.Response, status: int, param: str | None = None, word: str = "") -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    assert error["param"] == param, error
    assert word in error["message"], error


def raw(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"{}x", "not JSON"),
        (b"null", "null"),
        (b"[]", "list"),
        (b'"a"', "string"),
        (b"\xff\xfe", "UTF-8"),
        (raw(TEXT).replace(b"Once", b"On\xffce"), "UTF-8"),
        (raw(TEXT)[:-1] + b',"temperature":NaN}', "NaN"),
        (raw(TEXT)[:-1] + b',"temperature":-Infinity}', "-Infinity"),
        (raw(TEXT)[:-1] + b',"max_tokens":9}', "twice"),
        (b"[" * 100_000, "deeply"),
        (b'{"a":' * 50_000, "deeply"),
        (raw({**TEXT, "prompt": "a\ud800"}), "surrogate"),
        (raw({**TEXT, "\udfff": "a"}), "surrogate"),
        (b'{"model":"base","prompt":"a","seed":' + b"1" * 5000 + b"}", "expected here"),
    ],
)
def test_bodies_that_are_no_json(client: httpx.Client, body: bytes, word: str) -> None:
    refused(client.post("/v1/completions", content=body, headers=JSON), 400, word=word)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": ["a", 5]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [[-1]]}, "prompt"),
        ({"prompt": [99999]}, "prompt"),
        ({"prompt": [2**40]}, "prompt"),
        ({"max_tokens": "4"}, "max_tokens"),
        ({"max_tokens": 4.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"max_tokens": 513}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 1e308}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": 0}, "top_k"),
        ({"min_p": -0.1}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"presence_penalty": 1e9}, "presence_penalty"),
        ({"frequency_penalty": -1e9}, "frequency_penalty"),
        ({"n": 0}, "n"),
        ({"n": 33}, "n"),
        ({"n": 10**9}, "n"),
        ({"prompt": ["a"] * 33}, "prompt"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": [5]}, "stop"),
        ({"stop": "a" * 2000}, "stop"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"chunks": 1}}, "stream_options.chunks"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"no_such": 1}, "no_such"),
        ({"model": 5}, "model"),
        ({"model": ""}, "model"),
        ({"user": 5}, "user"),
    ],
)
def test_parameters_are_refused_by_name(client: httpx.Client, change: dict[str, Any], param: str) -> None:
    refused(client.post("/v1/completions", content=raw({**TEXT, **change}), headers=JSON), 400, param)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"content": "Hi"}]}, "messages[0]"),
        ({"messages": [{"role": "king", "content": "Hi"}]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "Hi", "name": "x"}]}, "messages[0].name"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].image_url",
        ),
        ({"functions": []}, "functions"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": 2}, "logprobs"),
        ({"max_tokens": 4, "max_completion_tokens": 5}, "max_tokens"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": []}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a"}}] * 2}, "tools"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
    ],
)
def test_conversations_are_refused_by_name(client: httpx.Client, change: dict[str, Any], param: str) -> None:
    refused(client.post("/v1/chat/completions", content=raw({**TALK, **change}), headers=JSON), 400, param)


@pytest.mark.parametrize(
    "form",
    [
        {"type": "regex", "regex": "(a"},
        {"type": "regex", "regex": r"(a)\1"},
        {"type": "grammar", "grammar": "start: nothing"},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#/nowhere"}}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "http://127.0.0.1:1/x"}}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": []}}},
        {"type": "json_schema", "json_schema": {"name": "x y", "schema": {}}},
        {"type": "choice", "choice": []},
    ],
    ids=lambda form: json.dumps(form)[:60],
)
def test_bad_structures_get_400_and_others_go_on(client: httpx.Client, form: dict[str, Any]) -> None:
    pytest.importorskip("llguidance", reason="needs the extra 'structured'")
    found = client.post("/v1/completions", content=raw({**TEXT, "response_format": form}), headers=JSON)
    assert found.status_code == 400, found.text
    assert found.json()["error"]["param"].startswith("response_format")
    assert client.post("/v1/completions", json=TEXT).status_code == 200


def test_numbers_are_what_json_says(client: httpx.Client) -> None:
    body = raw({**TEXT, "temperature": 0})
    same = body.replace(b'"max_tokens": 4', b'"max_tokens": 4.0').replace(
        b'"temperature": 0', b'"temperature": 0e0'
    )
    found = [client.post("/v1/completions", content=data, headers=JSON).json() for data in (body, same)]
    assert found[0]["choices"] == found[1]["choices"]


def test_the_wrong_model_for_it(client: httpx.Client) -> None:
    refused(
        client.post("/v1/completions", json={**TEXT, "model": "nix"}), 404, "model", "base, talk, vectors"
    )
    refused(client.post("/v1/completions", json={**TEXT, "model": "vectors"}), 400, "model", "embeddings")
    refused(client.post("/v1/chat/completions", json={**TALK, "model": "base"}), 400, "model", "base model")
    refused(client.post("/v1/embeddings", json={"model": "base", "input": "a"}), 400, "model")


def test_embeddings_are_refused_by_name(client: httpx.Client) -> None:
    def asked(**change: Any) -> httpx.Response:
        return client.post("/v1/embeddings", json={"model": "vectors", "input": "the cat", **change})

    assert asked().status_code == 200
    for value in ([], "", " ", ["a", ""], 5, [1, 2], ["a"] * 2049):
        refused(asked(input=value), 400, "input")
    found = asked(input="cat " * 60)
    refused(found, 400, "input")
    assert "60" in found.json()["error"]["message"] and "38" in found.json()["error"]["message"]
    refused(asked(dimensions=8), 400, "dimensions")
    refused(asked(encoding_format="hex"), 400, "encoding_format")


def test_addresses_methods_and_content_types(client: httpx.Client) -> None:
    refused(client.get("/v1/nothing"), 404)
    refused(client.get("/v1/completions"), 405)
    refused(client.delete("/v1/models"), 405)
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        headers = {"content-type": kind} if kind else {}
        refused(client.post("/v1/completions", content=raw(TEXT), headers=headers), 415)
    named = {"content-type": "application/json; charset=utf-8"}
    assert client.post("/v1/completions", content=raw(TEXT), headers=named).status_code == 200


def test_a_prompt_over_the_context_names_both_counts(client: httpx.Client) -> None:
    refused(client.post("/v1/completions", json={**TEXT, "prompt": "x" * 255}), 400, "prompt", "256 tokens")
    assert client.post("/v1/completions", json={**TEXT, "prompt": "x" * 254}).status_code == 200
    long = [{"role": "user", "content": "x" * 5000}]
    found = client.post("/v1/chat/completions", json={**TALK, "messages": long})
    refused(found, 400, "messages", "1024")
    assert found.json()["error"]["code"] == "context_length_exceeded"


def talk_raw(url: str, data: bytes, seconds: float = 10) -> bytes:
    """What a server says to bytes."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as wire:
        wire.sendall(data)
        parts = []
        while part := wire.recv(65536):
            parts.append(part)
            if b"\r\n\r\n" in b"".join(parts):
                break
    return b"".join(parts)


def test_bytes_that_are_no_http(server: Any, client: httpx.Client) -> None:
    for data in (b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"POST /v1/completions HTTP/9.9\r\n\r\n"):
        assert b"400" in talk_raw(server.url, data)
    smuggled = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: -5\r\n\r\n"
    assert b"400" in talk_raw(server.url, smuggled)
    assert client.get("/health/live").status_code == 200


def test_connections_that_say_nothing_or_never_end_a_head_are_cut(
    runs: dict[str, Path], serving: Callable[..., Any], eventually: Callable[..., bool]
) -> None:
    pytest.importorskip("httptools", reason="the slower parser has no time limit")
    with serving([runs["base"]], Settings(slots=2, reload=0, read_timeout=0.7)) as server:
        host, _, port = server.url.removeprefix("http://").partition(":")
        for data in (b"", b"GET /health/live HT", b"GET /health/live HTTP/1.1\r\nhost: localhost\r\na:"):
            with socket.create_connection((host, int(port)), timeout=10) as wire:
                wire.sendall(data)
                try:
                    assert wire.recv(100) == b""
                except ConnectionResetError:  # cut, too
                    pass
        with socket.create_connection((host, int(port)), timeout=10) as wire:
            wire.sendall(b"GET /health/live HTTP/1.1\r\na: ")
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                for _ in range(10_000):
                    wire.sendall(b"x" * 65536)
        with server.client() as client:  # one that lives on is not
            for pause in (0.0, 0.9):
                time.sleep(pause)
                assert client.get("/health/live").status_code == 200
        assert eventually(lambda: not server._server.server_state.connections)


def test_limits_of_a_gate(runs: dict[str, Path], serving: Callable[..., Any]) -> None:
    settings = Settings(
        slots=2,
        reload=0,
        body_bytes=1000,
        read_timeout=0.3,
        api_keys=("one", "two"),
        cors=("https://a.example",),
    )
    with serving([runs["base"]], settings) as server, server.client() as client:
        good = {"authorization": "Bearer two"}
        refused(client.get("/v1/models"), 401)
        for key in ("three", "tw", "two two", "Bearer"):
            refused(client.get("/v1/models", headers={"authorization": f"Bearer {key}"}), 401)
        refused(client.get("/metrics"), 401)
        assert client.get("/v1/models", headers=good).status_code == 200
        assert client.get("/health/live").status_code == 200
        assert client.get("/openapi.json").json()["security"] == [{"key": []}]
        large = {**TEXT, "prompt": "x" * 1001}
        refused(client.post("/v1/completions", json=large, headers=good), 413, word="1000")

        def parts() -> Any:
            yield from [b"x" * 400] * 5

        refused(client.post("/v1/completions", content=parts(), headers={**good, **JSON}), 413)
        head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer one\r\n"
        slow = head + "content-type: application/json\r\ncontent-length: 50\r\n\r\n{"
        assert b" 408 " in talk_raw(server.url, slow.encode())
        refused(client.get("/v1/models", headers={**good, "host": "evil.example"}), 403)
        assert client.get("/v1/models", headers={**good, "host": "[::1]:80"}).status_code == 200
        origin = {"origin": "https://a.example", "access-control-request-method": "POST"}
        asked = client.options("/v1/completions", headers=origin)
        assert asked.headers["access-control-allow-origin"] == "https://a.example"
        other = client.options("/v1/completions", headers={**origin, "origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers


def test_cors_is_closed_by_default(client: httpx.Client) -> None:
    for method in ("GET", "OPTIONS"):
        found = client.request(method, "/v1/models", headers={"origin": "https://a.example"})
        assert not [name for name in found.headers if name.startswith("access-control")]
