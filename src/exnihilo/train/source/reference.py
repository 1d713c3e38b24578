"""A frozen reference model, and a data set with its log-probabilities.

::

    reference = Reference.open(config, init, objective)        # says what it is
    dataset = reference.column(splits.train, objective, ...)   # + float32 column "ref_logp" (B, R)

The reference is what ``reference=`` says: ``init`` (what the run starts from: where that was trained with
adapters, these are merged in, so it is the fine-tuned model and not the base below it), or a run or model
folder. It is in evaluation mode, so dropout is off, and has no gradients.

`ref_logp` is log p of each predicted token at its own place, 0 where `mask` is 0, computed once for a data
set and kept in the cache: the key is the content of the data set with the layout of its rows, the content of
the weights, and the number format. A computation that is cut goes on where it was, and workers share it: it
is done in chunks of rows that are the same however many workers there are.

Key: B rows, R tokens of a row
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from exnihilo import log
from exnihilo.config import RunConfig
from exnihilo.data import cache as cached
from exnihilo.data.collate import simplify
from exnihilo.data.dataset import Dataset
from exnihilo.errors import CodecError, ConfigError, DataError
from exnihilo.interop.load import load as load_trained
from exnihilo.objective._branches import token_logps
from exnihilo.parallel.mesh import World
from exnihilo.train import precision
from exnihilo.train.lineage import adapters_merged, weights_hash

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.interop.load import Loaded
    from exnihilo.log import Progress
    from exnihilo.model.model import Model

COLUMN = "ref_logp"
CHUNK = 512  # rows of one file; a computation that was cut loses at most one
TOKENS = {"cpu": 8192, "cuda": 1 << 16}  # of one forward
FORMAT = 1  # of the files


class Reference:
    """A frozen model.

    Attributes:
        model: in evaluation mode, on its device.
        hash: of its weights.
        name: what it is, in words.
    """

    def __init__(self, model: Model, name: str) -> None:
        self.model = model.requires_grad_(False).eval()
        self.name = name
        self.hash = weights_hash(model)

    @classmethod
    def open(cls, config: RunConfig, init: Loaded | None, codec: Codec, device: torch.device) -> Reference:
        """What ``reference=`` names.

        Raises:
            ConfigError: there is none, or it is what the run starts from and that is random.
            CodecError: it was trained with another tokenizer.
        """
        what = config.reference
        if what == "none":
            raise ConfigError(
                f"reference=none, but the objective {config.objective} needs one",
                expected="init, or the folder of a run or model",
                next="leave reference out, or take a loss without one (options.loss=simpo, orpo)",
            )
        if what == "init":
            if config.init is None:
                raise ConfigError(
                    "reference=init, but there is no init=: the reference would be random weights",
                    expected="a model that was trained, e.g. by sft",
                    next="init=RUN, or reference=RUN",
                )
            where = config.init
            found = init if init is not None else load_trained(where)
        else:
            where, found = what, load_trained(what)
            if found.codec is not None and found.codec.hash != codec.hash:
                raise CodecError(
                    f"the tokenizer of reference={what} is not that of the run "
                    f"(hash {found.codec.hash[:12]}, {codec.hash[:12]})",
                    expected="the same tokenizer: log-probabilities are compared token by token",
                    next="a reference that was trained with this tokenizer",
                )
        merged = ", its adapters merged" if adapters_merged(found.path) else ""
        name = f"{where}{merged} ({'what the run starts from' if what == 'init' else 'as reference= says'})"
        model = found.model.to(device)
        return cls(model, name)

    @torch.no_grad()
    def logps(
        self, columns: Mapping[str, np.ndarray], *, temperature: float = 1.0, dtype: str = "fp32"
    ) -> np.ndarray:
        """log p of each predicted token of some rows, float32 (B, R), 0 where `mask` is 0.

        Args:
            columns: of `objective._branches.lay` as rows; more may be there.
        """
        device = next(self.model.parameters()).device
        batch: dict[str, Tensor] = {
            name: torch.from_numpy(np.ascontiguousarray(value)).to(device)
            for name, value in simplify(columns).items()
        }
        with precision.autocast(dtype, device):
            found = token_logps(self.model, batch, temperature=temperature)
        return found.float().cpu().numpy()

    def column(
        self,
        dataset: Dataset,
        *,
        world: World,
        dtype: str = "fp32",
        progress: Progress | None = None,
        cache: Path | None = None,
        what: str = "",
    ) -> Referenced:
        """The data set with the column `ref_logp`: from the cache, or computed now. All workers must call."""
        root = cached.folder(cache) / "reference"
        key = cached.digest(dataset.hash, dataset.rows, self.hash, dtype, FORMAT)
        folder = root / key
        chunks = range(0, dataset.rows, CHUNK)
        missing = world.first(lambda: [i for i in chunks if not (folder / _name(i)).is_dir()])
        verb = f"computed now for {len(missing)} of {len(chunks)} parts" if missing else "found in the cache"
        log.say(
            f"reference: {self.name}, frozen, without dropout; log-probabilities of {dataset.tokens:,} "
            f"{what}tokens {verb}"
        )
        mine = missing[world.rank :: world.size]
        if mine and progress is not None and world.main:
            progress.start("reference", total=float(len(mine) * CHUNK), unit="rows")
        for begin in mine:
            rows = np.arange(begin, min(begin + CHUNK, dataset.rows))
            with cached.building(folder, _name(begin)) as fresh:
                if fresh is not None:
                    np.save(fresh / "logp.npy", self._rows(dataset, rows, dtype))
            if progress is not None and world.main:
                progress.advance(len(rows))
        if mine and progress is not None and world.main:
            progress.stop()
        world.gather(True)  # until all parts are there
        return Referenced(dataset, [folder / _name(i) / "logp.npy" for i in chunks], self.hash)

    def _rows(self, dataset: Dataset, rows: np.ndarray, dtype: str) -> np.ndarray:
        """In forwards of so many rows whatever the run's micro-batches are: the same sums on any machine."""
        kind = next(self.model.parameters()).device.type
        size = max(1, TOKENS.get(kind, 8192) // dataset.row)
        parts = [
            self.logps(dataset.batch(rows[at : at + size]), dtype=dtype) for at in range(0, len(rows), size)
        ]
        return np.concatenate(parts).astype(np.float32)


class Referenced(Dataset):
    """A data set with one column more.

    Args:
        dataset: the rows.
        files: arrays (CHUNK, R) of all rows, one after the other.
        by: hash of the weights that made them.
    """

    def __init__(self, dataset: Dataset, files: list[Path], by: str) -> None:
        self.__dict__.update(dataset.__dict__)
        self.plain = dataset
        self.columns = {**dataset.columns, COLUMN: np.dtype(np.float32)}
        self.by = by
        try:
            self._logps = [np.load(file, mmap_mode="r", allow_pickle=False) for file in files]
        except (OSError, ValueError) as error:
            raise DataError(
                f"the reference's log-probabilities cannot be read: {error}",
                expected="the cache as it was written",
                next="remove the folder `reference` of the cache: they are computed again",
            ) from error

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """As `Dataset.batch`, with ref_logp float32 (B, R)."""
        out = self.plain.batch(rows)
        rows = np.asarray(rows, np.int64)
        logp_BR = np.zeros(out["tokens"].shape, np.float32)
        for part in np.unique(rows // CHUNK).tolist():
            at = np.flatnonzero(rows // CHUNK == part)
            logp_BR[at] = self._logps[part][rows[at] - part * CHUNK]
        return {**out, COLUMN: logp_BR}


def _name(begin: int) -> str:
    return f"rows-{begin:09d}"
