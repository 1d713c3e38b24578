"""Recipe ``masked_picture``: an encoder of pictures from random weights, without labels: hidden patches.

``exnihilo train masked_picture data=pictures/ minutes=10 run=runs/seen``, then
``exnihilo train picture_classification init=runs/seen data=...``.
"""

from __future__ import annotations

from exnihilo.config import RunConfig
from exnihilo.recipes._seeing import seeing


def recipe() -> RunConfig:
    """Masked-patch pretraining; without ``data=`` it sees the embedded world, without a budget it takes ten
    minutes."""
    return seeing("masked_picture", augment={"pad": 3})
