"""What every training type that sees has in common: files to items, items to patches, augmentation.

::

    class Mine(Seeing):                     # or Seeing with another objective: Seeing, Classes
        def encode_many(self, examples, codec):
            return [[{**item, ...} for item in items] for items in self.see_many(examples, codec)]

An item is [CLS], then the patches of the picture, row by row: ``kind`` is 0 at marks and 1 at patches,
``pixels`` holds their levels (uint8), ``place`` row and column of each, for rotary positions, counted from 1
([CLS] is at 0, 0). `draw` makes the column ``picture`` of it, what the model's front end reads, after
augmentation in training; where nothing has drawn (prediction), `inputs` makes it.

Pictures of a run have one size, so each takes as many positions as any other: a row is exactly one, and the
model is declared for exactly so many.

Key: B rows, T positions, N pictures, F numbers a position
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from exnihilo.codec.picture import read
from exnihilo.codec.picture.augment import Augment
from exnihilo.codec.picture.layout import Patches
from exnihilo.codec.picture.patches import grid_of, places
from exnihilo.codec.picture.read import Unreadable
from exnihilo.data.base import Noted
from exnihilo.errors import CodecError, ConfigError, DataError
from exnihilo.nn.layout import Attention
from exnihilo.objective.base import Batch, Columns, Example, Item, Look, Objective

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec

INPUT = "picture"
"""The name of the column that the model's front end reads, and of the role."""


class Seeing(Objective):
    """Pictures as rows of patches."""

    attention: ClassVar[Attention] = Attention.FULL
    asks: ClassVar[tuple[str, ...]] = (INPUT,)
    view: ClassVar[str] = "pictures"

    class Config(Objective.Config):
        """Options.

        Attributes:
            size: pixels of a side, or [height, width]; every picture is made that size.
            patch: pixels of a patch's side; divides the size.
            channels: 3 red, green, blue; 1 luminance.
            mean, std: of pixels from 0 to 1, which are standardised by them: one number, or one a channel.
            fit: where proportions differ: ``stretch``, ``crop`` (the middle), ``pad`` (on black).
            resample: ``bilinear``, ``bicubic``, ``lanczos``, ``box`` or ``nearest``.
            most_pixels: a picture of more is not unpacked.
            augment: what is changed each time a picture is seen in training (`Augment`).
            bad: files that cannot be read: ``skip`` (left out, counted with their names) or ``stop``.
        """

        size: int | tuple[int, int] = 32
        patch: int = Field(default=4, ge=1)
        channels: Literal[1, 3] = 3
        mean: float | tuple[float, ...] = 0.5
        std: float | tuple[float, ...] = 0.5
        fit: read.Fit = "stretch"
        resample: read.Resample = "bilinear"
        most_pixels: int = Field(default=read.MOST, ge=1)
        augment: Augment = Augment()
        bad: Literal["skip", "stop"] = "skip"

        @model_validator(mode="after")
        def _check_size(self) -> Seeing.Config:
            height, width = _sides(self.size)
            grid_of(height, width, self.patch)
            for name in ("mean", "std"):
                value = getattr(self, name)
                if isinstance(value, tuple) and len(value) != self.channels:
                    raise ValueError(f"{name} has {len(value)} numbers, a pixel {self.channels}")
            if min(self.std if isinstance(self.std, tuple) else (self.std,)) <= 0:
                raise ValueError("std is above 0")
            return self

    config: Seeing.Config

    def __init__(
        self, config: Any = None, *, length: int | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(config, length=length, facts=facts)
        self._strict = False  # while a prediction is asked for
        c = self.config
        height, width = _sides(c.size)
        self.layout = Patches(height, width, c.patch, c.channels, c.mean, c.std)
        if length is not None and length < self.whole:
            raise ConfigError(
                f"model.context={length} positions, a picture takes {self.whole}",
                expected="room for a whole one",
                next=f"model.context={self.whole}, a larger options.patch, or a smaller options.size",
            )

    @property
    def marked(self) -> int:
        """Marks before a picture: [CLS]."""
        return 1

    @property
    def whole(self) -> int:
        """Positions of a picture with its marks."""
        return self.layout.positions + self.marked

    @property
    def row(self) -> int | None:
        return None if self.length is None else self.whole

    @property
    def model_settings(self) -> dict[str, Any]:
        found = {**super().model_settings, "inputs": {INPUT: self.layout.held}}
        return found if self.row is None else {**found, "context": self.row}

    # data ---------------------------------------------------------------------------------------

    def marks(self, codec: Codec) -> list[int]:
        """Ids of the marks before a picture."""
        if self.marked and codec.cls_id is None:
            raise CodecError(
                "the tokenizer has no [CLS], which stands before each picture",
                expected="codec.kind=marks, or an encoder's tokenizer",
                next="codec.kind=marks",
            )
        return [] if not self.marked or codec.cls_id is None else [codec.cls_id]

    def pixels_of(self, example: Example) -> np.ndarray:
        """An example's picture, uint8 (H, W, C) of the objective's size.

        Raises:
            Unreadable: it cannot be read.
        """
        path = example.get(INPUT)
        if not isinstance(path, str) or not path:
            raise Unreadable("without a file", "an example without a file", expected="a role 'picture'")
        c = self.config
        return read.pixels(
            path,
            self.layout.size,
            channels=c.channels,
            fit=c.fit,
            resample=c.resample,
            most=c.most_pixels,
        )

    def see(self, example: Example, codec: Codec) -> Item:
        """The item of one picture.

        Raises:
            Unreadable: of no use, with the file's name.
        """
        return self.item(self.pixels_of(example), codec)

    def item(self, pixels: np.ndarray, codec: Codec) -> Item:
        """The item of pixels, uint8 (H, W, C) of the objective's size."""
        marks, folded = self.marks(codec), self.layout.fold(pixels)
        m, T = len(marks), len(folded)
        tokens, kind = np.zeros(m + T, np.int32), np.ones(m + T, np.int8)
        tokens[:m], kind[:m] = marks, 0
        held = np.concatenate((np.zeros((m, folded.shape[1]), np.uint8), folded))
        place = np.concatenate((np.zeros((m, 2), np.int16), places(self.layout.grid, m).astype(np.int16)))
        return {"tokens": tokens, "kind": kind, "pixels": held, "place": place}

    def see_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        """`see` over many; what cannot be read has no item and a note of the reason, or stops the run."""
        out: list[list[Item]] = []
        for example in examples:
            try:
                out.append([self.see(example, codec)])
            except Unreadable as error:
                if self.config.bad == "stop" or self._strict:
                    raise
                out.append(Noted([], error.reason))
        return out

    def encode(self, example: Example, codec: Codec) -> Item | list[Item]:
        return self.encode_many([example], codec)[0]

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        return self.see_many(examples, codec)

    def query(self, example: Example, codec: Codec) -> Item | list[Item]:
        """As in training; but what cannot be read is an error with its name."""
        self._strict = True
        try:
            return self.encode(example, codec)
        finally:
            self._strict = False

    # patches ------------------------------------------------------------------------------------

    def draw(self, columns: Columns, keys: Sequence[np.random.Generator], look: Look) -> Columns:
        out = {name: value for name, value in columns.items() if name != "pixels"}
        return out | self.patches_of(columns, keys if look.training else None, look)

    def patches_of(
        self,
        columns: Columns,
        keys: Sequence[np.random.Generator] | None = None,
        look: Look | None = None,
    ) -> Columns:
        """The column ``picture`` (B, T, F) of stored pixels; with `keys` after augmentation.

        Where pictures are mixed also ``mix`` (B, T), the share of a picture's own, and ``label_mixed``
        (B, T), the label of the other, at its first position.
        """
        kind, change = columns["kind"], self.config.augment
        held = columns["pixels"]
        out: Columns = {}
        if keys is None or not change.any:
            seen = self.layout.vectors(held)
            seen[torch.from_numpy(kind != 1)] = 0.0  # marks hold nothing
            return {INPUT: seen.numpy()}
        found = starts(kind, columns.get("doc"), self.layout.positions)
        T, F = self.layout.positions, held.shape[2]
        rows_N = np.array([b for b, _ in found], np.int64)
        folded = np.stack([held[b, s : s + T] for b, s in found]) if found else np.zeros((0, T, F), np.uint8)
        order = np.concatenate([[0], np.cumsum(np.bincount(rows_N, minlength=len(kind)))])
        chances = np.concatenate(
            [keys[b].random((int(order[b + 1] - order[b]), change.chances)) for b in range(len(kind))]
        )
        levels = change.levels(self.layout.unfold(folded), chances)
        if change.mixes and look is not None:
            mixed, share, labels = self._mix(levels, found, keys, look)
            levels = mixed
            B, width = kind.shape
            out["mix"] = np.ones((B, width), np.float32)
            if labels is not None:
                out["label_mixed"] = np.full((B, width), -100, labels.dtype)
            for n, (b, start) in enumerate(found):
                out["mix"][b, start - self.marked : start + T] = share[n]
                if labels is not None:
                    out["label_mixed"][b, start - self.marked] = labels[n]
        vectors = self.layout.vectors(self.layout.fold(levels)).numpy()
        seen = np.zeros((*kind.shape, F), np.float32)
        for n, (b, start) in enumerate(found):
            seen[b, start : start + T] = vectors[n]
        return {INPUT: seen, **out}

    def _mix(
        self,
        levels: np.ndarray,
        found: Sequence[tuple[int, int]],
        keys: Sequence[np.random.Generator],
        look: Look,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Pictures with others of the data set mixed in: (levels, share of a picture's own, other labels).

        The other is drawn from all rows, so that a row alone is the same as among others.
        """
        change, T = self.config.augment, self.layout.positions
        chosen = np.array([int(keys[b].integers(look.rows)) for b, _ in found], np.int64)
        picks = np.array([keys[b].random() for b, _ in found])
        others = look.batch(chosen)
        label = others.get("label")
        parts, labels = [], []
        for n in range(len(found)):
            doc = others["doc"][n : n + 1] if "doc" in others else None
            inside = starts(others["kind"][n : n + 1], doc, T)
            _, start = inside[int(picks[n] * len(inside))]
            parts.append(others["pixels"][n, start : start + T])
            labels.append(-100 if label is None else label[n, start - self.marked])
        other = change.levels(
            self.layout.unfold(np.stack(parts)),
            np.stack([keys[b].random(change.chances) for b, _ in found]),
        )
        mixed, share = change.mixed(levels, other, [keys[b] for b, _ in found])
        return mixed, share, None if label is None else np.asarray(labels, label.dtype)

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        found = {**super().inputs(batch), "kind": batch["kind"], INPUT: self.seen(batch)}
        return found | {name: batch[name] for name in ("place", "group") if name in batch}

    def seen(self, batch: Batch) -> Tensor:
        """The column ``picture``: as it was drawn, else made of the pixels."""
        if INPUT in batch:
            return batch[INPUT]
        if "pixels" not in batch:
            raise DataError("a batch without picture or pixels", expected="items of this objective")
        host = {name: batch[name].cpu().numpy() for name in ("kind", "pixels")}
        return torch.from_numpy(self.patches_of(host)[INPUT]).to(batch["tokens"].device)


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def starts(kind: np.ndarray, doc: np.ndarray | None, count: int) -> list[tuple[int, int]]:
    """Where the pictures of some rows begin: (row, first patch), each of `count` patches.

    >>> starts(np.array([[0, 1, 1, 0, 1, 1]]), None, 2)
    [(0, 1), (0, 4)]
    """
    held = kind == 1
    if doc is not None:
        held = held & (doc >= 0)
    before = np.zeros_like(held)
    before[:, 1:] = held[:, :-1]
    if doc is not None:
        before[:, 1:] &= doc[:, 1:] == doc[:, :-1]
    rows, first = np.nonzero(held & ~before)
    return [(int(b), int(s)) for b, s in zip(rows, first, strict=True)]
