"""What a model of raw sound continues, as wav files.

check(run)                                     # before anything is sampled
start = prompt(run, "beginning.wav")           # a sound to go on with, as the model reads it
write(run, [text], "a.wav")                    # ["a.wav"]; of several a-1.wav, a-2.wav ...
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from exnihilo.codec.sound import mulaw
from exnihilo.codec.sound.read import load, save
from exnihilo.data.base import MEDIA
from exnihilo.errors import UsageError
from exnihilo.interop.load import objective_of
from exnihilo.objective.registry import create


def rate_of(run: str | Path) -> int | None:
    """Samples a second of a run of `sound_tokens`; None of any other."""
    path = Path(run)
    said = objective_of(path.parent.parent if path.parent.name == "checkpoints" else path)
    if said is None or said.get("objective") != "sound_tokens":
        return None
    return int(create("sound_tokens", said.get("options") or {}).config.rate)


def check(run: str | Path) -> int:
    """Samples a second.

    Raises:
        UsageError: the run writes no sound.
    """
    rate = rate_of(run)
    if rate is None:
        raise UsageError(
            f"out= writes a sound, and {run} was not trained on raw sound",
            expected="a run of the recipe sound_tokens",
            next="leave out= out",
        )
    return rate


def prompt(run: str | Path, given: str) -> str:
    """The prompt of a run: of raw sound, what a file of that name holds; else as it is."""
    if Path(given).suffix.lower() not in MEDIA["sound"] or not Path(given).is_file():
        return given
    rate = rate_of(run)
    return given if rate is None else mulaw.to_text(mulaw.encode(load(given, rate)))


def write(run: str | Path, texts: Sequence[str], out: str | Path) -> list[str]:
    """Writes each text as a wav file.

    Raises:
        UsageError: the run writes no sound, or `out` does not end in .wav.
        DataError: the file cannot be written.
    """
    rate, path = check(run), Path(out)
    if path.suffix.lower() != ".wav":
        raise UsageError(f"out={out}", expected="a name that ends in .wav", next=f"out={path.stem}.wav")
    several = len(texts) > 1
    found = [path.with_stem(f"{path.stem}-{i}") if several else path for i in range(1, len(texts) + 1)]
    for text, to in zip(texts, found, strict=True):
        save(to, mulaw.decode(mulaw.of_text(text)), rate)
    return [str(to) for to in found]
