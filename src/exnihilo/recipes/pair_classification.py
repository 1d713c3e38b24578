"""Recipe ``pair_classification``: classes of pairs of texts: entailment, paraphrase, or a number as in STS-B.

``exnihilo train pair_classification init=runs/bert data=train.tsv val=dev.tsv``.
``options.kind`` says what a label is: multiclass (default), binary, multilabel or regression.
With ``init=`` the shape, the tokenizer and the learning rate are those of a pretrained model; without, a new
BERT-Mini starts from random weights.
"""

from __future__ import annotations

from exnihilo.config import RunConfig
from exnihilo.recipes._tuning import tuning


def recipe() -> RunConfig:
    """Fine-tuning; without ``data=`` it reads the embedded world, without a budget it takes 4 epochs."""
    return tuning("pair_classification", epochs=4)
