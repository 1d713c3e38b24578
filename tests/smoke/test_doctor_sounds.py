"""The doctor on sounds: seconds and loudness instead of tokens, what is silent or of another rate named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import exnihilo as xn
from exnihilo.codec.sound.read import save
from exnihilo.doctor.sounds import HIDDEN, RAMP, line
from exnihilo.world.sounds import render


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("heard")
    for kind in ("bell", "drum"):
        (root / kind).mkdir()
        for i in range(12):
            wave = render(f"world:{kind}:{i}:0.5", 8000)
            save(root / kind / f"{i}.wav", wave * (0 if i == 7 and kind == "drum" else 1), 8000)
    return root


@pytest.mark.parametrize("recipe", ["sound_classification", "masked_sound", "sound_tokens"])
def test_sounds_are_shown_by_loudness(folder: Path, recipe: str):
    found = xn.doctor(recipe, data=str(folder))
    assert not found.broken, found.text()
    text = found.text()
    assert "[PAD]" not in text and "0.50 s" in text and "loudness from" in text
    assert any(step in sample.text() for sample in found.samples for step in RAMP[3:])
    assert (HIDDEN in "".join(s.text() for s in found.samples)) == (recipe == "masked_sound")
    if recipe == "sound_classification":
        assert "label 'bell'" in text and "8,000 Hz" in text and "options.rate=8000" in text
        assert "silent" in text


def test_loudness_rises_with_the_sound():
    wave = np.linspace(0, 1, 8000) * np.sin(np.arange(8000))
    steps = [RAMP.index(c) for c in line(wave, 32)]
    assert len(steps) == 32 and steps == sorted(steps) and steps[-1] == len(RAMP) - 1
    assert line(np.zeros(0)) == "" and set(line(np.zeros(100))) == {" "}
