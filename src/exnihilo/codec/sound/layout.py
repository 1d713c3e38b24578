"""How a sound becomes the positions of a row, and what each holds.

    layout = Frames(rate=16_000, mels=80)              # Whisper: two log-mel frames of 10 ms a position
    layout = Patches()                                 # AST: overlapping patches of a spectrogram of 10.24 s
    folded = layout.fold(wave)                         # int16 (T, samples a position): what is stored
    vectors = layout.vectors([wave], [len(wave)])      # [(T, numbers)]: what the model's front end is given

Stored are samples, not frames: they are smaller, exact for files of 16 bits, and leave it to each epoch to
shift them, to add noise or to mix two before frames are computed. A position owns a fixed number of samples,
so that packing, shards and rows need to know nothing of sound.

Key: N samples, T positions, S samples a position, F numbers a position, M frames
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from exnihilo.codec.sound import mel

FULL = 32768.0  # of 16 bits


class Layout(ABC):
    """What a kind of positions is. Pure functions of the samples.

    Attributes:
        held: what `ModelConfig.inputs` says of a position. samples: that a position owns.
    """

    @property
    @abstractmethod
    def second(self) -> int:
        """Samples a second."""

    @property
    @abstractmethod
    def held(self) -> tuple[int, ...]: ...

    @property
    @abstractmethod
    def samples(self) -> int: ...

    @abstractmethod
    def positions(self, count: int) -> int:
        """Positions of a sound of so many samples."""

    @abstractmethod
    def most(self, positions: int) -> int:
        """Samples of the longest sound that fits into so many positions; 0 where none does."""

    @abstractmethod
    def frames(self, waves: Sequence[Tensor], counts: Sequence[int]) -> list[Tensor]:
        """The spectrogram of each sound, float32 (M, mels), many at once.

        Args:
            waves: float32 samples as `unfold` gives them, zeros after the sound's own.
            counts: samples of each sound.
        """

    @abstractmethod
    def cut(self, frames_MF: Tensor) -> Tensor:
        """A spectrogram -> what each position holds, (T, F)."""

    def vectors(self, waves: Sequence[Tensor], counts: Sequence[int]) -> list[Tensor]:
        """What each position holds, (T, F) float32 a sound."""
        return [self.cut(frames_MF) for frames_MF in self.frames(waves, counts)]

    def seconds(self, positions: int) -> float:
        """How long the longest sound of so many positions lasts."""
        return self.most(positions) / self.second

    def fold(self, wave: np.ndarray) -> np.ndarray:
        """Samples as int16 (T, S), zeros at the end.

        >>> Frames().fold(np.zeros(500, np.float32)).shape
        (2, 320)
        """
        T, S = self.positions(len(wave)), self.samples
        out = np.zeros(T * S, np.int16)
        kept = np.clip(np.rint(wave[: T * S] * FULL), -FULL, FULL - 1)
        out[: len(kept)] = kept.astype(np.int16)
        return out.reshape(T, S)

    @staticmethod
    def unfold(folded: np.ndarray) -> np.ndarray:
        """(T, S) -> float32 (T · S,), full scale at 1."""
        return folded.reshape(-1).astype(np.float32) / np.float32(FULL)


@dataclass(frozen=True)
class Frames(Layout):
    """Log-mel frames of 10 ms, a few a position. Any length.

    Attributes:
        stack: frames a position; two are Whisper's.
    """

    rate: int = 16_000
    mels: int = 80
    stack: int = 2

    @property
    def second(self) -> int:
        return self.rate

    @property
    def held(self) -> tuple[int, ...]:
        return (self.stack, self.mels)

    @property
    def samples(self) -> int:
        return self.stack * mel.hop_of(self.rate)

    def positions(self, count: int) -> int:
        return max(1, -(-count // self.samples))

    def most(self, positions: int) -> int:
        return max(0, positions) * self.samples

    def frames(self, waves: Sequence[Tensor], counts: Sequence[int]) -> list[Tensor]:
        del counts  # zeros at the end are silence, as they are in Whisper's 30 seconds
        return mel.log_mel(waves, mels=self.mels, rate=self.rate)

    def cut(self, frames_MF: Tensor) -> Tensor:
        return frames_MF.reshape(-1, self.stack * self.mels)


@dataclass(frozen=True)
class Patches(Layout):
    """AST's: filter banks of a fixed number of frames, standardised, in square patches that overlap; all of
    one band of frequencies, then the next. Short sounds are filled up as AST fills them.

    Attributes:
        length: frames of a sound. patch: side. stride: from one patch to the next, both ways.
        mean, std: of the filter banks (AudioSet's by default); frames are (x − mean) / (2 std).
    """

    rate: int = 16_000
    mels: int = 128
    length: int = 1024
    patch: int = 16
    stride: int = 10
    mean: float = -4.2677393
    std: float = 4.5689974

    @property
    def second(self) -> int:
        return self.rate

    @property
    def grid(self) -> tuple[int, int]:
        """Patches over the frequencies, and over time."""
        return (self.mels - self.patch) // self.stride + 1, (self.length - self.patch) // self.stride + 1

    @property
    def held(self) -> tuple[int, ...]:
        return (self.patch * self.patch,)

    @property
    def _whole(self) -> int:
        return (self.length - 1) * mel.hop_of(self.rate) + mel.window_of(self.rate)

    @property
    def samples(self) -> int:
        return -(-self._whole // (self.grid[0] * self.grid[1]))

    def positions(self, count: int) -> int:
        del count
        return self.grid[0] * self.grid[1]

    def most(self, positions: int) -> int:
        return self._whole if positions >= self.grid[0] * self.grid[1] else 0

    def fold(self, wave: np.ndarray) -> np.ndarray:
        return super().fold(wave[: self._whole])

    def frames(self, waves: Sequence[Tensor], counts: Sequence[int]) -> list[Tensor]:
        own = [wave[: min(count, self._whole)] for wave, count in zip(waves, counts, strict=True)]
        return mel.fbank(own, mels=self.mels, rate=self.rate)

    def cut(self, frames_MF: Tensor) -> Tensor:
        frames_MF = frames_MF[: self.length]
        filled = F.pad(frames_MF, (0, 0, 0, self.length - len(frames_MF)))
        image_FM = (filled - self.mean) / (2 * self.std)
        patches = image_FM.t().unfold(0, self.patch, self.stride).unfold(1, self.patch, self.stride)
        return patches.reshape(-1, self.patch * self.patch)


def tensors(folded: Sequence[np.ndarray]) -> list[Tensor]:
    """Stored samples of several sounds as `vectors` takes them."""
    return [torch.from_numpy(Layout.unfold(f)) for f in folded]
