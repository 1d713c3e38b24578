"""Recipe ``rerank``: how well a document answers a query, from both together.

``exnihilo train rerank init=runs/bert data=pairs.jsonl``.
A cross-encoder: slower than embeddings, and better.
With ``init=`` the shape, the tokenizer and the learning rate are those of a pretrained model; without, a new
BERT-Mini starts from random weights.
"""

from __future__ import annotations

from exnihilo.config import RunConfig
from exnihilo.recipes._tuning import tuning


def recipe() -> RunConfig:
    """Fine-tuning; without ``data=`` it reads the embedded world, without a budget it takes 4 epochs."""
    return tuning("rerank", epochs=4)
