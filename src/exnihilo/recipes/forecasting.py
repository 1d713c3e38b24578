"""Recipe ``forecasting``: the next values of a series in quantiles, from a table whose rows are moments.

``exnihilo train forecasting data=ETTh1.csv options.history=336 options.horizon=96 run=runs/etth1``, then
``exnihilo eval runs/etth1 data=ETTh1.csv:test`` and ``exnihilo predict runs/etth1 ETTh1.csv --out next.csv``.
"""

from __future__ import annotations

from exnihilo.config import BatchConfig, CheckpointConfig, EvalConfig, RunConfig
from exnihilo.recipes._serial import serial


def recipe() -> RunConfig:
    """Forecasting; without ``data=`` it reads the embedded world, without a budget it takes ten minutes.

    A series is soon learnt by heart: the run ends with the averaged weights of the step at which the
    validation part was forecast best.
    """
    return serial(
        "forecasting",
        dropout=0.3,
        batch=BatchConfig(tokens=4096),
        ema=0.98,
        eval=EvalConfig(every=100, tokens=20_000),
        checkpoint=CheckpointConfig(use="best"),
    )
