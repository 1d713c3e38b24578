"""Pixels <-> levels of a palette: at most 256 colours, so that a pixel is a token.

    colours = learn([image, ...], 64)              # uint8 (64, C), from dark to light
    levels = quantise(image, colours)              # uint8 (H, W): the nearest colour of each pixel
    image = colours[levels]                        # uint8 (H, W, C)
    text = to_text(levels.ravel())                 # one character a pixel, for a codec of kind "waves"

Where the pictures have no more colours than are asked for, those are the palette and nothing is lost; else
k-means over pixels of all of them (k-means++ from a fixed seed, so the same pictures give the same palette).

Sources: Chen et al. 2020 (image GPT, *Generative Pretraining from Pixels*: a palette by k-means, raster
order); Arthur & Vassilvitskii 2007 (k-means++).

Key: H, W pixels, C channels, N pixels of all pictures, K colours
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from exnihilo.codec.sound.mulaw import of_text, to_text

__all__ = ["learn", "of_text", "quantise", "to_text"]

PIXELS = 1 << 15
"""Of all pictures together that k-means looks at."""
_ROUNDS = 12
_AT_ONCE = 1 << 12


def learn(images: Sequence[np.ndarray], colours: int, seed: int = 0) -> np.ndarray:
    """A palette, uint8 (K, C), K ≤ `colours`, from dark to light.

    Args:
        images: uint8 (H, W, C) each. colours: from 2 to 256.

    Example:
        >>> learn([np.array([[[0], [9]], [[9], [255]]], np.uint8)], 4).tolist()
        [[0], [9], [255]]
    """
    flat_NC = np.concatenate([image.reshape(-1, image.shape[-1]) for image in images])
    found_KC, counts_K = np.unique(flat_NC, axis=0, return_counts=True)
    if len(found_KC) > colours:
        rng = np.random.default_rng(seed)
        if len(found_KC) > PIXELS:
            chosen = rng.choice(len(flat_NC), PIXELS, replace=False)
            found_KC, counts_K = np.unique(flat_NC[np.sort(chosen)], axis=0, return_counts=True)
        found_KC = _means(found_KC.astype(np.float64), counts_K.astype(np.float64), colours, rng)
        found_KC = np.unique(np.rint(found_KC).astype(np.uint8), axis=0)
    order = np.argsort(found_KC.astype(np.int64).sum(1), kind="stable")
    return np.ascontiguousarray(found_KC[order])


def quantise(image: np.ndarray, colours_KC: np.ndarray) -> np.ndarray:
    """The nearest colour of each pixel: uint8 (H, W, C) -> uint8 (H, W)."""
    flat_NC = image.reshape(-1, image.shape[-1]).astype(np.float64)
    return _nearest(flat_NC, colours_KC.astype(np.float64)).astype(np.uint8).reshape(image.shape[:2])


def _nearest(points_NC: np.ndarray, centres_KC: np.ndarray) -> np.ndarray:
    out = np.empty(len(points_NC), np.int64)
    squares_K = (centres_KC**2).sum(1)
    for at in range(0, len(points_NC), _AT_ONCE):
        part = points_NC[at : at + _AT_ONCE]
        out[at : at + _AT_ONCE] = (squares_K - 2 * part @ centres_KC.T).argmin(1)
    return out


def _means(points_NC: np.ndarray, weights_N: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Weighted k-means, begun by k-means++."""
    first = int(rng.choice(len(points_NC), p=weights_N / weights_N.sum()))
    chosen = [first]
    far_N = ((points_NC - points_NC[first]) ** 2).sum(1)
    while len(chosen) < count:
        share_N = far_N * weights_N
        chosen.append(int(rng.choice(len(points_NC), p=share_N / share_N.sum())))
        far_N = np.minimum(far_N, ((points_NC - points_NC[chosen[-1]]) ** 2).sum(1))
    centres_KC = points_NC[chosen]
    for _ in range(_ROUNDS):
        near_N = _nearest(points_NC, centres_KC)
        mass_K = np.bincount(near_N, weights_N, count)
        sums_KC = np.stack(
            [np.bincount(near_N, weights_N * points_NC[:, c], count) for c in range(points_NC.shape[1])], 1
        )
        held_K = mass_K > 0  # a centre that nothing is nearest to stays where it is
        centres_KC = np.where(held_K[:, None], sums_KC / np.maximum(mass_K, 1)[:, None], centres_KC)
    return centres_KC
