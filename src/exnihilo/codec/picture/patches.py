"""Pixels <-> patches: squares of a picture, left to right, then down, and where each stands.

    vectors = patchify(image, 4)                     # (H/4 · W/4, 4 · 4 · C)
    image = unpatchify(vectors, (8, 8), 4)           # (32, 32, C)
    places((8, 8))                                   # (64, 2): row and column of each

A patch holds its pixels row by row, the channels of a pixel together: [y, x, channel]. Works on arrays of
NumPy and on tensors, on one picture or on many.

Source: Dosovitskiy et al. 2020 (ViT, arXiv 2010.11929), section 3.1.

Key: N pictures, H, W pixels, C channels, T patches, p pixels of a patch's side
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from torch import Tensor

Held = TypeVar("Held", np.ndarray, Tensor)


def grid_of(height: int, width: int, patch: int) -> tuple[int, int]:
    """Rows and columns of patches.

    Raises:
        ValueError: a side is no multiple of the patch's.

    >>> grid_of(28, 28, 4)
    (7, 7)
    """
    if patch < 1 or height < patch or width < patch or height % patch or width % patch:
        raise ValueError(f"a picture of {height} × {width} pixels does not divide into squares of {patch}")
    return height // patch, width // patch


def patchify(pixels: Held, patch: int) -> Held:
    """Pictures as patches.

    Args:
        pixels: (H, W, C) or (N, H, W, C). patch: pixels of a side.

    Returns:
        (T, patch · patch · C) or (N, T, patch · patch · C), of the same kind.

    Raises:
        ValueError: the picture does not divide into patches.
    """
    *many, height, width, channels = pixels.shape
    rows, columns = grid_of(height, width, patch)
    parts = pixels.reshape(-1, rows, patch, columns, patch, channels)
    if isinstance(parts, np.ndarray):
        turned = parts.transpose(0, 1, 3, 2, 4, 5)
    else:
        turned = parts.permute(0, 1, 3, 2, 4, 5)
    return turned.reshape(*many, rows * columns, patch * patch * channels)  # type: ignore[return-value]


def unpatchify(vectors: Held, grid: tuple[int, int], patch: int) -> Held:
    """Patches as pictures: the other way round.

    Args:
        vectors: (T, patch · patch · C) or (N, T, patch · patch · C). grid: rows and columns of patches.

    Raises:
        ValueError: there are not so many patches, or they hold another number of pixels.
    """
    *many, T, size = vectors.shape
    rows, columns = grid
    if T != rows * columns or size % (patch * patch):
        raise ValueError(
            f"{T} patches of {size} numbers, expected {rows} × {columns} of {patch} × {patch} × C"
        )
    channels = size // (patch * patch)
    parts = vectors.reshape(-1, rows, columns, patch, patch, channels)
    if isinstance(parts, np.ndarray):
        turned = parts.transpose(0, 1, 3, 2, 4, 5)
    else:
        turned = parts.permute(0, 1, 3, 2, 4, 5)
    return turned.reshape(*many, rows * patch, columns * patch, channels)  # type: ignore[return-value]


def places(grid: tuple[int, int], first: int = 0) -> np.ndarray:
    """Row and column of each patch, int32 (T, 2), counted from `first`.

    >>> places((2, 2)).tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    rows, columns = grid
    found = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1)
    return (found.reshape(-1, 2) + first).astype(np.int32)
