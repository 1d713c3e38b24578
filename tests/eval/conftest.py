"""A decoder with weights drawn at random and a tokenizer of a few words, for suites and the harness."""

from __future__ import annotations

from pathlib import Path

import pytest

from exnihilo import codec as codecs
from exnihilo.codec.base import Codec
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.interop import hf
from exnihilo.model import Model, build

TEXT = """The old fox lives in a small den by the river. Mia gave the red ball to Tom, and Tom had the ball.
Question: What is 3 + 4? Answer: It is 3 + 4 = 7. The answer is 7. Who had the ball in the end?
"""


@pytest.fixture(scope="session")
def little_codec() -> Codec:
    return codecs.train(CodecConfig(vocab_size=320), [TEXT] * 3)


@pytest.fixture(scope="session")
def little(little_codec: Codec) -> Model:
    shape = ModelConfig(depth=1, width=32, heads=2, vocab_size=little_codec.vocab_size, context=96)
    return build(shape, seed=3)


@pytest.fixture(scope="session")
def little_folder(little: Model, little_codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("little")
    hf.save(little, little_codec, folder)
    return folder
