"""Many at once, readers that leave at every phase, slow readers, engines that fail, the queue's bound."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from exnihilo.serve.settings import Settings

TEXT = {"model": "base", "prompt": "Once", "max_tokens": 200, "temperature": 0}
Serving = Callable[..., Any]
Eventually = Callable[..., bool]


def idle(server: Any) -> Callable[[], bool]:
    """Whether every slot is free and nobody waits."""
    workers = [served.worker for served in server.shelf.all() if served.worker is not None]
    return lambda: all(w.active == 0 and w.waiting == 0 and w.kv_use == 0 for w in workers)


class Slow:
    """An engine that takes its time, or fails, at will."""

    def __init__(self, engine: Any) -> None:
        self._engine, self.pause, self.fail, self.hold = engine, 0.0, 0, threading.Event()
        self.hold.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def step(self) -> Any:
        self.hold.wait()
        time.sleep(self.pause)
        if self.fail:
            self.fail -= 1
            raise RuntimeError("injected")
        return self._engine.step()


def slowed(server: Any, pause: float = 0.0) -> Slow:
    """The first model's engine, under control."""
    worker = server.shelf.all()[0].worker
    engine = worker.engine = Slow(worker.engine)
    engine.pause = pause
    return engine


def test_above_the_queues_bound_requests_get_429_and_none_below(
    runs: dict[str, Path], serving: Serving, eventually: Eventually
) -> None:
    with serving([runs["base"]], Settings(slots=2, queue=3, reload=0)) as server:
        engine = slowed(server)
        engine.hold.clear()

        async def burst() -> list[httpx.Response]:
            async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
                asked = [
                    asyncio.create_task(client.post("/v1/completions", json={**TEXT, "max_tokens": 3}))
                    for _ in range(12)
                ]
                async with asyncio.timeout(30):
                    while sum(task.done() for task in asked) < 7:  # refused at once; the others wait
                        await asyncio.sleep(0.01)
                engine.hold.set()
                return await asyncio.gather(*asked)

        found = asyncio.run(burst())
        statuses = sorted(r.status_code for r in found)
        assert statuses == [200] * 5 + [429] * 7
        for response in found:
            if response.status_code == 429:
                assert int(response.headers["retry-after"]) >= 1
                assert response.json()["error"]["code"] == "queue_full"
        assert eventually(idle(server))
        with server.client() as client:
            too_many = client.post("/v1/completions", json={**TEXT, "n": 6})
            assert too_many.status_code == 400 and "5" in too_many.json()["error"]["message"]


def test_readers_that_leave_at_every_phase_free_their_slots(
    runs: dict[str, Path], serving: Serving, eventually: Eventually
) -> None:
    with serving([runs["base"]], Settings(slots=2, queue=8, reload=0)) as server:
        engine = slowed(server, pause=0.01)

        def leave(stream: bool, after: float, reads: int, cut: int | None = None) -> None:
            body = json.dumps({**TEXT, "stream": stream, "n": 2}).encode()
            head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            data = head + b"content-length: %d\r\n\r\n" % len(body) + body
            host, _, port = server.url.removeprefix("http://").partition(":")
            with socket.create_connection((host, int(port)), timeout=10) as wire:
                wire.sendall(data[:cut])
                time.sleep(after)
                for _ in range(reads):
                    wire.recv(4096)

        for stream in (False, True):
            leave(stream, 0, 0, cut=20)  # in the head
            leave(stream, 0, 0, cut=-5)  # in the body
            leave(stream, 0, 0)  # at once
            leave(stream, 0.1, 0)  # while it is written
            assert eventually(idle(server))
        leave(True, 0.1, 1)  # after the head
        leave(True, 0.1, 3)  # in the middle
        assert eventually(idle(server))
        engine.hold.clear()  # while it waits in the queue
        for _ in range(4):
            leave(True, 0.05, 0)
        worker = server.shelf.all()[0].worker
        assert eventually(lambda: all(t.gone for t in (*worker._inbox, *worker._seen)))
        engine.hold.set()
        assert eventually(idle(server))
        with server.client() as client:
            assert client.post("/v1/completions", json={**TEXT, "max_tokens": 2}).status_code == 200
            counted = client.get("/metrics").text
        assert 'exnihilo_disconnects_total{path="/v1/completions"}' in counted


def test_many_streams_with_a_tenth_leaving(server: Any, eventually: Eventually) -> None:
    async def one(client: httpx.AsyncClient, number: int) -> str:
        body = {**TEXT, "prompt": "Once" * (1 + number % 9), "max_tokens": 5 + number % 40, "stream": True}
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            assert answer.status_code == 200
            last = ""
            async for line in answer.aiter_lines():
                if number % 10 == 0:
                    return "left"
                last = line or last
        return last

    async def all_of_them() -> list[str]:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
            return await asyncio.gather(*(one(client, number) for number in range(64)))

    found = asyncio.run(all_of_them())
    assert [f == "left" for f in found] == [n % 10 == 0 for n in range(64)]
    assert all(f in ("left", "data: [DONE]") for f in found)
    assert eventually(idle(server))


def test_an_engine_that_fails_harms_its_own_requests_and_recovers(
    runs: dict[str, Path], serving: Serving, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving([runs["base"]], Settings(slots=2, queue=8, reload=0)) as server, server.client() as client:
        before = client.post("/v1/completions", json={**TEXT, "max_tokens": 5}).json()["choices"]
        engine = slowed(server)
        engine.fail = 1
        failed = client.post("/v1/completions", json={**TEXT, "max_tokens": 5})
        assert failed.status_code == 500 and failed.json()["error"]["code"] == "engine_failed"
        again = client.post("/v1/completions", json={**TEXT, "max_tokens": 5})
        assert again.status_code == 200 and again.json()["choices"] == before
        engine = slowed(server)

        async def burst() -> list[httpx.Response]:
            async with httpx.AsyncClient(base_url=server.url, timeout=30) as many:
                engine.hold.clear()
                asked = [
                    asyncio.create_task(many.post("/v1/completions", json={**TEXT, "max_tokens": 5}))
                    for _ in range(6)
                ]
                await asyncio.sleep(0.3)
                engine.fail = 1
                engine.hold.set()
                return await asyncio.gather(*asked)

        statuses = [r.status_code for r in asyncio.run(burst())]
        assert 1 <= statuses.count(500) <= 2  # those in the engine fail, those who waited do not
        assert statuses.count(200) == 6 - statuses.count(500)
        worker = server.shelf.all()[0].worker
        build, worker._build = worker._build, lambda: 1 / 0
        slowed(server).fail = 1
        assert client.post("/v1/completions", json=TEXT).status_code == 500
        assert client.post("/v1/completions", json=TEXT).status_code == 500  # it cannot be built
        assert client.get("/health/ready").status_code == 503
        worker._build = build
        assert client.post("/v1/completions", json={**TEXT, "max_tokens": 5}).json()["choices"] == before
        assert client.get("/health/ready").status_code == 200
        assert "exnihilo_engine_failures_total" in client.get("/metrics").text
    assert "injected" in capfd.readouterr().err


def test_a_stream_that_fails_in_the_middle_says_so(runs: dict[str, Path], serving: Serving) -> None:
    openai = pytest.importorskip("openai", reason="needs the package 'openai'")
    with serving([runs["base"]], Settings(slots=2, reload=0)) as server:
        engine = slowed(server, pause=0.03)
        ai = openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0)
        with ai, pytest.raises(openai.APIError, match="engine failed"):
            for number, _ in enumerate(ai.completions.create(**TEXT, stream=True)):
                if number == 1:
                    engine.fail = 1


def test_an_engine_that_hangs_is_alive_and_not_ready(
    runs: dict[str, Path], serving: Serving, eventually: Eventually
) -> None:
    settings = Settings(slots=2, reload=0, ready_after=0.2, timeout=30)
    with serving([runs["base"]], settings) as server, server.client() as client:
        assert client.get("/health/ready").json() == {"status": "ready", "models": {"base": "ready"}}
        engine = slowed(server)
        engine.hold.clear()
        with pytest.raises(httpx.TimeoutException):
            client.post("/v1/completions", json=TEXT, timeout=0.4)
        assert client.get("/health/live").status_code == 200
        worker = server.shelf.all()[0].worker
        assert eventually(lambda: worker.stuck > settings.ready_after)
        found = client.get("/health/ready")
        assert found.status_code == 503 and "no step" in found.json()["models"]["base"]
        engine.hold.set()
        assert eventually(lambda: client.get("/health/ready").status_code == 200)


def test_a_request_that_takes_too_long_gets_504(
    runs: dict[str, Path], serving: Serving, eventually: Eventually
) -> None:
    settings = Settings(slots=1, reload=0, timeout=0.3)
    with serving([runs["base"]], settings) as server, server.client() as client:
        slowed(server, pause=0.02)
        found = client.post("/v1/completions", json=TEXT)
        assert found.status_code == 504 and found.json()["error"]["code"] == "timeout"
        with client.stream("POST", "/v1/completions", json={**TEXT, "stream": True}) as answer:
            last = [line for line in answer.iter_lines() if line][-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"
        assert eventually(idle(server))


def test_a_reader_that_does_not_read_is_cut(
    runs: dict[str, Path], serving: Serving, eventually: Eventually
) -> None:
    settings = Settings(slots=4, queue=4, reload=0, write_timeout=0.3, body_bytes=1 << 22)
    with serving([runs["talk"]], settings) as server, server.client() as client:
        body: dict[str, Any] = {
            "model": "talk",
            "prompt": "a",
            "n": 2,
            "max_tokens": 500,
            "logprobs": 5,
            "stream": True,
        }
        body["logit_bias"] = {"2": -100, "4": -100}  # no end before its time
        host, _, port = server.url.removeprefix("http://").partition(":")
        with socket.socket() as wire:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            wire.connect((host, int(port)))
            data = json.dumps(body).encode()
            head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            wire.sendall(head + b"content-length: %d\r\n\r\n" % len(data) + data)
            quick = client.post("/v1/completions", json={**TEXT, "model": "talk", "max_tokens": 3})
            assert quick.status_code == 200  # the others do not wait for it
            connections = server._server.server_state.connections
            assert eventually(lambda: len(connections) <= 1)
            assert eventually(idle(server))
