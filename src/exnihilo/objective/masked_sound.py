"""Masked-spectrogram pretraining: positions of a sound are hidden, and the model says what they held.

Runs of positions are drawn until a share of the sound is hidden; there stands [MASK], and what they held is
nowhere in the input. The head ``vectors`` gives it back; the loss is the mean squared error of hidden
positions alone, each target standardised by its own mean and deviation (He et al.: the model then learns the
shape, not the loudness). The result is an encoder for `sound_classification`, `ctc` and the like (``init=``).

Sources: He et al. 2021 (MAE, arXiv 2111.06377); Huang et al. 2022 (Audio-MAE, arXiv 2207.06405); Baevski et
al. 2020 (wav2vec 2.0, arXiv 2006.11477: runs).

Key: B rows, T positions, D model width, F numbers a position, N hidden positions
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from exnihilo.errors import CodecError
from exnihilo.objective._hearing import INPUT, Hearing, segments
from exnihilo.objective.base import Batch, Columns, Look

if TYPE_CHECKING:
    from exnihilo.model.model import Model

_LEAST = 1e-6  # of a variance
_RUN = 0.1  # seconds


class MaskedSound(Hearing):
    """Encoder pretraining on sounds."""

    heads: ClassVar[tuple[str, ...]] = ("vectors",)
    columns: ClassVar[frozenset[str]] = frozenset({"tokens", "doc", "pos", "kind", "sound", "mask", "target"})
    roles: ClassVar[tuple[str, ...]] = ("sound",)
    stacked: ClassVar[int] = 4  # as the classification that it is for

    class Config(Hearing.Config):
        """Options of what is heard, and

        Attributes:
            hidden: share of the positions that is hidden.
            run: positions of a run: a short stretch can be read off what is beside it; default: 0.1 s.
            normalise: targets are standardised, each by itself.
        """

        hidden: float = Field(default=0.6, gt=0, lt=1)
        run: int | None = Field(default=None, ge=1)
        normalise: bool = True

    config: MaskedSound.Config

    def draw(self, columns: Columns, keys: Sequence[np.random.Generator], look: Look) -> Columns:
        out = super().draw(columns, keys, look)
        if look.codec.mask_id is None:
            raise CodecError(
                "the tokenizer has no [MASK]", expected="codec.kind=marks", next="codec.kind=marks"
            )
        kind, sound = out["kind"].copy(), out[INPUT]
        tokens, target = out["tokens"].copy(), sound.copy()
        mask = np.zeros(kind.shape, np.int64)
        for b, start, end in segments(columns["kind"], columns.get("doc")):
            hidden = self._runs(end - start, keys[b])
            mask[b, start:end] = hidden
        hidden_BT = mask == 1
        kind[hidden_BT] = 0
        tokens[hidden_BT] = look.codec.mask_id
        sound = np.where(hidden_BT[..., None], np.float32(0), sound)
        return {**out, "kind": kind, "tokens": tokens, INPUT: sound, "target": target, "mask": mask}

    def _runs(self, size: int, draw: np.random.Generator) -> np.ndarray:
        """Which of so many positions are hidden: bool, at least one, and one is left where there are two."""
        hidden = np.zeros(size, bool)
        wanted = min(max(1, round(self.config.hidden * size)), max(1, size - 1))
        usual = max(1, round(_RUN * self.layout.second / self.layout.samples))
        run = min(self.config.run or usual, wanted)
        while (count := int(hidden.sum())) < wanted:
            at = int(draw.integers(0, size))
            hidden[at : at + min(run, wanted - count)] = True
        return hidden

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"mse": self._hidden(batch).to(torch.float64).sum()}

    def losses(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        head: Any = model.heads["vectors"]
        hidden_BT = self._hidden(batch)
        said_NF = head.logits(hidden_BTD[hidden_BT])
        said_NF = said_NF.to(torch.promote_types(said_NF.dtype, torch.float32))
        wanted_NF = batch["target"][hidden_BT].to(said_NF.dtype)
        if self.config.normalise and len(wanted_NF):
            variance_N1, mean_N1 = torch.var_mean(wanted_NF, -1, keepdim=True)
            wanted_NF = (wanted_NF - mean_N1) / (variance_N1 + _LEAST).sqrt()
        return {"mse": (said_NF - wanted_NF).square().mean(-1).sum()}

    def reads(self, batch: Batch) -> Tensor:
        return self._hidden(batch)

    @staticmethod
    def _hidden(batch: Batch) -> Tensor:
        hidden_BT = batch["mask"] == 1
        return hidden_BT & (batch["doc"] >= 0) if "doc" in batch else hidden_BT
