"""Samples -> log-mel frames: Whisper's recipe and Kaldi's filter banks as AST takes them. Many sounds at
once.

    frames = log_mel([wave_a, wave_b], mels=80)       # [(frames of a, 80), (frames of b, 80)]
    frames = fbank([wave_a], mels=128)                # [(frames, 128)]

Whisper: Hann window of 25 ms (periodic) every 10 ms, centred with reflection, power spectrum, Slaney's mel
filters up to half of 16 kHz, log10 clamped at 1e-10, then at the sound's loudest value − 8, then (x + 4) / 4;
the last frame is dropped. Kaldi: frames that lie wholly inside, each without its mean, pre-emphasis 0.97,
Hann window (symmetric), 512 points, triangles in the mel scale, natural logarithm.

All sounds of a batch are cut into frames of one long signal, so that there is one Fourier transform and one
matrix product however short they are.

Sources: Radford et al. 2022 (Whisper, arXiv 2212.04356), `whisper/audio.py`; Gong et al. 2021 (AST, arXiv
2104.01778); Slaney 1998, *Auditory Toolbox*; Kaldi's `feature-fbank`.

Key: N samples, M frames, F mels, W samples of a window, K frequencies
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

FLOOR = 1e-10
FBANK_FLOOR = 1.192092955078125e-07
WINDOW, HOP = 0.025, 0.010
"""Seconds of a frame, and from one to the next."""


def hop_of(rate: int) -> int:
    """Samples from one frame to the next: 160 at 16 kHz."""
    return round(rate * HOP)


def window_of(rate: int) -> int:
    """Samples of a frame: 400 at 16 kHz."""
    return round(rate * WINDOW)


@lru_cache(maxsize=16)
def filters(rate: int, points: int, mels: int, kind: str = "slaney") -> Tensor:
    """Triangular filters (K, F) over the frequencies of a Fourier transform, float32.

    Args:
        rate: samples a second. points: of the transform; K = points // 2 + 1.
        kind: "slaney" (linear below 1 kHz, equal areas, 0 Hz to min(8 kHz, rate / 2)) or "kaldi" (triangles
            in mels, from 20 Hz).
    """
    K = points // 2 + 1
    if kind == "slaney":
        edges = _hertz(np.linspace(0.0, _mels(min(8000.0, rate / 2)), mels + 2))
        bins = np.linspace(0, rate / 2, K)
    else:
        low, high = (1127.0 * np.log1p(f / 700.0) for f in (20.0, rate / 2))
        edges = np.linspace(low, high, mels + 2)
        bins = 1127.0 * np.log1p(np.arange(K) * (rate / points) / 700.0)
    widths = np.diff(edges)
    distance_FK = edges[:, None] - bins[None]
    rise, fall = -distance_FK[:-2] / widths[:-1, None], distance_FK[2:] / widths[1:, None]
    weights_FK = np.maximum(0.0, np.minimum(rise, fall))
    if kind == "slaney":
        weights_FK *= (2.0 / (edges[2:] - edges[:-2]))[:, None]
    return torch.from_numpy(np.ascontiguousarray(weights_FK.T, np.float32))


def _mels(hertz: float) -> float:
    """Slaney's scale: linear to 1 kHz (15 mels), then logarithmic."""
    return 3 * hertz / 200 if hertz < 1000 else 15 + float(np.log(hertz / 1000)) * 27 / float(np.log(6.4))


def _hertz(mels: np.ndarray) -> np.ndarray:
    return np.where(mels < 15, 200 * mels / 3, 1000 * np.exp(np.log(6.4) / 27 * (mels - 15)))


@lru_cache(maxsize=8)
def _hann(size: int, periodic: bool) -> Tensor:
    return torch.hann_window(size, periodic=periodic, dtype=torch.float64).float()


def log_mel(waves: Sequence[Tensor], *, mels: int = 80, rate: int = 16_000) -> list[Tensor]:
    """Whisper's frames of each sound.

    Args:
        waves: float32 (N,) each, N above half a window (200 samples at 16 kHz).
        mels: filters: 80, or 128 as in Whisper large-v3.
        rate: samples a second; the window and the step keep their length in time.

    Returns:
        For each sound (N // hop, mels), float32.

    Example:
        >>> [tuple(f.shape) for f in log_mel([torch.zeros(1600), torch.zeros(16000)])]
        [(10, 80), (100, 80)]
    """
    if not waves:
        return []
    W, hop = window_of(rate), hop_of(rate)
    half, device = W // 2, waves[0].device
    nothing = waves[0].new_zeros(W)
    pieces, starts, counts, at = [], [], [], 0
    for wave in waves:
        N = len(wave)
        rest = -(N + 2 * half) % hop
        pieces += [wave[1 : half + 1].flip(0), wave, wave[-half - 1 : -1].flip(0)]
        if rest:
            pieces.append(nothing[:rest])
        starts.append(at // hop)
        counts.append(N // hop)
        at += N + 2 * half + rest
    flat = torch.cat([*pieces, nothing])
    frames_MW = flat.unfold(0, W, hop)
    if len(waves) > 1:  # frames that lie across two sounds are left out
        keep = np.concatenate([np.arange(s, s + c) for s, c in zip(starts, counts, strict=True)])
        frames_MW = frames_MW.index_select(0, torch.from_numpy(keep).to(device))
    else:
        frames_MW = frames_MW[: counts[0]]
    power_MK = _power(frames_MW * _hann(W, True).to(device))
    log_MF = (power_MK @ filters(rate, W, mels).to(device)).clamp_(min=FLOOR).log10_()
    sound_M = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(device)
    loudest_P = log_MF.new_full((len(counts),), -10.0)
    loudest_P.scatter_reduce_(0, sound_M, log_MF.amax(1), "amax")
    log_MF = torch.maximum(log_MF, (loudest_P - 8.0)[sound_M].unsqueeze(1)).add_(4.0).div_(4.0)
    return list(log_MF.split(counts))


def fbank(waves: Sequence[Tensor], *, mels: int = 128, rate: int = 16_000) -> list[Tensor]:
    """Kaldi's log filter banks of each sound: (1 + (N − window) // hop, mels), float32.

    Example:
        >>> fbank([torch.zeros(16000)])[0].shape
        torch.Size([98, 128])
    """
    if not waves:
        return []
    W, hop, device = window_of(rate), hop_of(rate), waves[0].device
    points = 1 << (W - 1).bit_length()
    frames = [wave.unfold(0, W, hop) if len(wave) >= W else wave.new_zeros(0, W) for wave in waves]
    x_MW = torch.cat(frames)
    x_MW = x_MW - x_MW.mean(1, keepdim=True)
    sharp_MW = x_MW - 0.97 * torch.cat((x_MW[:, :1], x_MW[:, :-1]), 1)
    power_MK = _power(sharp_MW * _hann(W, False).to(device), points)
    log_MF = (power_MK @ filters(rate, points, mels, "kaldi").to(device)).clamp_(min=FBANK_FLOOR).log_()
    return list(log_MF.split([len(f) for f in frames]))


def _power(x_MW: Tensor, points: int | None = None) -> Tensor:
    """|Fourier transform|² of rows: (M, W) -> (M, points // 2 + 1)."""
    both_MK2 = torch.view_as_real(torch.fft.rfft(x_MW, points))
    return both_MK2[..., 0].square().add_(both_MK2[..., 1].square())  # a sum over pairs takes 8 times as long
