"""Masked-patch pretraining on series: patches are hidden anywhere in a window, and the model says what they
held.

Runs of patches are drawn until a share of the window is hidden. What is asked of a hidden patch is what
forecasting asks of the future, in the same words (`_windows`): quantiles of each value, by the same head. So
the whole model, its head too, goes on as a forecaster (``init=``), and its trunk as a classifier of single
channels. It reads the training part of the split alone.

Sources: Nie et al. 2023 (PatchTST, arXiv 2211.14730, section 3.2); He et al. 2021 (MAE, arXiv 2111.06377).

Key: N windows, P patches
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from exnihilo.objective._windows import Windowed


class MaskedSeries(Windowed):
    """Encoder pretraining on series."""

    supervised: ClassVar[bool] = False

    class Config(Windowed.Config):
        """Options of windows, and

        Attributes:
            hidden: share of the patches that is hidden.
            run: patches of a run: one can be read off its neighbours, a run cannot.
        """

        hidden: float = Field(default=0.4, gt=0, lt=1)
        run: int = Field(default=2, ge=1)

    config: MaskedSeries.Config

    def hidden_of(self, seen_NP: np.ndarray, keys: Sequence[np.random.Generator] | None) -> np.ndarray:
        N, P = seen_NP.shape
        hidden_NP = np.zeros((N, P), bool)
        wanted = min(max(1, round(self.config.hidden * P)), max(1, P - 1))
        run = min(self.config.run, wanted)
        if keys is None:  # nothing is asked: the middle
            hidden_NP[:, (P - wanted) // 2 : (P - wanted) // 2 + wanted] = True
            return hidden_NP
        for hidden_P, draw in zip(hidden_NP, keys, strict=True):
            while (count := int(hidden_P.sum())) < wanted:
                at = int(draw.integers(0, P))
                hidden_P[at : at + min(run, wanted - count)] = True
        return hidden_NP
