"""Recipe ``sentence_classification``: classes of single texts, several labels at once, or a number.

``exnihilo train sentence_classification init=runs/bert data=train.csv val=dev.csv``.
``options.kind`` says what a label is: multiclass (default), binary, multilabel or regression.
With ``init=`` the shape, the tokenizer and the learning rate are those of a pretrained model; without, a new
BERT-Mini starts from random weights.
"""

from __future__ import annotations

from exnihilo.config import RunConfig
from exnihilo.recipes._tuning import tuning


def recipe() -> RunConfig:
    """Fine-tuning; without ``data=`` it reads the embedded world, without a budget it takes 4 epochs."""
    return tuning("sentence_classification", epochs=4)
