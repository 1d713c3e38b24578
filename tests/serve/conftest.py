"""Small models in folders, and real servers over them, each on a port of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from exnihilo import codec as codecs
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.interop import hf
from exnihilo.model import Model, build, resolve
from exnihilo.serve.app import create_app
from exnihilo.serve.models import Shelf
from exnihilo.serve.run import make_server
from exnihilo.serve.settings import Settings

TEXTS = ["the cat sat on the mat", "a dog ran in the park", "hello, big world"] * 20


def _shaken(model: Model, seed: int, scale: float) -> Model:
    """Weights large enough that next tokens are far from equally likely."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


def write_decoder(folder: Path, *, objective: str = "causal_lm", seed: int = 0, context: int = 256) -> Path:
    """A folder of a decoder that writes nonsense, and never eos by itself for long."""
    codec = codecs.train(CodecConfig(kind="bytes"), TEXTS)
    config = ModelConfig(family="qwen3", depth=2, width=32, heads=2, mlp_width=48, context=context)
    model = _shaken(build(resolve(config, codec.vocab_size), seed=seed), seed, 0.3)
    hf.save(model, codec, folder, objective={"objective": objective, "options": {}, "facts": {}})
    return folder


def write_encoder(folder: Path) -> Path:
    """A folder of an encoder that gives vectors."""
    codec = codecs.train(CodecConfig(kind="wordpiece", vocab_size=60), TEXTS)
    config = ModelConfig(family="bert", depth=2, width=32, heads=2, context=40, outputs=("embedding",))
    model = _shaken(build(resolve(config, codec.vocab_size), seed=1), 1, 0.2)
    what = {"objective": "embeddings", "options": {}, "length": 40, "facts": {}}
    hf.save(model, codec, folder, objective=what)
    return folder


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders: base and talk (decoders), vectors (an encoder)."""
    root = tmp_path_factory.mktemp("runs")
    return {
        "base": write_decoder(root / "base"),
        "talk": write_decoder(root / "talk", objective="sft", seed=3, context=1024),
        "vectors": write_encoder(root / "vectors"),
    }


class Running:
    """A server in a thread.

    Attributes:
        url: its address. shelf: its models. app: its application.
    """

    def __init__(self, shelf: Shelf) -> None:
        self.shelf, self.app = shelf, create_app(shelf)
        self._server = make_server(self.app, shelf.settings)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)  # slow readers are soon noticed
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)

    def _run(self) -> None:
        asyncio.run(self._server.serve([self._socket]))

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()

    def client(self, **more: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, **more)


@contextmanager
def running(paths: list[Path], settings: Settings) -> Iterator[Running]:
    """A server over these folders."""
    server = Running(Shelf.open(paths, settings))
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def server(runs: dict[str, Path]) -> Iterator[Running]:
    """One server for all tests that leave it as it was."""
    with running(list(runs.values()), Settings(slots=8, queue=64, reload=0, max_new_tokens=512)) as found:
        yield found


@pytest.fixture(scope="session")
def serving() -> Callable[..., Any]:
    """`running`, for tests that need a server of their own."""
    return running


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    with server.client() as found:
        yield found


def until(true: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Waits for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture(scope="session")
def eventually() -> Callable[..., bool]:
    return until


@pytest.fixture(scope="session")
def decoder() -> Callable[..., Path]:
    return write_decoder
