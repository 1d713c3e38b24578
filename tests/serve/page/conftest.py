"""A real browser, without a screen; and a server with the page and the real one's endpoints, whose answers a
test can foresee.

Models: ``talk`` and ``talk@step-00000100`` (chats), ``base`` (goes on with texts), and an encoder for each
task. What a chat does is told by its last message: "slow" never ends, "busy" is refused, "break" ends early,
"fail" tells of an error in its midst; all else is answered by "You said: ...". What was asked is kept in
`Fake.asked`, streams whose reader went away are counted in `Fake.gone`.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from fastapi import FastAPI
    from playwright.sync_api import Browser, Page
    from starlette.requests import Request
    from starlette.responses import Response

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESK: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}}

TASKS = {
    "sentiment": ("sentence_classification", "/v1/classify"),
    "pairs": ("pair_classification", "/v1/pair"),
    "qa": ("span_qa", "/v1/answer"),
    "tags": ("token_tagging", "/v1/tag"),
    "tags-old": ("token_tagging", "/v1/tag"),
    "bert": ("masked_lm", "/v1/fill-mask"),
    "ranker": ("rerank", "/v1/rerank"),
    "vectors": ("embeddings", "/v1/embeddings"),
    "ears": ("sound_classification", "/v1/classify"),
    "eyes": ("picture_classification", "/v1/classify"),
}
OTHERS = [(" other", -3.0), ("<b>markup</b>", -4.0)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, started once for a file of tests."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def fake() -> Iterator[Fake]:
    """The server, anew for each test."""
    pytest.importorskip("uvicorn", reason="the extra serve is not installed")
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    with Fake() as fake:
        yield fake


@pytest.fixture
def opened(browser: Browser, fake: Fake) -> Iterator[Callable[..., Page]]:
    """Opens the page, on a desk unless told otherwise. Whatever it does, it must not complain, and must ask
    its own server only."""
    wrong: list[str] = []
    contexts = []

    def foreign(url: str) -> bool:
        return not url.startswith((fake.url, "data:"))

    def open_page(**settings: Any) -> Page:
        context = browser.new_context(**(settings or DESK))
        contexts.append(context)
        context.set_default_timeout(20_000)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("request", lambda asked: wrong.append(asked.url) if foreign(asked.url) else None)
        page.goto(fake.url)
        page.get_by_role("tab").first.wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    refused = "Failed to load resource"  # the browser's word for answers of 400 and above
    assert not [line for line in wrong if not line.startswith(refused)]


class Fake:
    """The server, in a thread of its own; `url` is where it listens."""

    def __init__(self) -> None:
        import uvicorn

        self.asked: list[dict[str, Any]] = []
        self.gone = 0
        self.url = ""
        self.key: str | None = None
        self.context = 10_000  # characters of a conversation
        self.config = uvicorn.Config(self._app(), host="127.0.0.1", port=0, log_level="warning", ws="none")
        self.server = uvicorn.Server(self.config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self) -> Fake:
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/"
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(10)

    def _app(self) -> FastAPI:
        from fastapi import FastAPI
        from starlette.responses import JSONResponse

        from exnihilo.serve import page

        app = FastAPI(docs_url=None)
        app.include_router(page.router())

        async def models(request: Request) -> Response:
            if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
                return refusal(401, "an API key is needed", "no_key")
            cards = [card("talk", "sft", "/v1/completions", "/v1/chat/completions")]
            cards += [card("talk@step-00000100", "sft", "/v1/completions", "/v1/chat/completions")]
            cards += [card("base", "causal_lm", "/v1/completions")]
            cards += [card(name, task, path) for name, (task, path) in TASKS.items()]
            return JSONResponse({"object": "list", "data": cards})

        async def chat(request: Request) -> Response:
            body = await request.json()
            self.asked.append(body)
            said = body["messages"][-1]["content"]
            if said == "busy":
                return refusal(429, "the queue is full", "queue_full", {"Retry-After": "7"})
            if sum(len(m["content"]) for m in body["messages"]) > self.context:
                return refusal(400, "a prompt of 99 tokens, the context is 50", "context_length_exceeded")
            return sse(self._stream(body, said))

        async def completions(request: Request) -> Response:
            body = await request.json()
            self.asked.append(body)
            return sse(self._texts(body))

        app.add_route("/v1/models", models, methods=["GET"])
        app.add_route("/v1/chat/completions", chat, methods=["POST"])
        app.add_route("/v1/completions", completions, methods=["POST"])
        for name in ("classify", "pair", "answer", "tag", "fill-mask", "rerank", "embeddings"):
            app.add_route(f"/v1/{name}", self._encoder(name), methods=["POST"])
        return app

    async def _stream(self, body: dict[str, Any], said: str) -> AsyncIterator[bytes]:
        if said == "slow":
            try:
                while True:
                    yield chunk("word ", [fact("word ", -0.5)])
                    await asyncio.sleep(0.02)
            finally:
                self.gone += 1
        reply = f"You said: {said}"
        words = reply.split(" ")
        for number, word in enumerate(words):
            text = word if number == 0 else f" {word}"
            parts = [fact(text, -0.1 * number)] if body.get("logprobs") else []
            if parts and not text.isascii():  # as bytes, one token each
                parts = [fact(f"bytes:\\x{b:02x}", -1.0, [b]) for b in text.encode()]
            if said == "break" and number == 2:
                return
            if said == "fail" and number == 2:
                yield data(
                    {"error": {"message": "the engine failed at this request", "code": "engine_failed"}}
                )
                return
            yield chunk(text, parts)
        yield data({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": None})
        yield data({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": len(words)}})
        yield b"data: [DONE]\n\n"

    async def _texts(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        for token, text in ((" a", " a"), ("bytes:\\xc3", ""), ("bytes:\\xa9", "é"), (" b", " b")):
            facts = {"tokens": [token], "token_logprobs": [-0.2], "top_logprobs": [{token: -0.2, " z": None}]}
            last = "length" if token == " b" else None
            yield data({"choices": [{"index": 0, "text": text, "logprobs": facts, "finish_reason": last}]})
        yield b"data: [DONE]\n\n"

    def _encoder(self, name: str) -> Any:
        from starlette.responses import JSONResponse

        async def answer(request: Request) -> Response:
            body = await request.json()
            self.asked.append({**body, "path": name})
            return JSONResponse(predictions(name, body))

        return answer


def card(name: str, task: str, *where: str) -> dict[str, Any]:
    """As /v1/models tells of a model."""
    kind = "encoder" if name in TASKS else "decoder"
    return {
        "id": name, "object": "model", "created": 1, "owned_by": "exnihilo", "kind": kind, "task": task,
        "chat": len(where) == 2, "context": 128, "endpoints": list(where),
    }  # fmt: skip


def refusal(status: int, message: str, code: str, headers: dict[str, str] | None = None) -> Response:
    """An error in OpenAI's shape."""
    from starlette.responses import JSONResponse

    return JSONResponse({"error": {"message": message, "code": code}}, status, headers)


def fact(token: str, logprob: float, raw: list[int] | None = None) -> dict[str, Any]:
    """A token as chats tell of it."""
    top = [(token, logprob, raw), *((t, p, None) for t, p in OTHERS)]
    return {
        "token": token, "logprob": logprob, "bytes": raw or list(token.encode()),
        "top_logprobs": [{"token": t, "logprob": p, "bytes": b or list(t.encode())} for t, p, b in top],
    }  # fmt: skip


def chunk(text: str, facts: list[dict[str, Any]]) -> bytes:
    """A piece of a chat's answer."""
    logprobs = {"content": facts} if facts else None
    return data(
        {"choices": [{"index": 0, "delta": {"content": text}, "logprobs": logprobs, "finish_reason": None}]}
    )


def data(value: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


def sse(events: AsyncIterator[bytes]) -> Response:
    """A stream of events, cut wherever it falls: every 7 bytes."""
    from starlette.responses import StreamingResponse

    async def cut() -> AsyncIterator[bytes]:
        async for event in events:
            for at in range(0, len(event), 7):
                yield event[at : at + 7]

    return StreamingResponse(cut(), media_type="text/event-stream")


def predictions(name: str, body: dict[str, Any]) -> dict[str, Any]:
    """What the encoders of the fake answer."""
    if name == "embeddings":
        vectors = [[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]
        found = [{"index": i, "embedding": vectors[i % 3]} for i in range(len(body["input"]))]
        return {"object": "list", "model": body["model"], "data": found}
    if name == "rerank":
        count = len(body["documents"])
        results = [
            {"index": i, "relevance_score": 0.9 - 0.2 * n} for n, i in enumerate(reversed(range(count)))
        ]
        return {"model": body["model"], "results": results}
    return {"model": body["model"], "data": [{"index": 0, **prediction(name, body)}]}


def prediction(name: str, body: dict[str, Any]) -> dict[str, Any]:
    """Of one example."""
    given = body["input"]
    if name == "classify":
        return {"label": "positive", "probabilities": {"negative": 0.1, "neutral": 0.2, "positive": 0.7}}
    if name == "pair":
        return {"label": "neutral", "probabilities": {"entailment": 0.3, "neutral": 0.7}}
    if name == "fill-mask":
        gaps = [
            [{"token": "cat", "id": 5, "probability": 0.8}, {"token": "dog", "id": 6, "probability": 0.1}]
        ]
        return {"text": given.replace("[MASK]", "cat"), "gaps": gaps}
    if name == "answer":
        context = given["context"]
        best, second = context.index("Mia"), context.index("Rome")
        nbest = [
            {"text": "Mia", "start": best, "end": best + 3, "probability": 0.8},
            {"text": "Rome", "start": second, "end": second + 4, "probability": 0.1},
        ]
        return {**nbest[0], "answer": "Mia", "no_answer_probability": 0.05, "nbest": nbest}
    spans = [
        {"start": at, "end": at + len(word), "label": label, "text": word, "probability": 0.9}
        for word, label in (("Mia", "PERSON"), ("Rome", "PLACE"))
        if (at := given.find(word)) >= 0
    ]
    return {"text": given, "spans": spans}
