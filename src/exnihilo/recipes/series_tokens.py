"""Recipe ``series_tokens``: a decoder that continues series bin by bin, in paths.

``exnihilo train series_tokens data=ETTh1.csv minutes=10 run=runs/paths``, then
``exnihilo predict runs/paths ETTh1.csv --out next.csv``.
"""

from __future__ import annotations

from exnihilo.config import CodecConfig, ModelConfig, RunConfig
from exnihilo.recipes._serial import serial


def recipe() -> RunConfig:
    """Next-bin prediction; without ``data=`` it reads the embedded world, without a budget it takes ten
    minutes."""
    return serial(
        "series_tokens",
        codec=CodecConfig(kind="ids", ids=1024),
        model=ModelConfig(family="qwen3", depth=2, width=64, heads=4, context=121),
    )
