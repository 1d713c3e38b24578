"""Changes of pictures: pure, each as it says, within the levels, nothing where nothing is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from exnihilo.codec.picture.augment import OPERATIONS, Augment

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (64, 12, 10, 3), np.uint8)
EVERYTHING: dict[str, Any] = {
    "flip": 0.5, "pad": 2, "crop": 0.4, "brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "grey": 0.2,
    "ops": 2, "erase": 0.3,
}  # fmt: skip


def chances(change: Augment, count: int = 64, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((count, change.chances))


def test_nothing_is_changed_where_nothing_is_asked_for():
    change = Augment()
    assert not change.any
    np.testing.assert_array_equal(change.levels(IMAGES, chances(change)), IMAGES)


@pytest.mark.parametrize("border", ["edge", "black"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_changed_by_its_own_numbers_alone_and_stays_a_picture(border: str, channels: int):
    change = Augment(**EVERYTHING, border=border)  # type: ignore[arg-type]
    images, drawn = IMAGES[..., :channels], chances(change)
    found = change.levels(images, drawn)
    assert found.shape == images.shape and found.dtype == np.float32
    assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 255 + 1e-3
    for n in (0, 7, 63):
        alone = change.levels(images[n : n + 1], drawn[n : n + 1])[0]
        np.testing.assert_allclose(alone, found[n], atol=1e-3)
    assert not np.array_equal(found, change.levels(images, chances(change, seed=2)))
    np.testing.assert_array_equal(images, IMAGES[..., :channels])


def test_flips_and_shifts_are_exact():
    change = Augment(flip=1.0)
    np.testing.assert_array_equal(change.levels(IMAGES, chances(change)), IMAGES[:, :, ::-1])
    change = Augment(flip=0.3)
    found = change.levels(IMAGES, chances(change))
    flipped = (found == IMAGES[:, :, ::-1]).all((1, 2, 3))
    assert ((found == IMAGES).all((1, 2, 3)) ^ flipped).all() and 8 < flipped.sum() < 32
    change, drawn = Augment(pad=3, border="black"), chances(Augment())
    drawn[:, 1], drawn[:, 2] = 0.999, 0.0  # three down from above, three to the right
    found = change.levels(IMAGES, drawn)
    np.testing.assert_array_equal(found[:, :-3, 3:], IMAGES[:, 3:, :-3])
    assert not found[:, -3:].any() and not found[:, :, :3].any()
    found = Augment(pad=3).levels(IMAGES, drawn)
    np.testing.assert_array_equal(found[:, -1, 3:], IMAGES[:, -1, :-3])


def test_a_whole_crop_is_the_picture_and_a_small_one_is_a_part():
    change = Augment(crop=0.999999)
    drawn = chances(change)
    drawn[:, 4] = 0.5  # square
    np.testing.assert_allclose(change.levels(IMAGES, drawn), IMAGES, atol=0.5)
    ramp = np.broadcast_to(np.arange(32, dtype=np.uint8)[None, :, None] * 8, (32, 32, 1))[None]
    part = Augment(crop=0.25)
    drawn = np.zeros((1, part.chances))
    drawn[:, 4] = 0.5
    left, right = part.levels(ramp, drawn), part.levels(ramp, drawn + np.eye(part.chances)[5])
    # half of each side, made as large as the whole: a ramp half as steep, from either end
    np.testing.assert_allclose(np.diff(left[0, 8, 4:-4, 0]), 4, atol=1e-3)
    assert left.max() < 132 and right.min() > 120


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_does_something_or_is_none(name: str):
    change = Augment(ops=1, strength=1.0)
    drawn = chances(change)
    drawn[:, -2] = (OPERATIONS.index(name) + 0.5) / len(OPERATIONS)
    drawn[:, -1] = 0.9
    smooth = (IMAGES // 4 + 60).astype(np.uint8)
    found = change.levels(smooth, drawn)
    assert np.array_equal(found, smooth) == (name == "identity")
    weak = Augment(ops=1, strength=0.0).levels(smooth, drawn)
    if name not in ("autocontrast", "equalize"):
        np.testing.assert_allclose(weak, smooth, atol=1e-2)


def test_equalising_matches_the_table_of_ranks():
    change = Augment(ops=1)
    drawn = chances(change, 4)
    drawn[:, -2] = (OPERATIONS.index("equalize") + 0.5) / len(OPERATIONS)
    found = change.levels(IMAGES[:4], drawn)
    for image, got in zip(IMAGES[:4], found, strict=True):
        for c in range(3):
            flat = image[..., c].ravel()
            least = (flat <= flat.min()).sum()
            want = [round(((flat <= v).sum() - least) * 255 / (flat.size - least)) for v in flat]
            np.testing.assert_allclose(got[..., c].ravel(), want, atol=1)


def test_erasing_hides_a_rectangle():
    change = Augment(erase=1.0)
    found = change.levels(IMAGES, chances(change))
    for image, got in zip(IMAGES, found, strict=True):
        rows, columns = np.nonzero((got == 127.5).all(-1))
        high, wide = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(rows) == high * wide <= 0.5 * 120
        outside = ~(got == 127.5).all(-1)
        np.testing.assert_array_equal(got[outside], image[outside])


def test_mixing_shares_out_pixels_and_labels_alike():
    white, black = np.full((40, 12, 10, 3), 255, np.float32), np.zeros((40, 12, 10, 3), np.float32)
    for change in (Augment(mixup=0.4), Augment(cutmix=1.0), Augment(mixup=1.0, cutmix=1.0, mixing=0.5)):
        keys = [np.random.default_rng(n) for n in range(40)]
        found, share = change.mixed(white, black, keys)
        np.testing.assert_allclose(found.mean((1, 2, 3)) / 255, share, atol=1e-5)
        assert (share < 1).any() and ((share >= 0) & (share <= 1)).all()
        if not change.mixup:
            assert set(np.unique(found)) <= {0.0, 255.0}
        again, _ = change.mixed(white, black, [np.random.default_rng(n) for n in range(40)])
        np.testing.assert_array_equal(found, again)
    assert (Augment(cutmix=1.0, mixing=0.5).mixed(white, black, keys)[1] == 1).any()
