"""Recipe ``electra``: an encoder from random weights that learns to tell replaced tokens from the text's own.

``exnihilo train electra data=books/ minutes=15 run=runs/electra``. A small generator fills masked positions,
the encoder decides for every token whether it was replaced, so that it learns from all of them. Shape and
tokenizer are those of the recipe ``bert``; the generator is left behind when the model is fine-tuned.

Source: Clark et al. 2020, arXiv:2003.10555.
"""

from __future__ import annotations

from exnihilo.config import BatchConfig, CodecConfig, DataConfig, ModelConfig, RunConfig, SourceConfig


def recipe() -> RunConfig:
    """Replaced-token pretraining; without ``data=`` it reads the embedded world, without a budget it takes
    ten minutes."""
    return RunConfig(
        recipe="electra",
        objective="replaced_tokens",
        data=DataConfig(sources=(SourceConfig(path="world"),)),
        codec=CodecConfig(kind="wordpiece", vocab_size=8192, lowercase=True),
        model=ModelConfig(preset="bert-mini", context=128),
        batch=BatchConfig(tokens=4096),  # a CPU reads few tokens in an hour: small steps make more of them
    )
