"""Recipe ``masked_series``: an encoder of series from random weights: patches are hidden and found again.

``exnihilo train masked_series data=ETTh1.csv minutes=5 run=runs/seen``, then
``exnihilo train forecasting init=runs/seen data=ETTh1.csv``, with the same options of windows.
"""

from __future__ import annotations

from exnihilo.config import RunConfig
from exnihilo.recipes._serial import serial


def recipe() -> RunConfig:
    """Masked-patch pretraining; without ``data=`` it reads the embedded world, without a budget it takes ten
    minutes."""
    return serial("masked_series")
