"""What is probed with: N inputs of a model, of tokens or of what else its front end reads, and what one
position of them is swapped for.

::

    rows = Rows.of(rows_NT)                                      # token ids of N texts
    rows = Rows.of(items, inputs=tuple(model.config.inputs))     # items of an objective: sounds, pictures ...

A swap is a token of another text, or the numbers that the same position of another example holds.

Key: N examples, T positions, S swapped copies, F numbers a position
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from exnihilo.errors import UsageError

Swap = Callable[[np.random.Generator, np.ndarray, int], int]
"""(random numbers, a text's tokens, a position) -> another token for that position, of the same class."""

Item = Mapping[str, np.ndarray]
Change = int | np.ndarray | None
"""Another token, other numbers, or None: nothing else could stand there."""


@dataclass(frozen=True)
class Rows:
    """N examples.

    Attributes:
        items: columns of each, (T, ...); all have ``tokens``, those with numbers ``kind``.
        inputs: columns of numbers: position t holds those of the n-th where ``kind`` is n > 0.
        donors: examples whose numbers others are swapped for; default: the items.
    """

    items: tuple[dict[str, np.ndarray], ...]
    inputs: tuple[str, ...] = ()
    donors: tuple[dict[str, np.ndarray], ...] = ()

    @classmethod
    def of(cls, given: Given, inputs: Iterable[str] = ()) -> Rows:
        """Of token ids (N, T), of items, or as it is.

        Raises:
            UsageError: none, or not of that shape.
        """
        if isinstance(given, Rows):
            return given
        if isinstance(given, (list, tuple)) and given and isinstance(given[0], Mapping):
            items = [{name: np.asarray(value) for name, value in item.items()} for item in given]
            held = [{n: v for n, v in item.items() if v.ndim} for item in items]
            if any(not len(item["tokens"]) for item in held):
                raise UsageError("an example without a position", expected="at least one of each")
            return cls(tuple(held), tuple(inputs))
        rows_NT = np.asarray(given)
        if rows_NT.ndim != 2 or not rows_NT.size:
            raise UsageError(
                f"texts of shape {rows_NT.shape}", expected="(texts, positions), at least one of each"
            )
        return cls(tuple({"tokens": row} for row in rows_NT.astype(np.int64)))

    def __len__(self) -> int:
        return len(self.items)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Positions of each."""
        return tuple(len(item["tokens"]) for item in self.items)

    def kind(self, n: int, t: int) -> int:
        """What position t of example n holds: 0 a token, else the number of an input."""
        kinds = self.items[n].get("kind") if self.inputs else None
        return 0 if kinds is None else int(kinds[t])

    def first(self, n: int, special: Collection[int]) -> int:
        """The first position of an example that says anything: no mark."""
        tokens = self.items[n]["tokens"]
        spoken = (t for t in range(len(tokens)) if self.kind(n, t) or int(tokens[t]) not in special)
        return next(spoken, 0)

    def cut(self, length: int) -> Rows:
        """The first positions of each."""
        return Rows(tuple({k: v[:length] for k, v in item.items()} for item in self.items), self.inputs)

    def alone(self, n: int) -> Rows:
        """One example, with the others as its donors."""
        return Rows((self.items[n],), self.inputs, self.donors or self.items)

    def shuffled(self, seed: int) -> Rows:
        """What the positions hold in random order, those of a kind among themselves."""
        out = []
        for n, item in enumerate(self.items):
            random = np.random.default_rng([seed, n])
            mixed = {name: value.copy() for name, value in item.items()}
            kinds = item["kind"] if self.inputs and "kind" in item else np.zeros(len(item["tokens"]), int)
            for kind in np.unique(kinds):
                at = np.flatnonzero(kinds == kind)
                name = "tokens" if kind == 0 else self.inputs[kind - 1]
                mixed[name][at] = item[name][random.permutation(at)]
            out.append(mixed)
        return Rows(tuple(out), self.inputs)

    def other(self, random: np.random.Generator, n: int, t: int, swap: Swap) -> Change:
        """What position t of example n is swapped for."""
        kind = self.kind(n, t)
        if kind == 0:
            tokens = self.items[n]["tokens"]
            new = swap(random, tokens, t)
            return None if new == tokens[t] else new
        name = self.inputs[kind - 1]
        others = [d for d in self.donors or self.items if d is not self.items[n]]
        same = [d for d in others if t < len(d["kind"]) and d["kind"][t] == kind]
        if same:
            return same[int(random.integers(len(same)))][name][t]
        places = [(d, s) for d in others for s in np.flatnonzero(d["kind"] == kind).tolist()]
        if not places:  # alone: another position of its own
            own = self.items[n]
            places = [(own, s) for s in np.flatnonzero(own["kind"] == kind).tolist() if s != t]
        if not places:
            return None
        donor, s = places[int(random.integers(len(places)))]
        return donor[name][s]

    def batch(
        self, n: int, device: torch.device, changes: Sequence[Mapping[int, Change]] = ({},)
    ) -> dict[str, Tensor]:
        """Copies of example n, one for each of the changes (position -> what stands there instead)."""
        columns = {
            name: np.repeat(value[None], len(changes), 0)
            if name in self.inputs or name == "tokens"
            else np.broadcast_to(value[None], (len(changes), *value.shape))
            for name, value in self.items[n].items()
        }
        for s, change in enumerate(changes):
            for t, new in change.items():
                if isinstance(new, np.ndarray):
                    columns[self.inputs[self.kind(n, t) - 1]][s, t] = new
                elif new is not None:
                    columns["tokens"][s, t] = new
        return {name: _tensor(value, device) for name, value in columns.items()}


Given = np.ndarray | Sequence[Item] | Rows
"""What influence is measured on: token ids (N, T), items, or `Rows`."""


def _tensor(value: np.ndarray, device: torch.device) -> Tensor:
    if value.dtype.kind in "iu":
        value = value.astype(np.int64)
    elif value.dtype == np.float64:
        value = value.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(value)).to(device)


class Others:
    """Swaps a token for one that stands at the same position in another text: of its own class, if position
    decides the class; else for any other token of the texts. Where a model reads numbers, too, a token that
    is the same in all examples is a mark, and stays.

    Args:
        rows: the texts: ids (N, T), or `Rows`.
        classes: token id -> class, where classes are known: the swap is then drawn from the same class.

    Example:
        >>> swap = Others(np.array([[1, 2], [1, 3]]))
        >>> swap(np.random.default_rng(0), np.array([1, 2]), 1)
        3
    """

    def __init__(self, rows: Given, classes: np.ndarray | None = None) -> None:
        self._rows, self._classes = Rows.of(rows), classes
        self._at: dict[int, np.ndarray] = {}
        tokens = [item["tokens"] for item in self._rows.items]
        self._all = np.unique(np.concatenate(tokens)) if not self._rows.inputs else np.zeros(0, np.int64)

    def __call__(self, random: np.random.Generator, tokens: np.ndarray, position: int) -> int:
        """Another token; the same one only where there is no other."""
        old = tokens[position]
        if self._classes is not None:
            choices = np.flatnonzero(self._classes == self._classes[old])
        else:
            choices = self._here(position)
            if not (choices != old).any():
                choices = self._all
        choices = choices[choices != old]
        return int(random.choice(choices)) if len(choices) else int(old)

    def _here(self, position: int) -> np.ndarray:
        """The tokens that stand at a position."""
        if position not in self._at:
            rows = self._rows
            there = [n for n in range(len(rows)) if position < rows.lengths[n] and not rows.kind(n, position)]
            self._at[position] = np.unique([rows.items[n]["tokens"][position] for n in there])
        return self._at[position]
