"""Small models whose next tokens are far from equally likely, so that greedy choices have clear gaps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from exnihilo import codec as codecs
from exnihilo.codec.base import Codec
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.model import Model, build

FAMILIES = ("qwen3", "llama", "gpt2")


Maker = Callable[..., Model]


def _small(family: str, vocab: int = 97, context: int = 48, seed: int = 0) -> Model:
    kv_heads = 4 if family == "gpt2" else 2
    config = ModelConfig(
        family=family,
        depth=2,
        width=32,
        heads=4,
        mlp_width=48,
        vocab_size=vocab,
        context=context,
        kv_heads=kv_heads,
    )
    model = build(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


@pytest.fixture(scope="session")
def bytes_codec() -> Codec:
    return codecs.train(CodecConfig(kind="bytes"), ["text"])


@pytest.fixture(scope="session")
def make_model() -> Maker:
    """make_model(family, vocab=97, context=48, seed=0)"""
    return _small


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Model:
    return _small(request.param)
