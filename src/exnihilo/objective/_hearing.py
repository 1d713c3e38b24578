"""What every training type that hears has in common: files to items, items to frames, augmentation.

::

    class Mine(Hearing):                    # or Hearing with another objective: Hearing, Classes
        def encode_many(self, examples, codec):
            return [[{**item, ...} for item in windows] for windows in self.hear_many(examples, codec)]

An item is [CLS], then the positions of the sound: ``kind`` is 0 at marks and 1 at sound, ``wave`` holds the
samples that each position owns (int16), ``samples`` how many are the sound's own. `draw` makes the column
``sound`` of it, what the model's front end reads, after augmentation in training; where nothing has drawn
(prediction), `inputs` makes it. Whoever masks, masks there, by setting ``kind`` to 0.

Another modality follows this shape: a compact raw column, and `draw` and `inputs` that make a column of
``model.inputs`` of it. See docs/modalities.md.

Key: B rows, T positions, S samples a position, F numbers a position
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from exnihilo.codec.sound import layout as layouts
from exnihilo.codec.sound.augment import Augment, mixed
from exnihilo.codec.sound.layout import Layout
from exnihilo.codec.sound.mel import window_of
from exnihilo.codec.sound.read import Unreadable, load
from exnihilo.data.base import Noted
from exnihilo.errors import CodecError, ConfigError, DataError
from exnihilo.nn.layout import Attention
from exnihilo.objective.base import Batch, Columns, Example, Item, Look, Objective

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec

_LEAST = 1e-3  # of a deviation: silence stays silence
INPUT = "sound"
"""The name of the column that the model's front end reads, and of the role."""


class Hearing(Objective):
    """Sounds as rows of frames or patches."""

    attention: ClassVar[Attention] = Attention.FULL
    asks: ClassVar[tuple[str, ...]] = (INPUT,)
    view: ClassVar[str] = "sounds"
    windows: ClassVar[bool] = True  # a long sound may become several items
    stacked: ClassVar[int] = 2  # frames a position, where options.stack does not say

    class Config(Objective.Config):
        """Options.

        Attributes:
            rate: samples a second that sounds are read at; files of another rate are resampled.
            frames: what positions hold: ``whisper``, log-mel frames, of any length; ``ast``, overlapping
                patches of a spectrogram of fixed length.
            stack: of ``whisper``: frames of 10 ms a position holds; default: the objective's (`stacked`).
            standardise: of ``whisper``: each sound's spectrogram less its mean, by its deviation, so that it
                does not matter how loud it was recorded; default true. With false it is Whisper's own.
            mels: bands; default 128; Whisper has 80 or 128.
            spectrogram: frames of 10 ms of ``ast``'s spectrogram; default 1024.
            augment: what is changed each time a sound is heard in training (`Augment`).
            long: sounds that do not fit into the model's positions: ``window`` (several items) or ``skip``
                (left out, counted).
            bad: files that cannot be read: ``skip`` (left out, counted with their names) or ``stop``.
        """

        rate: int = Field(default=16_000, ge=1000, le=192_000)
        frames: Literal["whisper", "ast"] = "whisper"
        stack: int | None = Field(default=None, ge=1, le=32)
        standardise: bool | None = None
        mels: int = Field(default=128, ge=8, le=256)
        spectrogram: int = Field(default=1024, ge=16)
        augment: Augment = Augment()
        long: Literal["window", "skip"] = "window"
        bad: Literal["skip", "stop"] = "skip"

        @model_validator(mode="after")
        def _check_frames(self) -> Hearing.Config:
            if self.frames != "ast" and self.spectrogram != 1024:
                raise ValueError("spectrogram has no meaning with frames=whisper, which take any length")
            if self.frames == "ast" and (self.stack or self.standardise):
                raise ValueError("stack and standardise have no meaning with frames=ast")
            return self

    config: Hearing.Config

    def __init__(
        self, config: Any = None, *, length: int | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(config, length=length, facts=facts)
        self._strict = False  # while a prediction is asked for
        c = self.config
        self.layout: Layout
        if c.frames == "ast":
            self.layout = layouts.Patches(c.rate, c.mels, c.spectrogram)
        else:
            stack = c.stack or self.stacked
            told = {"stack": stack, "standardise": c.standardise is not False}
            self.config = c.model_copy(update=told)  # in full: a run then says what it heard
            self.layout = layouts.Frames(c.rate, c.mels, stack)
        if length is not None and self.layout.most(length - self.marked) == 0:
            raise ConfigError(
                f"model.context={length} positions, a sound takes {self.layout.positions(0) + self.marked}",
                expected="room for a whole one",
                next=f"model.context={self.layout.positions(0) + self.marked}, or fewer options.spectrogram",
            )

    @property
    def marked(self) -> int:
        """Marks before a sound: [CLS], of AST also [DIST]."""
        return 2 if self.config.frames == "ast" else 1

    @property
    def model_settings(self) -> dict[str, Any]:
        return {**super().model_settings, "inputs": {INPUT: self.layout.held}}

    # data ---------------------------------------------------------------------------------------

    def marks(self, codec: Codec) -> list[int]:
        """Ids of the marks before a sound."""
        if codec.cls_id is None:
            raise CodecError(
                "the tokenizer has no [CLS], which stands before each sound",
                expected="codec.kind=marks, or an encoder's tokenizer",
                next="codec.kind=marks",
            )
        found = [codec.cls_id]
        return found + [codec.token_id("[DIST]")] if self.marked == 2 else found

    def wave_of(self, example: Example) -> np.ndarray:
        """The samples of an example's sound, float32 at the objective's rate.

        Raises:
            Unreadable: it cannot be read, or is shorter than a frame.
        """
        path = example.get(INPUT)
        if not isinstance(path, str) or not path:
            raise Unreadable("without a file", "an example without a file", expected="a role 'sound': a path")
        wave = load(path, self.config.rate)
        if len(wave) < window_of(self.config.rate):
            raise Unreadable(
                "shorter than 25 ms",
                f"{path} lasts {1000 * len(wave) / self.config.rate:.0f} ms",
                expected="at least one frame of 25 ms",
                next="leave it out",
            )
        return wave

    def audible(
        self, examples: Iterable[Example], names: Callable[[Example], Iterable[str]], notes: list[str]
    ) -> Iterator[Example]:
        """The examples but those whose labels no sound that can be read has shown yet.

        A class that stands on broken files alone would else be an output that nothing ever teaches. Few files
        are read for it: a label is settled with the first that can be.

        Args:
            names: of an example's labels.
            notes: gets a line where labels are lost.

        Raises:
            DataError: there are labels, and no sound that can be read has one.
        """
        shown: set[str] = set()
        lost: dict[str, int] = {}
        first = ""
        for example in examples:
            own = set(names(example))
            if not own <= shown:
                try:
                    self._check(example)
                except Unreadable as error:
                    if self.config.bad == "stop":
                        raise
                    first = first or str(error.given)
                    for name in own - shown:
                        lost[name] = lost.get(name, 0) + 1
                    continue
                shown |= own
            yield example
        gone = {name: count for name, count in sorted(lost.items()) if name not in shown}
        if gone and not shown:
            raise DataError(
                f"none of {sum(gone.values()):,} sounds can be heard; the first: {first}",
                expected="sounds that can be read",
                next="check data=PATH",
            )
        if gone:
            named = ", ".join(f"{name!r} ({count:,})" for name, count in list(gone.items())[:8])
            more = f" and {len(gone) - 8} more" if len(gone) > 8 else ""
            notes.append(f"left out, none of their sounds can be heard: {named}{more}; the first: {first}")

    def _check(self, example: Example) -> None:
        """Raises `Unreadable` where training could not hear an example."""
        wave = self.wave_of(example)
        if self.length is not None and not (self.config.long == "window" and self.windows):
            self._fits(example, wave, self.layout.most(self.length - self.marked))

    def _fits(self, example: Example, wave: np.ndarray, most: int) -> None:
        if len(wave) > most:
            raise Unreadable(
                "longer than the model's positions",
                f"{example[INPUT]} lasts {len(wave) / self.config.rate:.1f} s, a row "
                f"{most / self.config.rate:.1f} s",
                expected="a shorter sound",
                next="a larger model.context, or cut it",
            )

    def hear(self, example: Example, codec: Codec, *, cut: bool | None = None) -> list[Item]:
        """The items of one sound: several where it is longer than a row and may be cut.

        Args:
            cut: whether it may; default: as the options and the objective say.

        Raises:
            Unreadable: of no use, with the file's name.
        """
        wave, marks = self.wave_of(example), self.marks(codec)
        most = len(wave) if self.length is None else self.layout.most(self.length - len(marks))
        may = (self.config.long == "window" and self.windows) if cut is None else cut
        if not may:
            self._fits(example, wave, most)
        least = window_of(self.config.rate)
        starts = [at for at in range(0, len(wave), most) if at == 0 or len(wave) - at >= least]
        return [self._item(wave[at : at + most], marks) for at in starts]

    def hear_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        """`hear` over many; what cannot be read has no items and a note of the reason, or stops the run."""
        out: list[list[Item]] = []
        for example in examples:
            try:
                out.append(self.hear(example, codec))
            except Unreadable as error:
                if self.config.bad == "stop" or self._strict:
                    raise
                out.append(Noted([], error.reason))
        return out

    def _item(self, wave: np.ndarray, marks: Sequence[int]) -> Item:
        folded = self.layout.fold(wave)
        T, m = len(folded), len(marks)
        tokens = np.zeros(m + T, np.int32)
        tokens[:m] = marks
        kind = np.ones(m + T, np.int8)
        kind[:m] = 0
        held = np.concatenate((np.zeros((m, folded.shape[1]), np.int16), folded))
        return {"tokens": tokens, "kind": kind, "wave": held, "samples": len(wave)}

    def encode(self, example: Example, codec: Codec) -> Item | list[Item]:
        return self.encode_many([example], codec)[0]

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        return self.hear_many(examples, codec)

    def query(self, example: Example, codec: Codec) -> Item | list[Item]:
        """As in training; but what cannot be read is an error with its name."""
        self._strict = True
        try:
            return self.encode(example, codec)
        finally:
            self._strict = False

    # frames -------------------------------------------------------------------------------------

    def draw(self, columns: Columns, keys: Sequence[np.random.Generator], look: Look) -> Columns:
        out = {name: value for name, value in columns.items() if name not in ("wave", "samples")}
        return out | self.frames_of(columns, keys if look.training else None)

    def frames_of(self, columns: Columns, keys: Sequence[np.random.Generator] | None) -> Columns:
        """The column ``sound`` (B, T, F) of stored samples; with `keys` after augmentation.

        With mixup also ``mix`` (B, T), the share of a sound's own, and ``other`` (B, T), where in the row the
        first token of the sound stands that was mixed in.
        """
        change = self.config.augment
        held = columns["wave"]
        B, T = held.shape[:2]
        found = segments(columns["kind"], columns.get("doc"))
        waves = [Layout.unfold(held[b, start:end]) for b, start, end in found]
        counts = [int(columns["samples"][b, start]) for b, start, _ in found]
        out: Columns = {}
        if change.mixup:
            out["mix"] = np.ones((B, T), np.float32)
            out["other"] = np.broadcast_to(np.arange(T), (B, T)).copy()
        if keys is not None:
            changed = list(waves)
            for i, (b, start, end) in enumerate(found):
                wave = change.wave(waves[i], self.layout.second, keys[b])
                if change.mixup:
                    share, j = self._partner(found, i, keys[b])
                    if j != i:
                        wave = mixed(wave, waves[j], share)
                        out["mix"][b, start - self.marked : end] = share
                        out["other"][b, start - self.marked : end] = found[j][1] - self.marked
                changed[i] = wave
            waves = changed
        frames = self.layout.frames([torch.from_numpy(np.ascontiguousarray(w)) for w in waves], counts)
        if self.config.standardise:
            frames = [_standardised(f) for f in frames]
        if keys is not None:
            frames = [change.spectrum(f, keys[b]) for f, (b, _, _) in zip(frames, found, strict=True)]
        sound = np.zeros((B, T, int(np.prod(self.layout.held))), np.float32)
        for (b, start, end), part in zip(found, frames, strict=True):
            sound[b, start:end] = self.layout.cut(part).numpy()
        return {INPUT: sound, **out}

    def _partner(
        self, found: Sequence[tuple[int, int, int]], i: int, draw: np.random.Generator
    ) -> tuple[float, int]:
        """(share of a sound's own, which other sound of its row is mixed in); itself where it is alone."""
        share = float(draw.beta(self.config.augment.mixup, self.config.augment.mixup))
        near = [j for j, place in enumerate(found) if place[0] == found[i][0] and j != i]
        return max(share, 1 - share), (near[int(draw.integers(len(near)))] if near else i)

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        found = super().inputs(batch)
        return {**found, "kind": batch["kind"], INPUT: self.heard(batch)}

    def heard(self, batch: Batch) -> Tensor:
        """The column ``sound``: as it was drawn, else made of the samples."""
        if INPUT in batch:
            return batch[INPUT]
        if "wave" not in batch:
            raise DataError("a batch without sound or wave", expected="items of this objective")
        names = ("kind", "wave", "samples", "doc")
        host = {name: batch[name].cpu().numpy() for name in names if name in batch}
        made = self.frames_of(host, None)[INPUT]
        return torch.from_numpy(made).to(batch["tokens"].device)


def _standardised(frames_MF: Tensor) -> Tensor:
    """With mean 0 and deviation 1 over a whole sound; of silence, zeros."""
    deviation, mean = torch.std_mean(frames_MF, correction=0)
    return (frames_MF - mean) / deviation.clamp(min=_LEAST)


def segments(kind: np.ndarray, doc: np.ndarray | None) -> list[tuple[int, int, int]]:
    """Where the sounds of some rows stand: (row, first position, one behind the last).

    >>> segments(np.array([[0, 1, 1, 0, 1]]), np.array([[0, 0, 0, 1, 1]]))
    [(0, 1, 3), (0, 4, 5)]
    """
    held = kind == 1
    if doc is not None:
        held = held & (doc >= 0)
    before = np.zeros_like(held)
    before[:, 1:] = held[:, :-1]
    if doc is not None:
        before[:, 1:] &= doc[:, 1:] == doc[:, :-1]
    follows = np.zeros_like(held)
    follows[:, :-1] = held[:, 1:]
    if doc is not None:
        follows[:, :-1] &= doc[:, 1:] == doc[:, :-1]
    b, start = np.nonzero(held & ~before)
    _, last = np.nonzero(held & ~follows)
    return [(int(r), int(s), int(e) + 1) for r, s, e in zip(b, start, last, strict=True)]
