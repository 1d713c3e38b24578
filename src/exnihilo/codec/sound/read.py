"""A sound file -> samples: any format of libsndfile, one channel, any rate.

    wave = load("clip.mp3", rate=16_000)            # float32, about -1 .. 1

Channels are averaged, another rate is resampled (soxr, "HQ"). What cannot be read says so with the file's
name: empty, cut short, not a sound, samples that are no numbers, longer than is read at once. A name
``world:KIND:SEED`` is a sound of the embedded world.

Formats: wav, flac, ogg (Vorbis, Opus), mp3, aiff, au and what else libsndfile knows
(https://libsndfile.github.io/libsndfile).
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from exnihilo.errors import DataError, MissingExtra


class Unreadable(DataError):
    """A sound that is of no use.

    Attributes:
        reason: in a few words, without the file's name: what such files are counted under.
    """

    def __init__(self, reason: str, given: str, *, expected: str = "", next: str = "") -> None:
        super().__init__(given, expected=expected, next=next)
        self.reason = reason


LONGEST = 2 * 3600.0
"""Seconds of a file that is read at once."""
BLOCK = 60.0
"""Seconds that are read, mixed to one channel and resampled at once."""
_STREAMED = 0x7FFFFFFF  # a wav written to a pipe says that it is at least as long


def library(name: str) -> Any:
    """soundfile or soxr.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra.of(name, "audio") from error


def load(path: str | Path, rate: int, *, longest: float = LONGEST) -> np.ndarray:
    """The samples of a sound file.

    Args:
        path: of the file, or ``world:KIND:SEED``.
        rate: samples a second that are wanted.
        longest: seconds; a longer file is refused.

    Returns:
        float32 (samples,), one channel, full scale at 1.

    Raises:
        Unreadable: names the file and what is wrong with it.
        MissingExtra: soundfile or soxr is not installed.

    Example:
        >>> load("world:bell:3", 8000).shape
        (6400,)
    """
    if str(path).startswith("world:"):
        from exnihilo.world.sounds import render

        try:
            return render(str(path), rate)
        except ValueError as error:
            raise Unreadable("that the world does not know", str(error)) from error
    return _read(Path(path), rate, longest)


def rate_of(path: str | Path) -> int | None:
    """Samples a second of a file, by its header; None where it has none that can be read."""
    try:
        return int(library("soundfile").info(str(path)).samplerate)
    except (OSError, RuntimeError):
        return None


def resample(wave: np.ndarray, found: int, rate: int) -> np.ndarray:
    """Samples at another rate, float32; the same where it is that already."""
    if found == rate:
        return np.ascontiguousarray(wave, np.float32)
    return library("soxr").resample(np.ascontiguousarray(wave, np.float32), found, rate).astype(np.float32)


def save(path: str | Path, wave: np.ndarray, rate: int) -> None:
    """Writes a wav file of 16 bits; what is beyond full scale is cut.

    Raises:
        DataError: the file cannot be written.
    """
    sound = library("soundfile")
    try:
        sound.write(str(path), np.clip(wave, -1, 1), rate, subtype="PCM_16")
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path} cannot be written: {error}", next="choose another file") from error


def _read(path: Path, rate: int, longest: float) -> np.ndarray:
    """The samples at a rate, read in blocks: of a long file no more is held than what it becomes."""
    sound = library("soundfile")
    parts: list[np.ndarray] = []
    held = bad = 0
    try:
        if path.stat().st_size == 0:
            raise Unreadable("empty", f"{path} is empty (0 bytes)", expected="a sound", next="leave it out")
        with sound.SoundFile(str(path)) as file:
            found, count = int(file.samplerate), int(file.frames)
            if count > longest * found:
                raise Unreadable(
                    f"longer than {longest / 3600:g} hours",
                    f"{path} lasts {count / found / 3600:.1f} hours",
                    expected=f"at most {longest / 3600:g}",
                    next="cut it into parts",
                )
            block = max(1, round(BLOCK * found))
            stream = library("soxr").ResampleStream(found, rate, 1) if count > block else None
            while len(wave_NC := file.read(block, dtype="float32", always_2d=True)):
                wave = np.ascontiguousarray(wave_NC[:, 0] if wave_NC.shape[1] == 1 else wave_NC.mean(1))
                held += len(wave)
                bad += int((~np.isfinite(wave)).sum())
                if stream is not None and found != rate:
                    wave = stream.resample_chunk(wave, last=False)
                parts.append(wave)
                if len(wave_NC) < block:
                    break
            told = str(file.extra_info)
    except OSError as error:
        raise Unreadable(
            "that cannot be opened",
            f"{path} cannot be read: {error.strerror or error}",
            next="check the path",
        ) from error
    except RuntimeError as error:  # soundfile.LibsndfileError
        why = str(error).rpartition(": ")[2] or str(error)
        if "does not exist" in why:  # what it says of a suffix that the content does not fit
            why = "its content is of no known format"
        raise Unreadable(
            "that are no sounds",
            f"{path} is no sound that can be read: {why}",
            expected="wav, flac, ogg, mp3, aiff",
            next="convert it, or leave it out",
        ) from error
    if not held:
        raise Unreadable("without samples", f"{path} has no samples (0 seconds)", next="leave it out")
    if held < count or _cut(told):
        raise Unreadable(
            "cut short",
            f"{path} is cut short: {held:,} samples are there of those that its header promises",
            expected="a whole file",
            next="copy it again, or leave it out",
        )
    if bad:
        raise Unreadable(
            "with samples that are no numbers",
            f"{path}: {bad:,} of {held:,} samples are no numbers (NaN or infinite)",
            next="leave it out",
        )
    if stream is None or found == rate:
        return resample(parts[0] if len(parts) == 1 else np.concatenate(parts), found, rate)
    return np.concatenate([*parts, stream.resample_chunk(np.zeros(0, np.float32), last=True)])


def _cut(told: str) -> bool:
    """Whether libsndfile found less data than a wav's header says: ``data : 88200 (should be 4000)``."""
    for line in told.splitlines():
        name, _, rest = line.partition(":")
        if name.strip() == "data" and "should be" in rest:
            numbers = [
                int(word) for word in rest.replace("(", " ").replace(")", " ").split() if word.isdigit()
            ]
            if len(numbers) >= 2 and 0 < numbers[0] < _STREAMED:
                return numbers[0] > numbers[1]
    return False
