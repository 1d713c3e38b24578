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
CHUNK = 512  # frames at once: what lies between samples and bands stays in the processor's cache
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
    W, hop, device = window_of(rate), hop_of(rate), waves[0].device
    half = W // 2
    lengths = np.array([len(wave) for wave in waves])
    starts_P = np.concatenate([[0], np.cumsum(-(-(lengths + 2 * half) // hop))])  # in steps
    counts_P = lengths // hop
    flat = waves[0].new_zeros(int(starts_P[-1]) * hop + W)
    for wave, N, start in zip(waves, lengths.tolist(), (starts_P * hop).tolist(), strict=False):
        flat[start + half : start + half + N] = wave
    _mirror(flat, starts_P[:-1] * hop, lengths, half)
    frames_TW = flat.unfold(0, W, hop)
    hann_W, bank_KF = _hann(W, True).to(device), filters(rate, W, mels).to(device)
    log_TF = flat.new_empty(len(frames_TW), mels)
    held = flat.new_empty(min(CHUNK, len(frames_TW)), W)
    for at in range(0, len(frames_TW), CHUNK):
        part_MW = frames_TW[at : at + CHUNK]
        part_MK = _power(torch.mul(part_MW, hann_W, out=held[: len(part_MW)]))
        torch.mm(part_MK, bank_KF, out=log_TF[at : at + CHUNK]).clamp_(min=FLOOR).log10_()
    # frames that lie across two sounds are left out
    sound_M = np.repeat(np.arange(len(waves)), counts_P)
    first_P = np.cumsum(counts_P) - counts_P
    keep_M = np.arange(len(sound_M)) + (starts_P[:-1] - first_P)[sound_M]
    log_MF = log_TF.index_select(0, torch.from_numpy(keep_M).to(device))
    sound = torch.from_numpy(sound_M).to(device)
    loudest_P = log_MF.new_full((len(waves),), -10.0)
    loudest_P.scatter_reduce_(0, sound, log_MF.amax(1), "amax")
    torch.maximum(log_MF, (loudest_P - 8.0)[sound].unsqueeze(1), out=log_MF)
    return list(log_MF.add_(4.0).div_(4.0).split(counts_P.tolist()))


def _mirror(flat: Tensor, starts_P: np.ndarray, lengths_P: np.ndarray, half: int) -> None:
    """Beyond the ends of sounds that lie in `flat`, `half` samples behind each start, their mirror images."""
    ahead = np.arange(1, half + 1)
    left, right = starts_P[:, None] + half, (starts_P + half + lengths_P - 1)[:, None]
    to = np.concatenate([left - ahead, right + ahead], 1).reshape(-1)
    source = np.concatenate([left + ahead, right - ahead], 1).reshape(-1)
    to_, source_ = (torch.from_numpy(x).to(flat.device) for x in (to, source))
    flat.index_copy_(0, to_, flat.index_select(0, source_))


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
    real_MK, imaginary_MK = both_MK2.unbind(-1)
    return real_MK.square().addcmul_(imaginary_MK, imaginary_MK)  # a sum over pairs takes 8 times as long
