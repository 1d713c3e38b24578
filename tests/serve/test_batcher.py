"""An encoder for many readers: one batch of what waits, exact results, failures that harm nobody else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from exnihilo.predictions.run import load_run
from exnihilo.serve.batcher import Batcher
from exnihilo.serve.errors import ApiError
from exnihilo.serve.settings import Settings
from exnihilo.serve.tickets import Full

TEXTS = ["the cat sat", "hello", "a dog ran in the park", "big world", "the mat"]


class Held:
    """A predictor under control: it waits, fails at a word, and tells how large its batches were."""

    def __init__(self, predictor: Any) -> None:
        self._predictor, self.sizes, self.go = predictor, [], threading.Event()
        self.go.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._predictor, name)

    def answers(self, examples: Any) -> Any:
        self.go.wait()
        self.sizes.append(len(examples))
        if any(text == "hello" and self.broken for text in examples):
            raise RuntimeError("injected")
        return self._predictor.answers(examples)

    broken = False


@pytest.fixture
def held(runs: dict[str, Path]) -> Iterator[tuple[Batcher, Held]]:
    predictor = Held(load_run(runs["vectors"]).predictor())
    batcher = Batcher("vectors", predictor, queue=8)  # type: ignore[arg-type]
    yield batcher, predictor
    predictor.go.set()
    batcher.retire()
    assert batcher.join(10)


async def until(true: Callable[[], bool]) -> None:
    """Waits for what the batcher's thread does in its own time."""
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.005)


def vectors(found: Any) -> np.ndarray:
    return np.asarray([each["embedding"] for each in found], np.float32)


def test_what_waits_is_one_batch_and_each_gets_its_own(
    held: tuple[Batcher, Held], runs: dict[str, Path]
) -> None:
    batcher, predictor = held

    async def ask() -> Any:
        predictor.go.clear()
        asked = [asyncio.create_task(batcher.predict([TEXTS[0]]))]
        await until(lambda: batcher.active == 1)
        asked += [asyncio.create_task(batcher.predict([text])) for text in TEXTS[1:]]
        await until(lambda: batcher.waiting == 4)
        predictor.go.set()
        return await asyncio.gather(*asked)

    found = asyncio.run(ask())
    assert predictor.sizes == [1, 4]
    np.testing.assert_allclose(
        vectors([f[0] for f in found]), load_run(runs["vectors"]).embed(TEXTS), rtol=1e-5, atol=1e-6
    )


def test_only_the_request_at_fault_fails_and_who_left_is_left_out(
    held: tuple[Batcher, Held], capfd: pytest.CaptureFixture[str]
) -> None:
    batcher, predictor = held
    predictor.broken = True

    async def ask() -> Any:
        predictor.go.clear()
        first = asyncio.create_task(batcher.predict(["the mat"]))
        await until(lambda: batcher.active == 1)
        asked = [asyncio.create_task(batcher.predict([text])) for text in TEXTS[:3]]
        await until(lambda: batcher.waiting == 3)
        asked[2].cancel()
        await until(asked[2].done)
        predictor.go.set()
        return await asyncio.gather(first, *asked, return_exceptions=True)

    first, good, bad, left = asyncio.run(ask())
    assert len(first) == len(good) == 1 and isinstance(left, asyncio.CancelledError)
    assert isinstance(bad, ApiError) and bad.status == 500
    assert predictor.sizes == [1, 2, 1, 1] and "injected" in capfd.readouterr().err


def test_the_bound_the_time_and_the_end(held: tuple[Batcher, Held]) -> None:
    batcher, predictor = held

    async def ask() -> None:
        predictor.go.clear()
        first = asyncio.create_task(batcher.predict(["a"]))
        await until(lambda: batcher.active == 1)
        waiting = asyncio.create_task(batcher.predict(["a"] * 8))
        late = asyncio.create_task(batcher.predict([], seconds=0.05))
        await asyncio.sleep(0.1)  # the late one's time is over, and the first one's thread is stuck
        await until(lambda: batcher.waiting == 8)
        assert batcher.active == 1 and batcher.stuck > 0.1
        with pytest.raises(Full):
            await batcher.predict(["a"])
        urgent = asyncio.create_task(batcher.predict(["a"], urgent=True))
        await until(lambda: batcher.waiting == 9)
        predictor.go.set()
        assert len(await first) == 1 and len(await waiting) == 8 and len(await urgent) == 1
        with pytest.raises(ApiError) as caught:
            await late
        assert caught.value.status == 504
        predictor.go.clear()
        going = asyncio.create_task(batcher.predict(["a"]))
        await until(lambda: batcher.active == 1 and batcher.waiting == 0)
        cut = asyncio.create_task(batcher.predict(["b"]))
        await until(lambda: batcher.waiting == 1)
        assert batcher.abort(ApiError("down", status=503)) == 1
        with pytest.raises(ApiError) as caught:
            await cut
        assert caught.value.status == 503
        predictor.go.set()
        assert len(await going) == 1

    asyncio.run(ask())


def test_more_alternatives_for_those_who_ask(runs: dict[str, Path], tmp_path: Path) -> None:
    from exnihilo import codec as codecs
    from exnihilo.config import CodecConfig, ModelConfig
    from exnihilo.interop import hf
    from exnihilo.model import build, resolve

    codec = codecs.train(CodecConfig(kind="wordpiece", vocab_size=60), TEXTS * 9)
    config = ModelConfig(family="bert", depth=1, width=16, heads=2, context=40, outputs=("mlm",))
    model = build(resolve(config, codec.vocab_size), seed=1)
    hf.save(model, codec, tmp_path, objective={"objective": "masked_lm", "options": {}, "facts": {}})
    batcher = Batcher("gaps", load_run(tmp_path).predictor())

    async def ask() -> Any:
        sizes = (None, 2, 9, None)
        return await asyncio.gather(*(batcher.predict(["the [MASK] sat"], top_k=k) for k in sizes))

    found = asyncio.run(ask())
    assert [len(f[0]["gaps"][0]) for f in found] == [5, 2, 9, 5]
    batcher.retire()


def test_an_encoder_that_fails_is_not_ready(
    runs: dict[str, Path],
    serving: Callable[..., Any],
    eventually: Callable[..., bool],
    capfd: pytest.CaptureFixture[str],
) -> None:
    settings = Settings(reload=0, ready_after=1)
    with serving([runs["vectors"]], settings) as server, server.client() as client:
        batcher = server.shelf.get("vectors").batcher
        batcher.predictor = held = Held(batcher.predictor)
        asked: dict[str, Any] = {"model": "vectors", "input": "hello"}
        assert client.post("/v1/embeddings", json=asked).status_code == 200
        held.broken = True
        failed = client.post("/v1/embeddings", json=asked)
        assert failed.status_code == 500 and failed.json()["error"]["code"] == "engine_failed"
        assert client.get("/health/ready").status_code == 200  # another text is answered
        held.go.clear()
        with pytest.raises(httpx.TimeoutException):
            client.post("/v1/embeddings", json={**asked, "input": "a"}, timeout=0.2)
        assert eventually(lambda: batcher.stuck > settings.ready_after)
        assert client.get("/health/ready").status_code == 503
        held.go.set()
    assert "injected" in capfd.readouterr().err
