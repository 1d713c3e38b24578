"""Recipe ``token_tagging``: a tag for each word: entities (BIO, BIOES), parts of speech.

``exnihilo train token_tagging init=runs/bert data=train.conll val=dev.conll``.
Tags of words are learnt on their first tokens; ``options.crf=true`` also learns which tag follows which.
With ``init=`` the shape, the tokenizer and the learning rate are those of a pretrained model; without, a new
BERT-Mini starts from random weights.
"""

from __future__ import annotations

from exnihilo.config import RunConfig
from exnihilo.recipes._tuning import tuning


def recipe() -> RunConfig:
    """Fine-tuning; without ``data=`` it reads the embedded world, without a budget it takes 6 epochs."""
    return tuning("token_tagging", epochs=6)
