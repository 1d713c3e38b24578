"""What a model of pixels draws, as files.

draws(run)                                     # whether a run draws pictures at all
start = prompt(run, "beginning.png")           # the upper half of a picture, to go on with
write(run, [text], "a.png")                    # ["a.png"]; of several a-1.png, a-2.png ...
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from exnihilo.codec.picture.read import pixels, save
from exnihilo.data.base import MEDIA
from exnihilo.errors import UsageError
from exnihilo.interop.load import objective_of
from exnihilo.objective.picture_tokens import PictureTokens
from exnihilo.objective.registry import create


def of(run: str | Path) -> PictureTokens | None:
    """The objective of a run that draws pictures; None of any other."""
    path = Path(run)
    said = objective_of(path.parent.parent if path.parent.name == "checkpoints" else path)
    if said is None or said.get("objective") != "picture_tokens":
        return None
    made = create("picture_tokens", said.get("options") or {}, facts=said.get("facts") or {})
    return made if isinstance(made, PictureTokens) else None


def draws(run: str | Path) -> bool:
    """Whether a run draws pictures."""
    return of(run) is not None


def _known(run: str | Path) -> PictureTokens:
    found = of(run)
    if found is None:
        raise UsageError(
            f"{run} draws no pictures", expected="a run of the recipe picture_tokens", next="leave out= out"
        )
    return found


def most(run: str | Path, start: str = "") -> int:
    """How many pixels there are to draw behind a beginning."""
    return max(1, _known(run).whole - 1 - len(start))


def prompt(run: str | Path, given: str) -> str:
    """The prompt of a run: of pixels, the upper half of the picture of that name; else as it is.

    Raises:
        Unreadable: the file is no picture.
    """
    if Path(given).suffix.lower() not in MEDIA["picture"] or not Path(given).is_file():
        return given
    known = _known(run)
    c = known.config
    text = known.text_of(
        pixels(given, known.sides, channels=c.channels, fit=c.fit, resample=c.resample, most=c.most_pixels)
    )
    return text[: known.sides[0] // 2 * known.sides[1]]


def check(run: str | Path, out: str | Path) -> None:
    """Before anything is drawn.

    Raises:
        UsageError: the run draws no pictures, or `out` is no name of one.
    """
    _known(run)
    path = Path(out)
    if path.suffix.lower() not in MEDIA["picture"] - {".jpg", ".jpeg"}:
        raise UsageError(
            f"out={out}", expected="a name that ends in .png, .bmp, .gif, ...", next=f"out={path.stem}.png"
        )


def write(run: str | Path, texts: Sequence[str], out: str | Path) -> list[str]:
    """Writes each text as a picture.

    Raises:
        UsageError: as `check`.
        DataError: the file cannot be written.
    """
    check(run, out)
    known, path = _known(run), Path(out)
    several = len(texts) > 1
    found = [path.with_stem(f"{path.stem}-{i}") if several else path for i in range(1, len(texts) + 1)]
    for text, to in zip(texts, found, strict=True):
        save(to, known.pixels_of(text))
    return [str(to) for to in found]
