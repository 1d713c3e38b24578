"""How a picture becomes the positions of a row, and what each holds.

    layout = Patches(height=32, width=32, patch=4)
    folded = layout.fold(read.pixels(path, layout.size))      # uint8 (T, numbers): what is stored
    vectors = layout.vectors(folded)                          # float32: what the model's front end is given

Stored are pixels of 8 bits, already of one size, so that an epoch decodes nothing; they are made floats,
(x / 255 − mean) / std, when a row is drawn, after augmentation.

Key: N pictures, H, W pixels, C channels, T patches, F numbers a patch
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from exnihilo.codec.picture import patches

FULL = 255.0


@dataclass(frozen=True)
class Patches:
    """Squares of pixels, one a position.

    Attributes:
        height, width: pixels of a picture. patch: of a side. channels: 3 or 1.
        mean, std: of pixels from 0 to 1: one number for all channels, or one each.
    """

    height: int = 32
    width: int = 32
    patch: int = 4
    channels: int = 3
    mean: float | Sequence[float] = 0.5
    std: float | Sequence[float] = 0.5

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return patches.grid_of(self.height, self.width, self.patch)

    @property
    def positions(self) -> int:
        """Patches of a picture."""
        return self.grid[0] * self.grid[1]

    @property
    def held(self) -> tuple[int, ...]:
        """What `ModelConfig.inputs` says of a position."""
        return (self.patch * self.patch * self.channels,)

    def fold(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (H, W, C) or (N, H, W, C) -> uint8 (T, F) or (N, T, F).

        >>> Patches(8, 8).fold(np.zeros((8, 8, 3), np.uint8)).shape
        (4, 48)
        """
        return patches.patchify(pixels, self.patch)

    def unfold(self, folded: np.ndarray) -> np.ndarray:
        """The other way round."""
        return patches.unpatchify(folded, self.grid, self.patch)

    @cached_property
    def _scale(self) -> tuple[np.ndarray, np.ndarray]:
        """Factor and summand of each number of a patch, float32 (F,)."""
        mean = np.broadcast_to(np.asarray(self.mean, np.float64), self.channels)
        std = np.broadcast_to(np.asarray(self.std, np.float64), self.channels)
        each = self.patch * self.patch
        factor, summand = np.tile(1 / (FULL * std), each), np.tile(-mean / std, each)
        return factor.astype(np.float32), summand.astype(np.float32)

    def vectors(self, folded: np.ndarray | Tensor) -> Tensor:
        """Stored or augmented patches, levels 0 to 255 (..., F) -> float32 (..., F), standardised."""
        held = torch.from_numpy(folded) if isinstance(folded, np.ndarray) else folded
        factor, summand = (torch.from_numpy(part) for part in self._scale)
        return held.to(torch.float32, copy=True).mul_(factor).add_(summand)

    def levels(self, vectors: Tensor) -> np.ndarray:
        """The other way round: standardised numbers -> uint8, what is beyond black and white cut off."""
        factor, summand = (torch.from_numpy(part) for part in self._scale)
        found = (vectors.detach().float().cpu() - summand) / factor
        return found.round().clamp(0, FULL).to(torch.uint8).numpy()
