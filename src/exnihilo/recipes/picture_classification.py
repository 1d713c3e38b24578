"""Recipe ``picture_classification``: what is seen, from files in a folder for each label, or in an archive.

``exnihilo train picture_classification data=pictures/``.
An encoder from random weights, or with ``init=`` a pretrained one (recipe ``masked_picture``).
"""

from __future__ import annotations

from exnihilo.config import RunConfig
from exnihilo.recipes._seeing import AUGMENT, seeing


def recipe() -> RunConfig:
    """Picture classification; without ``data=`` it sees the embedded world, without a budget it takes 10
    epochs."""
    return seeing("picture_classification", augment=AUGMENT, epochs=10)
