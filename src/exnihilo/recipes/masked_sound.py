"""Recipe ``masked_sound``: an encoder of sounds from random weights, without labels: hidden stretches of a
spectrogram.

``exnihilo train masked_sound data=recordings/ minutes=10 run=runs/heard``, then
``exnihilo train sound_classification init=runs/heard data=...``.
"""

from __future__ import annotations

from exnihilo.config import RunConfig
from exnihilo.recipes._hearing import hearing


def recipe() -> RunConfig:
    """Masked-spectrogram pretraining; without ``data=`` it hears the embedded world, without a budget it
    takes ten minutes."""
    return hearing("masked_sound")
