"""Next-token prediction on pixels: one token a pixel, row by row, a palette of at most 256 colours.

A decoder learns what pixel comes next, as `causal_lm` does of text; what it draws can be looked at:
``exnihilo sample RUN n=4 out=a.png``. A picture of 16 × 16 takes 256 positions, so that sizes are small.

Facts: the palette, learnt from pictures of the training split (`codec/picture/palette.py`).

Source: Chen et al. 2020 (image GPT, *Generative Pretraining from Pixels*).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from exnihilo.codec.marks import Waves
from exnihilo.codec.picture import palette, read
from exnihilo.codec.picture.read import Unreadable
from exnihilo.data.base import Noted
from exnihilo.errors import CodecError, ConfigError, DataError, UsageError
from exnihilo.objective.base import Example, Item
from exnihilo.objective.causal_lm import CausalLM as _CausalLM

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec

LOOKED_AT = 256  # pictures of which the palette is made


class PictureTokens(_CausalLM):
    """Decoder pretraining on pixels."""

    roles: ClassVar[tuple[str, ...]] = ("picture",)
    view: ClassVar[str] = "pictures"

    class Config(_CausalLM.Config):
        """Options.

        Attributes:
            size: pixels of a side, or [height, width]; every picture is made that size.
            channels: 3 red, green, blue; 1 luminance.
            colours: of the palette, at most.
            fit, resample, most_pixels: as of the other recipes of pictures.
            bad: files that cannot be read: ``skip`` (left out, counted with their names) or ``stop``.
        """

        size: int | tuple[int, int] = 16
        channels: Literal[1, 3] = 3
        colours: int = Field(default=64, ge=2, le=256)
        fit: read.Fit = "stretch"
        resample: read.Resample = "bilinear"
        most_pixels: int = Field(default=read.MOST, ge=1)
        bad: Literal["skip", "stop"] = "skip"

    config: Config

    def __init__(
        self, config: Any = None, *, length: int | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(config, length=length, facts=facts)
        size = self.config.size
        self.sides: tuple[int, int] = (size, size) if isinstance(size, int) else size
        if min(self.sides) < 1:
            raise ConfigError(f"options.size={size}", expected="at least 1")
        if length is not None and length < self.whole:
            raise ConfigError(
                f"model.context={length} positions, a picture takes {self.whole}",
                expected="room for a whole one",
                next=f"model.context={self.whole}, or a smaller options.size",
            )

    @property
    def whole(self) -> int:
        """Positions of a picture: one a pixel, and one to begin."""
        return self.sides[0] * self.sides[1] + 1

    @property
    def row(self) -> int | None:
        return None if self.length is None else self.whole

    @property
    def model_settings(self) -> dict[str, Any]:
        found = super().model_settings
        return found if self.row is None else {**found, "context": self.row}

    @property
    def colours(self) -> np.ndarray:
        """The palette, uint8 (K, channels)."""
        known = self.facts.get("palette")
        if not known:
            raise UsageError(
                "the palette is not known yet",
                expected="facts of a training split",
                next="survey the training examples first, or load RUN/objective.json",
            )
        return np.asarray(known, np.uint8)

    def _pixels(self, example: Example) -> np.ndarray:
        c = self.config
        how: dict[str, Any] = {"fit": c.fit, "resample": c.resample, "most": c.most_pixels}
        return read.pixels(str(example.get("picture")), self.sides, channels=c.channels, **how)

    def survey(self, examples: Iterable[Example]) -> dict[str, Any]:
        rng = np.random.default_rng(0)
        kept: list[Example] = []
        for number, example in enumerate(examples):  # an even sample of all of them
            if len(kept) < LOOKED_AT:
                kept.append(example)
            elif (at := int(rng.integers(number + 1))) < LOOKED_AT:
                kept[at] = example
        images = []
        for example in kept:
            try:
                images.append(self._pixels(example))
            except Unreadable:
                if self.config.bad == "stop":
                    raise
        if not images:
            raise DataError(
                "none of the pictures that were looked at can be read", next="exnihilo doctor says why"
            )
        return {"palette": palette.learn(images, self.config.colours).tolist()}

    def encode(self, example: Example, codec: Codec) -> Item | list[Item]:  # type: ignore[override]
        found = self.encode_many([example], codec)[0]
        return found[0] if found else []

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        if not isinstance(codec, Waves):
            raise CodecError(
                f"a codec of kind {codec.kind} has no id for a level",
                expected="codec.kind=waves, 256 levels",
                next="codec.kind=waves, or init= of a run that has it",
            )
        texts: list[Example] = []
        notes: list[str] = []
        for example in examples:
            try:
                texts.append({"text": self.text_of(self._pixels(example))})
                notes.append("")
            except Unreadable as error:
                if self.config.bad == "stop":
                    raise
                texts.append({"text": ""})
                notes.append(error.reason)
        made = super().encode_many(texts, codec)
        return [Noted([], note) if note else items for items, note in zip(made, notes, strict=True)]

    # pictures as texts ------------------------------------------------------------------------------

    def text_of(self, pixels: np.ndarray) -> str:
        """Pixels as the model reads them, a character each."""
        return palette.to_text(palette.quantise(pixels, self.colours).ravel())

    def pixels_of(self, text: str) -> np.ndarray:
        """What the model wrote, uint8 (H, W, C); pixels that it did not get to are of the first colour."""
        levels = palette.of_text(text)[: self.whole - 1]
        held = np.zeros(self.whole - 1, np.int64)
        held[: len(levels)] = levels
        return self.colours[held.clip(0, len(self.colours) - 1)].reshape(*self.sides, self.config.channels)
