"""A picture file -> pixels: png, jpeg, gif, bmp, webp, tiff, ppm; of one size and kind, whatever they were.

    image = pixels("photo.jpg", 32)                        # uint8 (32, 32, 3)
    image = pixels("digit.png", (28, 28), channels=1)      # uint8 (28, 28, 1)
    image = pixels("cifar.tar::train/cat/1.jpg", 32)       # inside an archive, see data/archives.py

Turned as EXIF says; what is transparent is laid on white; CMYK, palettes, 16 bits and grey become what is
asked for. Only the first picture of several (a film, pages) is read. How large a picture is stands in its
header and is looked at before anything is unpacked, so that a small file of a gigantic picture costs nothing.
What cannot be read says so with the file's name. A name ``world:...`` is a picture of the embedded world.

Sources: Pillow (https://pillow.readthedocs.io, *Concepts*: modes, filters); CIPA DC-008 (EXIF orientation).
"""

from __future__ import annotations

import importlib
import io
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from exnihilo.data import archives
from exnihilo.errors import DataError, MissingExtra

Fit = Literal["stretch", "crop", "pad"]
Resample = Literal["nearest", "box", "bilinear", "bicubic", "lanczos"]

MOST = 64_000_000
"""Pixels of a picture; a larger one is refused."""
WHITE = 255
_FORMATS = ("PNG", "JPEG", "MPO", "GIF", "BMP", "WEBP", "TIFF", "PPM")  # no others: some run programs
_ORIENTATION = 0x0112
_WRONG = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, ZeroDivisionError),
    *(OverflowError, MemoryError, RuntimeError, AttributeError, struct.error, RuntimeWarning, UserWarning),
)  # what Pillow raises at broken files


class Unreadable(DataError):
    """A picture that is of no use.

    Attributes:
        reason: in a few words, without the file's name: what such files are counted under.
    """

    def __init__(self, reason: str, given: str, *, expected: str = "", next: str = "") -> None:
        super().__init__(given, expected=expected, next=next)
        self.reason = reason


@lru_cache(maxsize=4)
def library(name: str = "PIL.Image") -> Any:
    """A module of Pillow.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra.of("PIL", "images") from error


def pixels(
    path: str | Path,
    size: int | tuple[int, int] | None = None,
    *,
    channels: Literal[1, 3] = 3,
    fit: Fit = "stretch",
    resample: Resample = "bilinear",
    most: int = MOST,
) -> np.ndarray:
    """The pixels of a picture.

    Args:
        path: of the file, ``FILE::MEMBER`` inside an archive, or ``world:...``.
        size: of a side, or (height, width); None: as it is.
        channels: 3 red, green, blue; 1 luminance (ITU-R 601-2).
        fit: where the proportions differ: ``stretch``, ``crop`` (the middle, as large as fits), ``pad`` (the
            whole, on black).
        resample: how it is made larger or smaller.
        most: pixels; a picture of more is refused before it is unpacked.

    Returns:
        uint8 (H, W, C).

    Raises:
        Unreadable: names the file and what is wrong with it.
        MissingExtra: Pillow is not installed.

    Example:
        >>> pixels("world:red-kite@1:7", 16).shape
        (16, 16, 3)
    """
    name = str(path)
    wanted = None if size is None else (size, size) if isinstance(size, int) else tuple(size)
    if name.startswith("world:"):
        image = _world(name, wanted)
    else:
        parts = archives.parted(name)
        if parts is not None and archives.is_idx(parts[0]):
            image = _numbered(parts[0], parts[1])
        else:
            image = _image(name, parts, most)
    mode = "L" if channels == 1 else "RGB"
    if isinstance(image, np.ndarray):
        held = image if image.ndim == 3 else image[..., None]
        if held.shape[2] == channels and (wanted is None or held.shape[:2] == wanted):
            return np.ascontiguousarray(held)
        image = library().fromarray(held[..., 0] if held.shape[2] == 1 else held)
    if image.mode != mode:
        image = image.convert(mode)
    if wanted is not None and (image.height, image.width) != wanted:
        image = _fitted(image, (wanted[0], wanted[1]), fit, resample)
    out = np.array(image, np.uint8)
    return out if out.ndim == 3 else out[..., None]


def size_of(path: str | Path, *, most: int = MOST) -> tuple[int, int, int]:
    """(height, width, channels) by the header alone, turned as EXIF says; channels 1 where all is grey.

    Raises:
        Unreadable: as `pixels`.
    """
    name = str(path)
    if name.startswith("world:"):
        return (*_world(name, None).shape[:2], 3)
    parts = archives.parted(name)
    if parts is not None and archives.is_idx(parts[0]):
        return (*_numbered(parts[0], parts[1]).shape[:2], 1)
    with _opened(name, parts, most) as image:
        turned = _orientation(image) >= 5
        grey = image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
        high, wide = (image.width, image.height) if turned else (image.height, image.width)
        return high, wide, 1 if grey else 3


def save(path: str | Path, image: np.ndarray) -> None:
    """Writes uint8 (H, W, C) as the format of the name's suffix says.

    Raises:
        DataError: the file cannot be written.
    """
    held = np.asarray(image, np.uint8)
    made = library().fromarray(held[..., 0] if held.ndim == 3 and held.shape[2] == 1 else held)
    try:
        made.save(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} cannot be written: {error}", next="choose another file, .png") from error


# files -----------------------------------------------------------------------------------------------------


def _world(name: str, wanted: tuple[int, ...] | None) -> np.ndarray:
    from exnihilo.world.pictures import SIZE, render

    try:
        return render(name, size=max(wanted) if wanted else SIZE)
    except ValueError as error:
        raise Unreadable("that the world does not know", str(error)) from error


def _numbered(path: Path, number: str) -> np.ndarray:
    """One picture of an idx file, uint8 (H, W) or (H, W, C)."""
    try:
        held = archives.idx(path)
    except DataError as error:
        raise Unreadable("that cannot be opened", error.given, expected=error.expected) from error
    if not number.isdigit() or int(number) >= len(held) or held.ndim not in (3, 4) or 0 in held.shape:
        raise Unreadable(
            "that are no pictures",
            f"{path}::{number}: the file holds {'×'.join(map(str, held.shape))} numbers",
            expected=f"a picture's number below {len(held)}",
        )
    found = held[int(number)]
    if found.ndim == 3 and found.shape[2] not in (1, 3):
        raise Unreadable("that are no pictures", f"{path}::{number} has {found.shape[2]} channels")
    return found


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """Those of `_FORMATS` that this build of Pillow reads."""
    image = library()
    image.init()
    return tuple(kind for kind in _FORMATS if kind in image.OPEN)


def _opened(name: str, parts: tuple[Path, str] | None, most: int) -> Any:
    """A picture of which the header is read and nothing else."""
    image = library()
    try:
        if parts is not None:
            body = archives.member(*parts)
            if not body:
                raise _empty(name)
            found = image.open(io.BytesIO(body), formats=_formats())
        else:
            if Path(name).stat().st_size == 0:
                raise _empty(name)
            found = image.open(name, formats=_formats())
    except image.UnidentifiedImageError as error:
        raise Unreadable(
            "that are no pictures",
            f"{name} is no picture that can be read",
            expected="png, jpeg, gif, bmp, webp, tiff, ppm",
            next="convert it, or leave it out",
        ) from error
    except (image.DecompressionBombError, image.DecompressionBombWarning) as error:
        raise _large(name, str(error), most) from error
    except Unreadable:
        raise
    except DataError as error:
        raise Unreadable("that cannot be opened", error.given, expected=error.expected) from error
    except FileNotFoundError as error:
        raise Unreadable("that cannot be opened", f"{name} is not there", next="check the path") from error
    except PermissionError as error:
        raise Unreadable(
            "that cannot be opened", f"{name} may not be read", next="its permissions"
        ) from error
    except _WRONG as error:
        raise _broken(name, error) from error
    if found.width * found.height > most:
        found.close()
        raise _large(name, f"{found.width:,} × {found.height:,} pixels", most)
    return found


def _image(name: str, parts: tuple[Path, str] | None, most: int) -> Any:
    """A picture in mode L or RGB, as it was meant to be seen."""
    with _opened(name, parts, most) as image:
        try:
            image.load()
            turn = _orientation(image)
            seen = library("PIL.ImageOps").exif_transpose(image) if 2 <= turn <= 8 else image
            return _plain(seen, name)
        except Unreadable:
            raise
        except _WRONG as error:
            raise _broken(name, error) from error


def _orientation(image: Any) -> int:
    """What EXIF says, 1 where it says nothing that can be understood."""
    try:
        turn = image.getexif().get(_ORIENTATION, 1)
    except _WRONG:
        return 1
    return turn if isinstance(turn, int) else 1


def _plain(image: Any, name: str) -> Any:
    """Any mode as L or RGB: transparent parts on white, 16 bits as 8."""
    module, mode = library(), image.mode
    if mode.startswith("I") or mode == "F":
        return module.fromarray(_levels(np.array(image), name))
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        ground = module.new("RGBA", seen.size, (WHITE, WHITE, WHITE, 255))
        ground.alpha_composite(seen)
        return ground.convert("L" if mode in ("L", "LA", "La", "1") else "RGB")
    if mode in ("L", "1"):
        return image.convert("L")
    return image if mode == "RGB" else image.convert("RGB")


def _levels(held: np.ndarray, name: str) -> np.ndarray:
    """Numbers of more than 8 bits as levels: whole ones as 16 bits where they are above 255, fractions as
    shares of white."""
    if not np.isfinite(held).all() or held.min() < 0:
        raise Unreadable("with pixels that are no levels", f"{name} has negative or infinite pixels")
    high = float(held.max())
    if held.dtype.kind == "f" and high <= 1:
        scale = 255.0
    elif held.dtype.itemsize == 2 or high > 255:  # 16 bits, dark or not
        scale = 255 / 65535
    else:
        scale = 1.0
    if high * scale > 255.5:
        raise Unreadable("with pixels that are no levels", f"{name} has pixels up to {high:g}")
    return np.rint(held * scale).astype(np.uint8)


def _fitted(image: Any, wanted: tuple[int, int], fit: Fit, resample: Resample) -> Any:
    how = getattr(library().Resampling, resample.upper())
    high, wide = wanted
    if fit == "stretch":
        return image.resize((wide, high), how)
    if fit == "crop":
        share = min(image.width / wide, image.height / high)
        w, h = wide * share, high * share
        left, top = (image.width - w) / 2, (image.height - h) / 2
        return image.resize((wide, high), how, box=(left, top, left + w, top + h))
    share = min(wide / image.width, high / image.height)
    w, h = max(1, round(image.width * share)), max(1, round(image.height * share))
    ground = library().new(image.mode, (wide, high))
    ground.paste(image.resize((w, h), how), ((wide - w) // 2, (high - h) // 2))
    return ground


# what is wrong ---------------------------------------------------------------------------------------------


def _empty(name: str) -> Unreadable:
    return Unreadable("empty", f"{name} is empty (0 bytes)", expected="a picture", next="leave it out")


def _large(name: str, what: str, most: int) -> Unreadable:
    return Unreadable(
        "too large",
        f"{name}: {what}",
        expected=f"at most {most:,} pixels",
        next="make it smaller, or a larger options.most_pixels",
    )


def _broken(name: str, error: BaseException) -> Unreadable:
    said = " ".join(str(error).split())[:120] or type(error).__name__
    if "truncat" in said.lower() or "unexpected end" in said.lower():
        return Unreadable("cut short", f"{name} is cut short: {said}", next="copy it again, or leave it out")
    return Unreadable("that are broken", f"{name} is broken: {said}", next="replace it, or leave it out")
