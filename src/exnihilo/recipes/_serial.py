"""What the recipes of series share: marks instead of a tokenizer, a small encoder with rotary positions."""

from __future__ import annotations

from typing import Any

from exnihilo.config import (
    BatchConfig,
    CodecConfig,
    DataConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    ScheduleConfig,
    SourceConfig,
)


def serial(
    name: str, *, options: dict[str, Any] | None = None, dropout: float = 0.1, **values: Any
) -> RunConfig:
    """The recipe of an objective of series: an encoder of 2 layers × 64 on the embedded world's series.

    Args:
        name: of the recipe, and of its objective.
        options: of the objective.
        dropout: of the model.
    """
    given: dict[str, Any] = {
        "codec": CodecConfig(kind="marks"),
        "model": ModelConfig(family="modernbert", depth=2, width=64, heads=4, context=256, dropout=dropout),
        "optim": OptimConfig(name="muon", schedule=ScheduleConfig(name="linear", warmup=0.05)),
        "batch": BatchConfig(tokens=2048),
        **values,
    }
    return RunConfig(
        recipe=name,
        objective=name,
        options=options or {},
        data=DataConfig(sources=(SourceConfig(path="world"),)),
        **given,
    )
