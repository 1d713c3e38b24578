"""Recipe ``recall``: a small decoder from random weights on a task whose truth is known.

``exnihilo train recall data=recall:needle run=runs/needle``, then ``exnihilo probe runs/needle``, which
judges its own map. Tasks: copy_first, copy_last, copy_marked, associative_recall, induction, needle,
variable_tracking. Of another length: ``data=recall:needle:256 model.context=256``.
"""

from __future__ import annotations

from exnihilo.config import (
    BatchConfig,
    CodecConfig,
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    ScheduleConfig,
    SourceConfig,
)


def recipe() -> RunConfig:
    """Recall in 32 tokens; without ``data=`` it looks for a needle, without a budget it takes 1,000 steps."""
    return RunConfig(
        recipe="recall",
        objective="recall",
        data=DataConfig(sources=(SourceConfig(path="recall:needle"),)),
        codec=CodecConfig(kind="chars", sample_mb=1.0),
        model=ModelConfig(family="qwen3", depth=2, width=64, heads=4, context=32),
        optim=OptimConfig(schedule=ScheduleConfig(name="linear", warmup=0.05)),
        batch=BatchConfig(tokens=2048),
        eval=EvalConfig(samples=0),
        steps=1000,
    )
