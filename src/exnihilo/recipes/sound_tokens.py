"""Recipe ``sound_tokens``: a decoder that continues sounds sample by sample.

``exnihilo train sound_tokens data=recordings/ minutes=10 run=runs/waves``, then
``exnihilo sample runs/waves max_new_tokens=8000 out=a.wav``.
"""

from __future__ import annotations

from exnihilo.config import CodecConfig, ModelConfig, RunConfig
from exnihilo.recipes._hearing import hearing


def recipe() -> RunConfig:
    """Next-sample prediction; without ``data=`` it hears the embedded world, without a budget it takes ten
    minutes."""
    return hearing(
        "sound_tokens",
        codec=CodecConfig(kind="waves"),
        model=ModelConfig(family="qwen3", depth=4, width=128, heads=4, context=512),
    )
