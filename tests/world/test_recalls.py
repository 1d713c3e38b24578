"""Training texts of tasks of recall: their lengths, and answers read off the characters by another route."""

from __future__ import annotations

import numpy as np
import pytest

from exnihilo.world import recalls


@pytest.mark.parametrize("name", list(recalls.NAMES))
def test_training_texts_are_short_and_long(name: str):
    task = recalls.make(name, length=64)
    texts = [recalls.lesson(task, 0, n).tokens_T for n in range(900)]
    assert (texts[7] == recalls.lesson(task, 0, 7).tokens_T).all()
    assert all(len(text) == 64 for text in texts[::3])
    lengths = np.array([len(text) for n, text in enumerate(texts) if n % 3])
    assert lengths.min() == recalls.LEAST.get(name, 3) and 32 < lengths.max() <= 64
    # lengths evenly by their inverse: from 16 to 32 as many tokens as from 32 to 64
    low, high = (lengths[(lengths >= at) & (lengths < 2 * at)].sum() for at in (16, 32))
    assert 0.5 < low / high < 2


def test_variables_are_followed_to_their_value():
    """By rewriting: what stands right of the name that is asked for, until it is a value."""
    task, steps = recalls.make("variable_tracking", length=40), [0, 0, 0]
    for n in range(300):
        found = recalls.lesson(task, 1, n)
        text = task.text(found.tokens_T).lstrip(".")
        said, _, asked = text.partition("?")
        held = dict(part.split("=") for part in (said[i : i + 3] for i in range(0, len(said), 3)))
        name, count = asked[0], 0
        while name.isupper():
            name, count = held[name], count + 1
        assert name == asked[1] == task.text(found.tokens_T[list(found.truth)])
        steps[n % 3] += count
    assert steps == [200, 100, 200]  # every third text asks for the first step alone
