"""Pictures made different each time they are seen: a pure function of numbers that are drawn for each.

    change = Augment(flip=0.5, pad=4, brightness=0.2)
    chances = generator.random((len(images), change.chances))      # of (seed, step, row)
    levels = change.levels(images, chances)                        # float32 (N, H, W, C), 0 to 255

All pictures of a batch are changed at once: what moves pixels (a crop, a turn, a shear) is put together into
one map that is sampled once, so that nothing is blurred twice; then colours, then what is cut out; last,
mixing. One number a decision, always as many of them, so that a picture's changes depend on nothing else.

Sources: Krizhevsky et al. 2012 (flips, crops); Szegedy et al. 2014 (crops of any size, arXiv 1409.4842);
Cubuk et al. 2019 (RandAugment, arXiv 1909.13719); Müller & Hutter 2021 (TrivialAugment, arXiv 2103.10158);
Zhong et al. 2017 (erasing, arXiv 1708.04896); Zhang et al. 2017 (mixup, arXiv 1710.09412); Yun et al. 2019
(CutMix, arXiv 1905.04899).

Key: N pictures, H, W pixels, C channels, K chances
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

FULL = 255.0
LUMA = (0.299, 0.587, 0.114)
RATIO = math.log(4 / 3)  # of a crop's sides, at most, either way
_BASE = 16  # chances that every picture has
_EACH = 2  # of an operation: which, how much
MOVES = ("rotate", "shear_x", "shear_y", "shift_x", "shift_y")
TINTS = (
    "brightness",
    "contrast",
    "saturation",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
OPERATIONS = ("identity", *MOVES, *TINTS)
"""What `ops` chooses from."""


class Augment(BaseModel):
    """What is changed. All off by default.

    Attributes:
        flip: share of the pictures that are mirrored, left to right.
        pad: pixels by which a picture is shifted at most, either way: a crop of the padded picture.
        crop: the smallest share of its area that is cut out and made as large as the whole, its sides in a
            proportion between 3:4 and 4:3; 1: none.
        brightness, contrast, saturation: by which share each is changed at most, either way.
        grey: share of the pictures that lose their colours.
        ops: operations on each picture, drawn from `OPERATIONS`. strength: of them at most, from 0 to 1.
        erase: share of the pictures of which a rectangle (2% to 33%) is made grey.
        mixup, cutmix: alpha of the Beta distribution of mixing with another picture, whole or a rectangle of
            it; 0: none. Where both are on, a coin decides. mixing: share of the pictures that are mixed.
        border: what comes in from outside: the ``edge`` repeated, or ``black``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    flip: float = Field(default=0.0, ge=0, le=1)
    pad: int = Field(default=0, ge=0)
    crop: float = Field(default=1.0, gt=0, le=1)
    brightness: float = Field(default=0.0, ge=0, le=1)
    contrast: float = Field(default=0.0, ge=0, le=1)
    saturation: float = Field(default=0.0, ge=0, le=1)
    grey: float = Field(default=0.0, ge=0, le=1)
    ops: int = Field(default=0, ge=0, le=8)
    strength: float = Field(default=0.5, ge=0, le=1)
    erase: float = Field(default=0.0, ge=0, le=1)
    mixup: float = Field(default=0.0, ge=0)
    cutmix: float = Field(default=0.0, ge=0)
    mixing: float = Field(default=1.0, ge=0, le=1)
    border: Literal["edge", "black"] = "edge"

    @property
    def mixes(self) -> bool:
        """Whether pictures are mixed with others."""
        return bool(self.mixup or self.cutmix) and self.mixing > 0

    @property
    def _moves(self) -> bool:
        return self.crop < 1 or self.ops > 0

    @property
    def _tints(self) -> bool:
        return bool(self.brightness or self.contrast or self.saturation or self.grey or self.ops)

    @property
    def any(self) -> bool:
        """Whether anything is changed at all."""
        return bool(self.flip or self.pad or self.erase or self._moves or self._tints or self.mixes)

    @property
    def chances(self) -> int:
        """How many numbers from 0 to 1 are drawn for a picture."""
        return _BASE + _EACH * self.ops

    def levels(self, images: np.ndarray, chances: np.ndarray) -> np.ndarray:
        """Changed pictures; mixing is `mixed`.

        Args:
            images: uint8 (N, H, W, C), C 1 or 3. chances: (N, `chances`), each from 0 to 1.

        Returns:
            float32 (N, H, W, C), 0 to 255.
        """
        held = images
        if self.flip or self.pad:
            held = self._shifted(held, chances)
        if not (self._moves or self._tints or self.erase):
            return held.astype(np.float32)
        x = torch.from_numpy(np.ascontiguousarray(held)).permute(0, 3, 1, 2).float()
        if self._moves:
            x = self._moved(x, chances)
        if self._tints:
            x = self._tinted(x, chances)
        out = x.clamp_(0, FULL).permute(0, 2, 3, 1).numpy()
        return self._erased(out, chances) if self.erase else np.ascontiguousarray(out)

    def _shifted(self, images: np.ndarray, chances: np.ndarray) -> np.ndarray:
        """Mirrored and shifted by whole pixels."""
        N, H, W, _ = images.shape
        by = np.floor(chances[:, 1:3] * (2 * self.pad + 1)).astype(np.int64) - self.pad
        ys, xs = np.arange(H)[None] + by[:, :1], np.arange(W)[None] + by[:, 1:]
        inside = (ys[:, :, None] >= 0) & (ys[:, :, None] < H) & (xs[:, None] >= 0) & (xs[:, None] < W)
        ys, xs = ys.clip(0, H - 1), xs.clip(0, W - 1)
        mirrored = chances[:, 0] < self.flip
        xs = np.where(mirrored[:, None], W - 1 - xs, xs)
        out = images[np.arange(N)[:, None, None], ys[:, :, None], xs[:, None]]
        return out if self.border == "edge" else out * inside[..., None]

    # what moves pixels --------------------------------------------------------------------------

    def _moved(self, x_NCHW: Tensor, chances: np.ndarray) -> Tensor:
        """Crop, turn, shear, shift: one map from where a pixel goes to where it comes from."""
        N = len(x_NCHW)
        maps = np.tile(np.eye(3), (N, 1, 1))
        if self.crop < 1:
            area = self.crop + (1 - self.crop) * chances[:, 3]
            ratio = np.exp(RATIO * (2 * chances[:, 4] - 1))
            wide, high = np.minimum(np.sqrt(area * ratio), 1), np.minimum(np.sqrt(area / ratio), 1)
            maps[:, 0, 0], maps[:, 1, 1] = wide, high
            maps[:, 0, 2] = (1 - wide) * (2 * chances[:, 5] - 1)
            maps[:, 1, 2] = (1 - high) * (2 * chances[:, 6] - 1)
        moved = np.full(N, self.crop < 1)
        for which, much in self._operations(chances):
            maps = maps @ _matrices(which, much)
            moved |= (which >= 1) & (which <= len(MOVES))
        if not moved.any():
            return x_NCHW
        chosen = torch.from_numpy(np.flatnonzero(moved))
        theta = torch.from_numpy(maps[moved, :2]).float()
        grid = F.affine_grid(theta, list(x_NCHW[chosen].shape), align_corners=False)
        border = "border" if self.border == "edge" else "zeros"
        found = F.grid_sample(x_NCHW[chosen], grid, "bilinear", border, align_corners=False)
        return found if moved.all() else x_NCHW.index_copy(0, chosen, found)

    def _operations(self, chances: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each operation in turn: which of `OPERATIONS` (N,), and how much of it, -1 to 1 (N,)."""
        out = []
        for number in range(self.ops):
            at = _BASE + _EACH * number
            which = np.floor(chances[:, at] * len(OPERATIONS)).astype(np.int64).clip(0, len(OPERATIONS) - 1)
            out.append((which, (2 * chances[:, at + 1] - 1) * self.strength))
        return out

    # colours --------------------------------------------------------------------------------------

    def _tinted(self, x: Tensor, chances: np.ndarray) -> Tensor:
        def factor(share: float, column: int) -> Tensor:
            return _column(1 + share * (2 * chances[:, column] - 1))

        if self.brightness:
            x = (x * factor(self.brightness, 7)).clamp(0, FULL)
        if self.contrast:
            x = _contrast(x, factor(self.contrast, 8))
        if self.saturation:
            x = _saturation(x, factor(self.saturation, 9))
        if self.grey:
            x = torch.where(_column(chances[:, 10] < self.grey) > 0, _grey(x).expand_as(x), x)
        for which, much in self._operations(chances):
            for number, name in enumerate(TINTS, 1 + len(MOVES)):
                chosen = np.flatnonzero(which == number)
                if len(chosen):
                    at = torch.from_numpy(chosen)
                    x = x.index_copy(0, at, _operated(name, x[at], _column(much[chosen])))
        return x

    def _erased(self, images: np.ndarray, chances: np.ndarray) -> np.ndarray:
        """A rectangle of middle grey in a share of the pictures."""
        out = np.array(images)
        _, H, W, _ = out.shape
        for n in np.flatnonzero(chances[:, 11] < self.erase):
            area, ratio = 0.02 + 0.31 * chances[n, 12], math.exp(math.log(3.3) * (chances[n, 13] - 0.5))
            high = max(1, min(H, round(H * math.sqrt(area) * ratio)))
            wide = max(1, min(W, round(W * math.sqrt(area) / ratio)))
            top, left = int(chances[n, 14] * (H - high + 1)), int(chances[n, 15] * (W - wide + 1))
            out[n, top : top + high, left : left + wide] = FULL / 2
        return out

    # mixing -----------------------------------------------------------------------------------------

    def mixed(
        self, images: np.ndarray, others: np.ndarray, keys: Sequence[np.random.Generator]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pictures with others mixed in, and the share of each that is its own.

        Args:
            images, others: float32 (N, H, W, C). keys: a generator for each.

        Returns:
            ((N, H, W, C), (N,) from 0 to 1).
        """
        out, share = np.array(images), np.ones(len(images), np.float32)
        _, H, W, _ = out.shape
        for n, key in enumerate(keys):
            draws = key.random(4)
            if draws[0] >= self.mixing:
                continue
            whole = bool(self.mixup) and (not self.cutmix or draws[1] < 0.5)
            alpha = self.mixup if whole else self.cutmix
            own = float(key.beta(alpha, alpha))
            if whole:
                out[n] = own * out[n] + (1 - own) * others[n]
                share[n] = own
                continue
            side = math.sqrt(1 - own)
            top, bottom = _span(draws[2], side, H)
            left, right = _span(draws[3], side, W)
            out[n, top:bottom, left:right] = others[n, top:bottom, left:right]
            share[n] = 1 - (bottom - top) * (right - left) / (H * W)
        return out, share


def _span(centre: float, share: float, size: int) -> tuple[int, int]:
    """A stretch around a place, cut at the ends."""
    half = share * size / 2
    return max(0, round(centre * size - half)), min(size, round(centre * size + half))


def _column(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float32)).view(-1, 1, 1, 1)


def _matrices(which: np.ndarray, much: np.ndarray) -> np.ndarray:
    """Maps (N, 3, 3) in coordinates from -1 to 1: a turn by 30°, a shear by 0.3, a shift by 0.3 of a side."""
    out = np.tile(np.eye(3), (len(which), 1, 1))
    turn = np.where(which == 1, much * math.pi / 6, 0.0)
    out[:, 0, 0] = out[:, 1, 1] = np.cos(turn)
    out[:, 0, 1], out[:, 1, 0] = -np.sin(turn), np.sin(turn)
    for number, (row, column, most) in enumerate(((0, 1, 0.3), (1, 0, 0.3), (0, 2, 0.6), (1, 2, 0.6)), 2):
        out[:, row, column] += np.where(which == number, most * much, 0.0)
    return out


def _grey(x: Tensor) -> Tensor:
    """Luminance, (N, 1, H, W)."""
    if x.shape[1] == 1:
        return x
    return (x * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    middle = _grey(x).mean((2, 3), keepdim=True)
    return (middle + (x - middle) * factor).clamp(0, FULL)


def _saturation(x: Tensor, factor: Tensor) -> Tensor:
    grey = _grey(x)
    return (grey + (x - grey) * factor).clamp(0, FULL)


def _operated(name: str, x: Tensor, much: Tensor) -> Tensor:
    """One operation on colours; `much` -1 to 1."""
    if name == "brightness":
        return (x * (1 + 0.9 * much)).clamp(0, FULL)
    if name == "contrast":
        return _contrast(x, 1 + 0.9 * much)
    if name == "saturation":
        return _saturation(x, 1 + 0.9 * much)
    if name == "sharpness":
        soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), "replicate"), 3, 1)
        return (soft + (x - soft) * (1 + 0.9 * much)).clamp(0, FULL)
    if name == "posterize":  # 8 bits to 4
        step = 2.0 ** (4 * much.abs()).round()
        return (x / step).floor() * step
    if name == "solarize":
        return torch.where(x > FULL * (1 - much.abs()), FULL - x, x)
    if name == "autocontrast":
        low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        spread = (x - low) * (FULL / (high - low).clamp(min=1e-6))
        return torch.where(high > low, spread, x)
    return _equalized(x)


def _equalized(x: Tensor) -> Tensor:
    """Each channel's levels as often as any other."""
    N, C, H, W = x.shape
    held = x.round().clamp(0, FULL).long().reshape(N * C, H * W)
    counts = torch.zeros(N * C, 256).scatter_add_(1, held, torch.ones(held.shape))
    below = counts.cumsum(1)
    least = torch.gather(below, 1, held.amin(1, keepdim=True))
    ranks = (torch.gather(below, 1, held) - least) * (FULL / (H * W - least).clamp(min=1))
    return torch.where(least < H * W, ranks, held.float()).view(N, C, H, W).round()
