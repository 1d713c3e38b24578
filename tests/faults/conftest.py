"""A small run that takes about a second, its cache in a temporary folder (for faults of runs)."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exnihilo.config import BatchConfig, CodecConfig, EvalConfig, ModelConfig, RunConfig

Make = Callable[..., RunConfig]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few hundred short documents from a fixed seed."""
    draw = random.Random(5)
    words = ["".join(draw.choice("aeiklmnorst") for _ in range(draw.randint(2, 6))) for _ in range(40)]
    text = "\n\n".join(" ".join(draw.choice(words) for _ in range(draw.randint(4, 20))) for _ in range(400))
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text(text)
    return path


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def make(corpus: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A configuration with every measured choice given; keywords replace its values."""
    monkeypatch.setenv("EXNIHILO_CACHE", str(cache))

    def build(run: Path, **values: Any) -> RunConfig:
        base: dict[str, Any] = {
            "run": str(run),
            "data": str(corpus),
            "codec": CodecConfig(kind="bytes"),
            "model": ModelConfig(depth=1, width=32, context=32),
            "batch": BatchConfig(tokens=256, micro_tokens=128),
            "eval": EvalConfig(every=100, tokens=128, samples=0),
            "steps": 6,
            "threads": 1,
            "dtype": "fp32",
            "compile": "off",
        }
        return RunConfig(**{**base, **values})

    return build
