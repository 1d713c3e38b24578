"""Recipe ``gpt``: a decoder-only model from random weights on raw text, predicting the next token.

``exnihilo train gpt data=books/ minutes=10 run=runs/books``. The family is Qwen3's (RMSNorm, RoPE, grouped
queries, QK-norm, SwiGLU), the objective `causal_lm`. One dial sizes it: ``model.depth``.
"""

from __future__ import annotations

from exnihilo.config import CodecConfig, DataConfig, ModelConfig, RunConfig, SourceConfig


def recipe() -> RunConfig:
    """Next-token pretraining; without ``data=`` it reads the embedded world, without a budget it takes ten
    minutes."""
    return RunConfig(
        recipe="gpt",
        objective="causal_lm",
        data=DataConfig(sources=(SourceConfig(path="world"),)),
        codec=CodecConfig(kind="bpe", vocab_size=4096),
        model=ModelConfig(family="qwen3", depth=6),
    )
