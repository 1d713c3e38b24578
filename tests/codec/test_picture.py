"""Pictures: any file to pixels, what is wrong said; patches and front end against independent references."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exnihilo.codec.picture import palette, patches, read
from exnihilo.codec.picture.layout import Patches
from exnihilo.codec.picture.read import Unreadable, pixels, size_of

Image: Any = pytest.importorskip("PIL.Image")
FOUR = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [200, 200, 200]]], np.uint8)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def written(folder: Path, name: str, image: Any, **how: Any) -> Path:
    path = folder / name
    image.save(path, **how)
    return path


def bomb(path: Path, width: int, height: int) -> Path:
    """A PNG of a few hundred bytes whose header promises so many pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + body)
    return path


# modes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "gif", "webp"])
def test_lossless_formats_give_their_pixels(tmp_path: Path, suffix: str):
    how = {"lossless": True} if suffix == "webp" else {}
    path = written(tmp_path, f"a.{suffix}", Image.fromarray(FOUR), **how)
    np.testing.assert_array_equal(pixels(path), FOUR)
    assert size_of(path) == (2, 2, 3)


def test_grey_palette_bits_and_sixteen_bits(tmp_path: Path):
    grey = np.array([[0, 100], [200, 255]], np.uint8)
    path = written(tmp_path, "l.png", Image.fromarray(grey))
    np.testing.assert_array_equal(pixels(path, channels=1)[..., 0], grey)
    np.testing.assert_array_equal(pixels(path), np.repeat(grey[..., None], 3, 2))
    assert size_of(path)[2] == 1
    flat = Image.fromarray(FOUR).convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    np.testing.assert_array_equal(pixels(written(tmp_path, "p.png", flat)), FOUR)
    bits = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    np.testing.assert_array_equal(pixels(written(tmp_path, "b.png", bits), channels=1)[0, :, 0], [0, 255])
    deep = np.array([[0, 257 * 100], [257 * 200, 65535]], np.uint16)
    np.testing.assert_array_equal(
        pixels(written(tmp_path, "i.png", Image.fromarray(deep)), channels=1)[..., 0], grey
    )
    dark = np.array([[0, 200]], np.uint16)  # of 16 bits, and nearly black
    assert pixels(written(tmp_path, "d.png", Image.fromarray(dark)), channels=1).max() <= 1
    part = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    np.testing.assert_array_equal(
        pixels(written(tmp_path, "f.tiff", part), channels=1)[0, :, 0], [0, 128, 255]
    )


def test_what_is_transparent_is_laid_on_white(tmp_path: Path):
    clear = np.zeros((1, 3, 4), np.uint8)
    clear[0, :, 3] = 0, 128, 255
    path = written(tmp_path, "a.png", Image.fromarray(clear))
    np.testing.assert_array_equal(pixels(path)[0, :, 0], [255, 127, 0])
    part = Image.new("P", (2, 1))
    part.putpalette([255, 0, 0, 0, 0, 255])
    part.putdata([0, 1])
    path = written(tmp_path, "t.png", part, transparency=0)
    np.testing.assert_array_equal(pixels(path)[0], [[255, 255, 255], [0, 0, 255]])


def test_inks_become_light(tmp_path: Path):
    inks = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    for name in ("c.jpg", "c.tiff"):
        found = pixels(written(tmp_path, name, inks))
        assert found[..., 0].min() > 200 and found[..., 1:].max() < 40


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_picture_is_turned_as_exif_says(tmp_path: Path, turn: int):
    upright = np.zeros((6, 4, 3), np.uint8)
    upright[:3, :2] = 255, 0, 0
    upright[3:, 2:] = 0, 0, 255
    # what a camera stores when its EXIF says `turn`, by the table of the standard
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: upright.transpose(1, 0, 2)[::-1],
        7: upright[::-1, ::-1].transpose(1, 0, 2), 8: upright.transpose(1, 0, 2)[:, ::-1],
    }[turn]  # fmt: skip
    image = Image.fromarray(np.ascontiguousarray(stored))
    exif = image.getexif()
    exif[0x0112] = turn
    path = written(tmp_path, "a.png", image, exif=exif)
    np.testing.assert_array_equal(pixels(path), upright)
    assert size_of(path)[:2] == (6, 4)


# sizes ------------------------------------------------------------------------------------------


def test_sizes_and_ways_to_fit(tmp_path: Path):
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    path = written(tmp_path, "w.png", Image.fromarray(wide))
    assert pixels(path, (5, 15)).shape == (5, 15, 3)
    assert (pixels(path, 10, fit="crop") == 255).all()
    padded = pixels(path, 30, fit="pad")
    np.testing.assert_array_equal(padded[10:20], wide)
    assert not padded[:10].any() and not padded[20:].any()
    squeezed = pixels(path, 30)
    assert squeezed[15, 15, 0] == 255 and squeezed[15, 2, 0] == 0
    one = written(tmp_path, "one.png", Image.new("RGB", (1, 1), (9, 8, 7)))
    assert (pixels(one, 32) == [9, 8, 7]).all()


# inside other files ----------------------------------------------------------------------------------------


def test_pictures_inside_an_archive_and_nothing_else_of_it(tmp_path: Path):
    body = io.BytesIO()
    Image.fromarray(FOUR).save(body, "png")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("x/1.png", "../out.png"):
            info = tarfile.TarInfo(name)
            info.size = len(body.getvalue())
            archive.addfile(info, io.BytesIO(body.getvalue()))
        link = tarfile.TarInfo("x/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    np.testing.assert_array_equal(pixels(f"{tmp_path}/a.tar::x/1.png"), FOUR)
    np.testing.assert_array_equal(pixels(f"{tmp_path}/a.tar::../out.png"), FOUR)  # a name, no path
    for name in ("x/link.png", "nothing.png", "/etc/passwd"):
        with pytest.raises(Unreadable, match="no file"):
            pixels(f"{tmp_path}/a.tar::{name}")
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "b.tar").write_bytes(whole[:600])
    with pytest.raises(Unreadable):
        pixels(f"{tmp_path}/b.tar::x/1.png")


def test_pictures_of_an_idx_file(tmp_path: Path):
    held = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(struct.pack(">BBBBIII", 0, 0, 8, 3, 2, 3, 4) + held.tobytes())
    np.testing.assert_array_equal(pixels(f"{path}::1", channels=1)[..., 0], held[1])
    assert size_of(f"{path}::1") == (3, 4, 1)
    for wrong in ("2", "-1", "x"):
        with pytest.raises(Unreadable):
            pixels(f"{path}::{wrong}")
    short = tmp_path / "t10k-images-idx3-ubyte"
    short.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Unreadable, match="cut short"):
        pixels(f"{short}::0")


# bad files ------------------------------------------------------------------------------------------


def test_what_cannot_be_seen_is_named(tmp_path: Path):
    body = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(body, "jpeg")
    jpeg = body.getvalue()
    files = {
        "empty.png": (b"", "empty"),
        "words.png": (b"these are words", "that are no pictures"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "cut short"),
        "head.jpg": (jpeg[:3], "that are no pictures"),
    }
    for name, (content, reason) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Unreadable, match=name) as caught:
            pixels(tmp_path / name)
        assert caught.value.reason == reason, name
    with pytest.raises(Unreadable, match="not there"):
        pixels(tmp_path / "none.png")
    with pytest.raises(Unreadable, match="whole|expected|world") as caught:
        pixels("world:dragon:1:2:3:4")
    assert caught.value.reason == "that the world does not know"


@pytest.mark.parametrize("side", [9000, 20_000])
def test_gigantic_pictures_are_refused_by_their_header(tmp_path: Path, side: int):
    path = bomb(tmp_path / "bomb.png", side, side)
    for look in (pixels, size_of):
        with pytest.raises(Unreadable, match="bomb.png") as caught:
            look(path)
        assert caught.value.reason == "too large"
    small = bomb(tmp_path / "small.png", 40, 40)
    with pytest.raises(Unreadable, match="40 × 40"):
        pixels(small, most=1000)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm"]),
    where=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8),
    cut=st.integers(0, 2000),
)
@pytest.mark.filterwarnings("ignore")
def test_spoilt_files_are_pictures_or_unreadable(tmp_path: Path, kind: str, where: list[Any], cut: int):
    body = io.BytesIO()
    Image.fromarray(noise(12, 10)).save(body, kind)
    spoilt = bytearray(body.getvalue())
    for at, value in where:
        spoilt[at % len(spoilt)] = value
    path = tmp_path / f"a.{kind}"
    path.write_bytes(bytes(spoilt[: cut % (len(spoilt) + 1)] if cut % 2 else spoilt))
    try:
        found = pixels(path, 8, most=100_000)
    except Unreadable as error:
        assert error.reason and str(path) in str(error)
    else:
        assert found.shape == (8, 8, 3) and found.dtype == np.uint8


# patches ------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 3]), st.integers(1, 3))
def test_patches_are_those_of_a_convolution_and_come_back(rows: int, columns: int, p: int, C: int, N: int):
    images = torch.randn(N, rows * p, columns * p, C, dtype=torch.float64)
    found = patches.patchify(images, p)
    want = torch.nn.functional.unfold(images.permute(0, 3, 1, 2), p, stride=p)  # (N, C · p · p, T)
    want = want.view(N, C, p, p, -1).permute(0, 4, 2, 3, 1).reshape(N, rows * columns, -1)
    torch.testing.assert_close(found, want)
    torch.testing.assert_close(patches.unpatchify(found, (rows, columns), p), images)
    np.testing.assert_array_equal(patches.patchify(images.numpy(), p), want.numpy())
    at = patches.places((rows, columns), 1)
    torch.testing.assert_close(
        found[0, -1].view(p, p, C),
        images[0, (at[-1, 0] - 1) * p :, (at[-1, 1] - 1) * p :],
    )


def test_a_picture_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="does not divide"):
        patches.patchify(np.zeros((9, 8, 3)), 4)
    with pytest.raises(ValueError, match="patches of"):
        patches.unpatchify(np.zeros((3, 48)), (2, 2), 4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("source", [(50, 70), (224, 224), (16, 300)])
def test_the_front_end_is_that_of_transformers(tmp_path: Path, source: tuple[int, int]):
    pil = pytest.importorskip("transformers.models.vit.image_processing_pil_vit")
    path = written(tmp_path, "a.jpg", Image.fromarray(noise(*source)))
    theirs = pil.ViTImageProcessorPil(size={"height": 32, "width": 48})
    want = theirs(Image.open(path).convert("RGB"), return_tensors="np")["pixel_values"][0]
    layout = Patches(32, 48, 8)
    ours = layout.vectors(layout.fold(pixels(path, layout.size)))
    image = patches.unpatchify(ours, layout.grid, 8).permute(2, 0, 1).numpy()
    np.testing.assert_allclose(image, want, atol=1e-5)


def test_levels_come_back_from_what_the_model_is_given():
    layout = Patches(8, 8, 4, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    folded = layout.fold(noise(8, 8))
    vectors = layout.vectors(folded)
    np.testing.assert_array_equal(layout.levels(vectors), folded)
    np.testing.assert_array_equal(layout.unfold(folded), noise(8, 8))
    floats = torch.from_numpy(folded).float()
    torch.testing.assert_close(layout.vectors(floats), vectors)
    assert torch.equal(floats, torch.from_numpy(folded).float())  # not changed in place


# palettes ------------------------------------------------------------------------------------------


def test_few_colours_are_kept_and_many_are_near():
    found = palette.learn([FOUR, FOUR[::-1]], 8)
    assert len(found) == 4 and (np.diff(found.astype(int).sum(1)) >= 0).all()
    np.testing.assert_array_equal(found[palette.quantise(FOUR, found)], FOUR)
    image = noise(40, 40)
    colours = palette.learn([image], 64)
    assert colours.shape == (64, 3) and np.array_equal(colours, palette.learn([image], 64))
    levels = palette.quantise(image, colours)
    far = np.abs(image[..., None, :].astype(int) - colours.astype(int)).astype(float)
    np.testing.assert_array_equal(levels, (far**2).sum(-1).argmin(-1))
    error = np.square(colours[levels].astype(float) - image).mean()
    fixed = np.array(
        [[r, g, b] for r in (32, 96, 160, 224) for g in (32, 96, 160, 224) for b in (32, 96, 160, 224)]
    )
    even = np.square(fixed[palette.quantise(image, fixed)].astype(float) - image).mean()
    assert error < 1.1 * even  # of uniform noise an even grid is about the best there is
    text = palette.to_text(levels.ravel())
    np.testing.assert_array_equal(palette.of_text(text), levels.ravel())


def test_pictures_are_written_and_come_back(tmp_path: Path):
    read.save(tmp_path / "a.png", FOUR)
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), FOUR)
    read.save(tmp_path / "g.png", FOUR[..., :1])
    np.testing.assert_array_equal(pixels(tmp_path / "g.png", channels=1), FOUR[..., :1])
    with pytest.raises(Exception, match="cannot be written"):
        read.save(tmp_path / "no" / "a.png", FOUR)
