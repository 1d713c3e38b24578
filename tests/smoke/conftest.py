"""One tiny trained run for all smoke tests, made by the command line itself."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from exnihilo.cli import main

TINY = [
    "model.depth=1",
    "model.width=32",
    "model.heads=2",
    "model.context=32",
    "codec.vocab_size=300",
    "batch.tokens=128",
    "threads=1",
    "device=cpu",
    "compile=off",
    "eval.samples=1",
    "eval.tokens=1000000",
]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small folder of text."""
    folder = tmp_path_factory.mktemp("books")
    draw = random.Random(0)
    words = (
        "fox dog hill river sun rain old young red blue runs sleeps eats sees the a and by over under".split()
    )
    for number in range(40):
        lines = [" ".join(draw.choices(words, k=12)).capitalize() + "." for _ in range(12)]
        (folder / f"{number}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`exnihilo train gpt data=... run=...`, six steps."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    words = [
        "train",
        "gpt",
        f"data={corpus}",
        "data.val_fraction=0.2",
        "steps=6",
        f"run={run}",
        "eval.every=3",
    ]
    assert main([*words, *TINY]) == 0
    return run


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    """Prepared data goes where it is thrown away."""
    patch = pytest.MonkeyPatch()
    patch.setenv("EXNIHILO_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield None
    patch.undo()
