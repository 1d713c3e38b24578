"""A byte-level encoder and a private cache: preparation without a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from exnihilo import log
from exnihilo.config import DataConfig
from exnihilo.data import Example, Item, Splits, prepare

BOS, EOS, SHIFT = 1, 2, 3


def encode_bytes(examples: Sequence[Example]) -> list[list[Item]]:
    """[bos] + bytes + [eos]; parts of a long document get their marks only at its two ends."""
    out: list[list[Item]] = []
    for example in examples:
        body = np.frombuffer(example["text"].encode(), np.uint8).astype(np.int64) + SHIFT
        first = [BOS] if example.get("_begin", True) else []
        last = [EOS] if example.get("_end", True) else []
        out.append([{"tokens": np.concatenate([first, body, last]).astype(np.int64)}])
    return out


def decode_bytes(tokens: np.ndarray) -> str:
    return bytes((tokens[tokens >= SHIFT] - SHIFT).astype(np.uint8)).decode("utf-8", "replace")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What the project says meanwhile."""
    lines: list[str] = []
    with log.listen(lines.append):
        yield lines


@pytest.fixture
def prep(cache: Path, said: list[str]) -> Callable[..., Splits]:
    """`prepare` with bytes as tokens, a small context and a cache of its own."""

    def run(source: object, val: object = None, **options: object) -> Splits:
        data = {k: options.pop(k) for k in list(options) if k in DataConfig.model_fields}
        sources = str(source) if isinstance(source, Path) else source
        config = DataConfig.model_validate({"sources": sources, **data})
        apart = None if val is None else DataConfig.model_validate({"sources": str(val)})
        given = {"encode": encode_bytes, "key": "bytes", "context": 16, "seed": 0, "cache": cache, **options}
        return prepare(config, apart, **given)  # type: ignore[arg-type]

    return run
