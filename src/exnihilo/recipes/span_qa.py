"""Recipe ``span_qa``: answers to questions, as spans of a context that is given.

``exnihilo train span_qa init=runs/bert data=train-v2.0.json val=dev-v2.0.json``.
Contexts that do not fit are read in overlapping windows; "no answer" is an answer, with a tuned threshold.
With ``init=`` the shape, the tokenizer and the learning rate are those of a pretrained model; without, a new
BERT-Mini starts from random weights.
"""

from __future__ import annotations

from exnihilo.config import RunConfig
from exnihilo.recipes._tuning import tuning


def recipe() -> RunConfig:
    """Fine-tuning; without ``data=`` it reads the embedded world, without a budget it takes 4 epochs."""
    return tuning("span_qa", epochs=4)
