"""Recipe ``picture_tokens``: a decoder that draws pictures pixel by pixel.

``exnihilo train picture_tokens data=pictures/ minutes=10 run=runs/pixels``, then
``exnihilo sample runs/pixels n=4 out=a.png``.
"""

from __future__ import annotations

from exnihilo.config import CodecConfig, ModelConfig, RunConfig
from exnihilo.recipes._seeing import seeing


def recipe() -> RunConfig:
    """Next-pixel prediction; without ``data=`` it sees the embedded world, without a budget it takes ten
    minutes."""
    return seeing(
        "picture_tokens",
        codec=CodecConfig(kind="waves"),
        model=ModelConfig(family="gpt2", depth=4, width=128, heads=4, context=1025),
    )
