"""Recipe ``caption``: a decoder that sees a picture and says what is on it.

``exnihilo train caption data=captions.csv`` (columns of paths and texts); with ``init=`` a decoder of text
learns to see.
"""

from __future__ import annotations

from exnihilo.config import CodecConfig, ModelConfig, RunConfig
from exnihilo.recipes._seeing import AUGMENT, seeing


def recipe() -> RunConfig:
    """Captions by a decoder; without ``data=`` it sees the embedded world, without a budget it takes 20
    epochs."""
    return seeing(
        "caption",
        augment=AUGMENT,
        epochs=20,
        codec=CodecConfig(kind="bpe", vocab_size=1024),
        model=ModelConfig(family="qwen3", depth=4, width=128, heads=4, context=256),
    )
