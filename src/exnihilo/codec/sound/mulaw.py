"""Samples <-> 256 levels by the mu-law, as fine near silence as 13 bits are everywhere.

    levels = encode(wave)                  # uint8
    wave = decode(levels)                  # float32, within 1/80 of what it was at full scale
    text = to_text(levels)                 # one character a sample, for a codec of kind "waves"

Source: ITU-T G.711, with mu = 255 and levels in order (0 the most negative).
"""

from __future__ import annotations

import numpy as np

from exnihilo.codec.marks import FIRST, LEVELS

MU = 255.0


def encode(wave: np.ndarray) -> np.ndarray:
    """float (N,), full scale at 1 -> uint8 (N,); beyond full scale is cut.

    >>> encode(np.array([-1.0, 0.0, 1.0])).tolist()
    [0, 128, 255]
    """
    x = np.clip(np.asarray(wave, np.float64), -1, 1)
    bent = np.sign(x) * np.log1p(MU * np.abs(x)) / np.log1p(MU)
    return np.floor((bent + 1) / 2 * MU + 0.5).astype(np.uint8)


def decode(levels: np.ndarray) -> np.ndarray:
    """uint8 (N,) -> float32 (N,)."""
    bent = 2 * np.asarray(levels, np.float64) / MU - 1
    return (np.sign(bent) * np.expm1(np.abs(bent) * np.log1p(MU)) / MU).astype(np.float32)


def to_text(levels: np.ndarray) -> str:
    """One character a level.

    >>> to_text(np.array([0, 255], np.uint8)) == chr(0x2800) + chr(0x28FF)
    True
    """
    return (np.asarray(levels, np.uint32) + FIRST).astype("<u4").tobytes().decode("utf-32-le")


def of_text(text: str) -> np.ndarray:
    """The levels of a text; other characters are left out."""
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4").astype(np.int64) - FIRST
    return codes[(codes >= 0) & (codes < LEVELS)].astype(np.uint8)
