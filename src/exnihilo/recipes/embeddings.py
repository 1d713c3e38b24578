"""Recipe ``embeddings``: vectors of texts, near where two texts belong together, from pairs.

``exnihilo train embeddings init=runs/bert data=pairs.jsonl``.
Contrastive: the other texts of a row of packed pairs are the negatives.
With ``init=`` the shape, the tokenizer and the learning rate are those of a pretrained model; without, a new
BERT-Mini starts from random weights.
"""

from __future__ import annotations

from exnihilo.config import RunConfig
from exnihilo.recipes._tuning import tuning


def recipe() -> RunConfig:
    """Fine-tuning; without ``data=`` it reads the embedded world, without a budget it takes 4 epochs."""
    return tuning("embeddings", epochs=4, tokens=8192)
