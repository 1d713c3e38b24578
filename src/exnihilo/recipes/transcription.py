"""Recipe ``transcription``: a decoder that hears a sound and writes what is said, or what is heard.

``exnihilo train transcription data=speech.csv``; with ``init=`` a decoder of text learns to hear.
"""

from __future__ import annotations

from exnihilo.config import CodecConfig, ModelConfig, RunConfig
from exnihilo.recipes._hearing import AUGMENT, hearing


def recipe() -> RunConfig:
    """Transcription by a decoder; without ``data=`` it hears the embedded world, without a budget it takes 20
    epochs."""
    return hearing(
        "transcription",
        augment=AUGMENT,
        epochs=20,
        codec=CodecConfig(kind="chars"),
        model=ModelConfig(family="qwen3", depth=4, width=128, heads=4, context=512),
    )
