"""Recipe ``series_classification``: what a series is: a table with a row a series, or a folder of files a
label.

``exnihilo train series_classification data=train.csv val=test.csv`` (a column ``label``, the others numbers).
"""

from __future__ import annotations

from exnihilo.config import BatchConfig, RunConfig
from exnihilo.recipes._serial import serial


def recipe() -> RunConfig:
    """Series classification; without ``data=`` it reads the embedded world, without a budget it takes 30
    epochs."""
    return serial("series_classification", batch=BatchConfig(tokens=512), epochs=30)
