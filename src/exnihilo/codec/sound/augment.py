"""Sounds made different each time they are heard: a pure function of a generator, so of (seed, step, row).

    change = Augment(shift=0.1, noise=0.5, time_masks=2, time_mask=10, freq_masks=2, freq_mask=16)
    wave = change.wave(wave, rate=16_000, draw=generator)
    frames = change.spectrum(frames, generator)

Before the frames: a shift in time (what leaves at one end is lost, zeros come in at the other), white noise
at a signal-to-noise ratio drawn between 5 and 30 dB, a gain, another speed (which changes the pitch too).
After: SpecAugment's masks of time and of frequency, filled with the mean.

Sources: Park et al. 2019 (SpecAugment, arXiv 1904.08779); Zhang et al. 2018 (mixup, arXiv 1710.09412).

Key: N samples, M frames, F mels
"""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

QUIET, LOUD = 5.0, 30.0  # decibels of signal over noise


class Augment(BaseModel):
    """What is changed. All off by default.

    Attributes:
        shift: seconds, at most, either way.
        noise: the share of sounds that get noise.
        gain: decibels, at most, either way.
        speed: share by which the speed changes, at most, either way.
        mixup: alpha of the Beta distribution of mixing with another sound of the row; 0: none.
        time_masks, time_mask: how many stretches of time are hidden, and of how many frames of 10 ms at most
            (never more than a third of the sound).
        freq_masks, freq_mask: how many bands of frequency, and of how many mels at most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shift: float = Field(default=0.0, ge=0)
    noise: float = Field(default=0.0, ge=0, le=1)
    gain: float = Field(default=0.0, ge=0)
    speed: float = Field(default=0.0, ge=0, lt=0.5)
    mixup: float = Field(default=0.0, ge=0)
    time_masks: int = Field(default=0, ge=0)
    time_mask: int = Field(default=10, ge=1)
    freq_masks: int = Field(default=0, ge=0)
    freq_mask: int = Field(default=16, ge=1)

    def wave(self, wave: np.ndarray, rate: int, draw: np.random.Generator) -> np.ndarray:
        """Samples, as many as before.

        Args:
            wave: float32 (N,). rate: samples a second. draw: of the row.
        """
        if self.speed:
            wave = _at_speed(wave, 1 + float(draw.uniform(-self.speed, self.speed)))
        if self.shift:
            wave = _shifted(wave, round(float(draw.uniform(-self.shift, self.shift)) * rate))
        if self.gain:
            wave = wave * np.float32(10 ** (draw.uniform(-self.gain, self.gain) / 20))
        if self.noise and draw.random() < self.noise:
            level = float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
            ratio = 10 ** (-draw.uniform(QUIET, LOUD) / 20)
            wave = wave + draw.standard_normal(len(wave), dtype=np.float32) * np.float32(level * ratio)
        return wave

    def spectrum(self, frames_MF: Tensor, draw: np.random.Generator) -> Tensor:
        """A spectrogram (frames, mels) with stretches and bands hidden; the same where nothing is."""
        if not (self.time_masks or self.freq_masks):
            return frames_MF
        out_MF = frames_MF.clone()
        M, F = out_MF.shape
        filling = float(frames_MF.mean()) if frames_MF.numel() else 0.0
        for _ in range(self.time_masks):
            size = int(draw.integers(0, min(self.time_mask, M // 3) + 1))
            at = int(draw.integers(0, M - size + 1))
            out_MF[at : at + size] = filling
        for _ in range(self.freq_masks):
            size = int(draw.integers(0, min(self.freq_mask, F // 2) + 1))
            at = int(draw.integers(0, F - size + 1))
            out_MF[:, at : at + size] = filling
        return out_MF


def mixed(wave: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """share · wave + (1 − share) · other, which is repeated or cut to the same length.

    >>> mixed(np.ones(4, np.float32), np.zeros(2, np.float32), 0.75).tolist()
    [0.75, 0.75, 0.75, 0.75]
    """
    again = np.resize(other, len(wave)) if len(other) else np.zeros_like(wave)
    return (np.float32(share) * wave + np.float32(1 - share) * again).astype(np.float32)


def _shifted(wave: np.ndarray, by: int) -> np.ndarray:
    by = max(-len(wave), min(len(wave), by))
    if by == 0:
        return wave
    out = np.zeros_like(wave)
    if by > 0:
        out[by:] = wave[: len(wave) - by]
    else:
        out[:by] = wave[-by:]
    return out


def _at_speed(wave: np.ndarray, speed: float) -> np.ndarray:
    """Linear interpolation at another speed, in the same number of samples; zeros where it ends early."""
    at = np.arange(len(wave), dtype=np.float64) * speed
    before = at.astype(np.int64)
    share = (at - before).astype(np.float32)
    count = int(np.searchsorted(before, len(wave) - 1))  # of those that lie between two samples
    left = wave[before[:count]]
    out = np.zeros_like(wave)
    out[:count] = left + share[:count] * (wave[before[:count] + 1] - left)
    return out
