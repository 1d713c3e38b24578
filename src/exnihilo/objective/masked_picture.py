"""Masked-patch pretraining: three quarters of a picture are hidden, and the model says what they held.

The encoder reads the visible patches alone, a quarter of the row; a small trunk of its own, the head
``painter``, then sees their states at their places and says what stood at the others. The loss is the mean
squared error of hidden patches alone, each target standardised by its own mean and deviation. The result is
an encoder for `picture_classification` and the like (``init=``), which has never seen a [MASK] and so is read
later as it was trained.

``options.painter=false``: [MASK]s stand in the encoder's own row, and one matrix (the head ``vectors``) reads
what they held off their states. Four times the positions for the same pictures, but no weights that are
thrown away; this is what transformers' `ViTForMaskedImageModeling` does, and is exported as that. Of a
picture of one patch, of which nothing can be hidden, there is nothing to learn.

Sources: He et al. 2021 (MAE, arXiv 2111.06377); Xie et al. 2021 (SimMIM, arXiv 2111.09886).

Key: B rows, T positions, V visible positions, D model width, F numbers a position, N hidden positions
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from exnihilo.errors import CodecError
from exnihilo.objective._seeing import INPUT, Seeing, starts
from exnihilo.objective.base import Batch, Columns, Look

if TYPE_CHECKING:
    from exnihilo.model.model import Model

_LEAST = 1e-6  # of a variance


class MaskedPicture(Seeing):
    """Encoder pretraining on pictures."""

    columns: ClassVar[frozenset[str]] = frozenset(
        {"tokens", "doc", "pos", "kind", "picture", "place", "mask", "target"}
    )
    roles: ClassVar[tuple[str, ...]] = ("picture",)

    class Config(Seeing.Config):
        """Options of what is seen, and

        Attributes:
            hidden: share of the patches that is hidden.
            normalise: targets are standardised, each by itself.
            painter: hidden patches are left out of the encoder's row; false: [MASK]s stand for them.
        """

        hidden: float = Field(default=0.75, gt=0, lt=1)
        normalise: bool = True
        painter: bool = True

        @model_validator(mode="after")
        def _check_masks(self) -> MaskedPicture.Config:
            if self.augment.mixes:
                raise ValueError("augment.mixup and cutmix have no meaning for masked pictures")
            height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
            if height * width == self.patch**2:
                raise ValueError("a picture of one patch: nothing of it can be hidden; a smaller patch")
            return self

    config: Config

    @property
    def heads(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("painter",) if self.config.painter else ("vectors",)

    # data ---------------------------------------------------------------------------------------

    def draw(self, columns: Columns, keys: Sequence[np.random.Generator], look: Look) -> Columns:
        out = super().draw(columns, keys, look)
        mask_id = look.codec.mask_id
        if not self.config.painter and mask_id is None:
            raise CodecError(
                "the tokenizer has no [MASK]", expected="codec.kind=marks", next="codec.kind=marks"
            )
        T = self.layout.positions
        mask = np.zeros(out["kind"].shape, np.int64)
        count = min(max(1, round(self.config.hidden * T)), T - 1)
        for b, start in starts(columns["kind"], columns.get("doc"), T):
            mask[b, start + keys[b].permutation(T)[:count]] = 1
        hidden_BT = mask == 1
        target = np.where(hidden_BT[..., None], out[INPUT], np.float32(0))
        seen = np.where(hidden_BT[..., None], np.float32(0), out[INPUT])
        out |= {INPUT: seen, "target": target, "mask": mask}
        if not self.config.painter and mask_id is not None:
            out["kind"] = np.where(hidden_BT, 0, out["kind"]).astype(out["kind"].dtype)
            out["tokens"] = np.where(hidden_BT, mask_id, out["tokens"]).astype(out["tokens"].dtype)
        return out

    # training -----------------------------------------------------------------------------------

    def hidden(self, model: Model, batch: Batch) -> Tensor:
        """States (B, T, ·) of all positions: the painter's, or the encoder's own."""
        if not self.config.painter:
            return super().hidden(model, batch)
        columns = super().inputs(batch)
        at_BV = _visible(batch)
        T = batch["tokens"].shape[1]
        inside_BV = at_BV < T
        raw: dict[str, Tensor] = {}
        for name, value in columns.items():
            if name == "needed":
                continue
            index = at_BV.clamp(max=T - 1).view(*at_BV.shape, *(1,) * (value.ndim - 2))
            raw[name] = torch.gather(value, 1, index.expand(*at_BV.shape, *value.shape[2:]))
        if "pos" not in raw:
            raw["pos"] = at_BV.clamp(max=T - 1)
        if not bool(inside_BV.all()) or "doc" in raw:
            doc_BV = raw.get("doc", torch.zeros_like(at_BV))
            raw["doc"] = doc_BV.where(inside_BV, -1)
        states_BVD = model(raw, self.attention)
        rest = {name: columns[name] for name in ("tokens", "pos", "place", "doc") if name in columns}
        return model({**rest, "states": states_BVD, "at": at_BV}, self.attention, through="painter")

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"mse": _hidden(batch).to(torch.float64).sum()}

    def losses(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        head: Any = model.heads[self.heads[0]]
        hidden_BT = _hidden(batch)
        said_NF = head.logits(hidden_BTD[hidden_BT])
        said_NF = said_NF.to(torch.promote_types(said_NF.dtype, torch.float32))
        wanted_NF = batch["target"][hidden_BT].to(said_NF.dtype)
        if self.config.normalise and len(wanted_NF):
            variance_N1, mean_N1 = torch.var_mean(wanted_NF, -1, keepdim=True)
            wanted_NF = (wanted_NF - mean_N1) / (variance_N1 + _LEAST).sqrt()
        return {"mse": (said_NF - wanted_NF).square().mean(-1).sum()}

    def reads(self, batch: Batch) -> Tensor | None:
        return None if self.config.painter else _hidden(batch)


def _hidden(batch: Batch) -> Tensor:
    """Which positions are hidden, bool (B, T)."""
    hidden_BT = batch["mask"] == 1
    return hidden_BT & (batch["doc"] >= 0) if "doc" in batch else hidden_BT


def _visible(batch: Batch) -> Tensor:
    """Where the positions stand that the encoder reads, int64 (B, V), T at padding: each row's own, in
    order."""
    seen_BT = batch["mask"] != 1
    if "doc" in batch:
        seen_BT = seen_BT & (batch["doc"] >= 0)
    T = seen_BT.shape[1]
    place_BT = torch.arange(T, device=seen_BT.device).expand_as(seen_BT)
    count = max(1, int(seen_BT.sum(1).max()))
    return place_BT.where(seen_BT, T).sort(1).values[:, :count]
