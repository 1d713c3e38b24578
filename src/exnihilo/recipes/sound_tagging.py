"""Recipe ``sound_tagging``: which events are heard in a sound, and when.

``exnihilo train sound_tagging data=scenes.jsonl`` (columns of paths and of events), or a folder with
``a.wav`` and ``a.txt`` as Audacity exports labels.
"""

from __future__ import annotations

from exnihilo.config import RunConfig
from exnihilo.recipes._hearing import AUGMENT, hearing


def recipe() -> RunConfig:
    """Tagging over time; without ``data=`` it hears the embedded world, without a budget it takes 12
    epochs."""
    return hearing("sound_tagging", augment={k: v for k, v in AUGMENT.items() if k != "shift"}, epochs=12)
