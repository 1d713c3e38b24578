"""Recipe ``ctc``: what is said, in characters, from sounds with their texts.

``exnihilo train ctc data=speech.csv`` (columns of paths and texts), or a folder with ``a.wav`` and ``a.txt``.
An encoder from random weights, or with ``init=`` a pretrained one (recipe ``masked_sound``).
"""

from __future__ import annotations

from exnihilo.config import ModelConfig, RunConfig
from exnihilo.recipes._hearing import AUGMENT, hearing


def recipe() -> RunConfig:
    """Transcription by CTC; without ``data=`` it hears the embedded world, without a budget it takes 20
    epochs."""
    return hearing(
        "ctc",
        augment=AUGMENT,
        epochs=20,
        model=ModelConfig(family="modernbert", depth=4, width=128, heads=4, context=512),
    )
