"""Recipe ``recall``: a small decoder from random weights on a task whose truth is known.

``exnihilo train recall data=recall:needle run=runs/needle``, then ``exnihilo probe runs/needle``, which
judges its own map. Tasks: copy_first, copy_last, copy_marked, associative_recall, induction, needle,
variable_tracking. Of another length: ``data=recall:needle:256 model.context=256``.
Variables need two steps, so twice the layers: ``data=recall:variable_tracking model.depth=4 steps=1500``.
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
    """Recall in 32 tokens; without ``data=`` it looks for a needle, without a budget it takes 500 steps."""
    return RunConfig(
        recipe="recall",
        objective="recall",
        data=DataConfig(sources=(SourceConfig(path="recall:needle"),)),
        codec=CodecConfig(kind="chars", sample_mb=1.0),
        # a layer that sees the nearest three alone finds what stands before a token; the next one, which
        # sees all, matches it: without the first, recall of pairs is not learnt in these steps
        model=ModelConfig(family="qwen3", depth=2, width=64, heads=2, context=32, window=3, global_every=2),
        optim=OptimConfig(schedule=ScheduleConfig(name="linear", warmup=0.05)),
        batch=BatchConfig(tokens=4096),
        eval=EvalConfig(samples=0),
        steps=500,
    )
