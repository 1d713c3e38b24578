"""Recipe ``sound_classification``: what is heard, from files in a folder for each label, or named by it.

``exnihilo train sound_classification data=recordings/ data.pattern="{label}_{speaker}_{take}"``.
An encoder from random weights, or with ``init=`` a pretrained one (recipe ``masked_sound``).
"""

from __future__ import annotations

from exnihilo.config import RunConfig
from exnihilo.recipes._hearing import AUGMENT, hearing


def recipe() -> RunConfig:
    """Sound classification; without ``data=`` it hears the embedded world, without a budget it takes 12
    epochs."""
    # not where texts or times are learnt: a slower sound loses its end
    return hearing("sound_classification", augment={**AUGMENT, "speed": 0.1}, epochs=12)
