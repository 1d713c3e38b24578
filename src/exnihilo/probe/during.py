"""Influence during training, beside the validation loss: cheap, and it leaves no trace (``eval.probe=4``).

::

    figures = watch(model, objective, dataset, codec, texts=4)
    figures["first_to_last"], figures["reach"]

Resampling at distances 0, 1, 2, 4, 8 ... from the last output, of a few validation documents, the same ones
at every call: some twelve positions instead of all. Where one output stands for the whole example, sixteen
positions at even distances, and `reach` is how many of its positions hold 90%.

Key: N documents, T positions
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from exnihilo.objective.base import Objective
from exnihilo.probe import influence
from exnihilo.probe.examples import of_dataset
from exnihilo.probe.subject import Subject

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.data.dataset import Dataset
    from exnihilo.model.model import Model

EVEN = 16  # positions of an example with one output
DRAWS = 2


def subject_of(model: Model, objective: Objective) -> Subject:
    """What speaks for a model that is being trained: as in `exnihilo probe`.

    Raises:
        UsageError: nothing does.
    """
    if not model.config.inputs and set(model.config.outputs) & {"tokens", "mlm"}:
        return Subject.of(model)
    return Subject.of(model, objective)


def watch(
    model: Model, objective: Objective, dataset: Dataset, codec: Codec, *, texts: int = 4
) -> dict[str, float]:
    """Figures of a few documents.

    Args:
        dataset: the validation split. texts: documents, one of each of so many rows.

    Returns:
        ``first_to_last``: mean nats from the first position that is no mark to the last output; ``reach``:
        the distance that holds 90% of what the last output reads, by the positions that were measured.
    """
    subject = subject_of(model, objective)
    rows = of_dataset(objective, dataset, codec, model, texts)
    if not len(rows):
        return {}
    special = set(codec.special_ids)
    begins = [rows.first(n, special) for n in range(len(rows))]
    chosen = [
        sorted({begin, *(_even(length) if subject.single else _doubling(length))})
        for begin, length in zip(begins, rows.lengths, strict=True)
    ]
    firsts, cumulative = [], []
    swap = influence.Others(rows)
    for n, length in enumerate(rows.lengths):
        found = influence.resampling(
            subject,
            rows.alone(n),
            swap=swap,
            sites=None if subject.single else [length - 1],
            positions=[chosen[n]],
            draws=DRAWS,
            seed=n,
        )
        nats_T = np.nan_to_num(found.nats_NQT[0, 0])
        firsts.append(nats_T[begins[n]])
        cumulative.append((chosen[n], nats_T[chosen[n]], length))
    return {"first_to_last": float(np.mean(firsts)), "reach": _reach(cumulative, subject.single)}


def _doubling(length: int) -> list[int]:
    """Positions at distances 0, 1, 2, 4 ... from the last one, and the first: ascending.

    >>> _doubling(10)
    [0, 1, 5, 7, 8, 9]
    """
    far = {0, length - 1}
    step = 1
    while step < length:
        far.add(step)
        step *= 2
    return sorted(length - 1 - d for d in far)


def _even(length: int) -> list[int]:
    """Positions at even distances.

    >>> _even(4)
    [0, 1, 2, 3]
    """
    return sorted({round(i * (length - 1) / max(1, EVEN - 1)) for i in range(EVEN)})


def _reach(measured: list[tuple[list[int], np.ndarray, int]], whole: bool) -> float:
    """Mean over the documents of the distance that holds 90%, each measured position standing for those up to
    the next nearer one."""
    out = []
    for at, nats_K, length in measured:
        if whole:
            sums = np.sort(nats_K)[::-1].cumsum() * length / len(at)
            places = np.arange(1, len(at) + 1) * length / len(at)
        else:
            far = length - 1 - np.array(at[::-1])  # ascending distances
            width = np.diff(np.concatenate(([-1], far)))
            sums, places = (nats_K[::-1] * width).cumsum(), far.astype(float)
        out.append(float(places[np.searchsorted(sums, 0.9 * sums[-1])]) if sums[-1] > 0 else 0.0)
    return float(np.mean(out))
