"""Next-token prediction on raw sound: one token a sample, 256 levels of the mu-law.

A decoder learns what comes next, sample by sample, as `causal_lm` does of text; nothing is thrown away, so
what it continues can be heard: ``exnihilo sample RUN max_new_tokens=8000 out=a.wav``. One second takes as
many tokens as the rate says, so that rates are low and sounds short.

Sources: van den Oord et al. 2016 (WaveNet, arXiv 1609.03499); Child et al. 2019 (raw audio with a
transformer, arXiv 1904.10509).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from exnihilo.codec.marks import Waves
from exnihilo.codec.sound import mulaw
from exnihilo.codec.sound.read import Unreadable, load
from exnihilo.data.base import Noted
from exnihilo.errors import CodecError
from exnihilo.objective.base import Example, Item
from exnihilo.objective.causal_lm import CausalLM as _CausalLM

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec


class SoundTokens(_CausalLM):
    """Decoder pretraining on samples."""

    roles: ClassVar[tuple[str, ...]] = ("sound",)
    view: ClassVar[str] = "sounds"

    class Config(_CausalLM.Config):
        """Options.

        Attributes:
            rate: samples a second; files of another rate are resampled.
            bad: files that cannot be read: ``skip`` (left out, counted with their names) or ``stop``.
        """

        rate: int = Field(default=8000, ge=1000, le=48_000)
        bad: Literal["skip", "stop"] = "skip"

    config: SoundTokens.Config

    def encode(self, example: Example, codec: Codec) -> Item | list[Item]:  # type: ignore[override]
        found = self.encode_many([example], codec)[0]
        return found[0] if found else []

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        if not isinstance(codec, Waves):
            raise CodecError(
                f"a codec of kind {codec.kind} has no id for a sample",
                expected="codec.kind=waves",
                next="codec.kind=waves, or init= of a run that has it",
            )
        texts: list[Example] = []
        notes: list[str] = []
        for example in examples:
            try:
                wave = load(str(example["sound"]), self.config.rate)
            except Unreadable as error:
                if self.config.bad == "stop":
                    raise
                texts.append({"text": ""})
                notes.append(error.reason)
            else:
                texts.append({"text": mulaw.to_text(mulaw.encode(wave))})
                notes.append("")
        made = super().encode_many(texts, codec)
        return [Noted([], note) if note else items for items, note in zip(made, notes, strict=True)]
