"""Recipe ``bert``: an encoder from random weights on raw text: masked tokens and next sentences together.

``exnihilo train bert data=books/ minutes=15 run=runs/bert``. The family is BERT's (token, segment and learned
position embeddings, post-norm, pooler), the tokenizer a lower-case WordPiece, the objective `mix` of
`masked_lm` and `next_sentence`. Sizes: ``model.preset=bert-tiny`` to ``bert-large``.

Source: Devlin et al. 2018, arXiv:1810.04805; sizes: Turc et al. 2019, arXiv:1908.08962.
"""

from __future__ import annotations

from exnihilo.config import BatchConfig, CodecConfig, DataConfig, ModelConfig, RunConfig, SourceConfig


def recipe() -> RunConfig:
    """Masked-token and next-sentence pretraining; without ``data=`` it reads the embedded world, without a
    budget it takes ten minutes."""
    return RunConfig(
        recipe="bert",
        objective="mix",
        data=DataConfig(sources=(SourceConfig(path="world"),)),
        codec=CodecConfig(kind="wordpiece", vocab_size=8192, lowercase=True),
        model=ModelConfig(preset="bert-mini", context=128),
        batch=BatchConfig(tokens=4096),  # a CPU reads few tokens in an hour: small steps make more of them
    )
