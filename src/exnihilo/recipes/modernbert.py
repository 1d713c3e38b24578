"""Recipe ``modernbert``: a modern encoder from random weights on raw text, by masked tokens alone.

``exnihilo train modernbert data=books/ minutes=15 run=runs/modernbert``. The family is ModernBERT's (rotary
positions, pre-norm, GeGLU, two local layers to each global one, no biases); 30% of the tokens are masked, as
there.

Source: Warner et al. 2024, arXiv:2412.13663.
"""

from __future__ import annotations

from exnihilo.config import BatchConfig, CodecConfig, DataConfig, ModelConfig, RunConfig, SourceConfig


def recipe() -> RunConfig:
    """Masked-token pretraining; without ``data=`` it reads the embedded world, without a budget it takes ten
    minutes."""
    return RunConfig(
        recipe="modernbert",
        objective="masked_lm",
        options={"rate": 0.3},
        data=DataConfig(sources=(SourceConfig(path="world"),)),
        codec=CodecConfig(kind="wordpiece", vocab_size=8192, lowercase=True),
        model=ModelConfig(family="modernbert", preset="bert-mini", context=256),
        batch=BatchConfig(tokens=4096),  # a CPU reads few tokens in an hour: small steps make more of them
    )
