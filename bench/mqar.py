"""Multi-query associative recall (MQAR), as an objective of one's own: ``objective=bench.mqar``.

    python -m exnihilo train recall objective=bench.mqar data=mqar.txt codec.kind=chars ...

A text begins with pairs of a key and its value, each key once; then keys come again, at random places among
values of the text: at each the model must name the key's value, which the text does not say again. The loss
is over these places alone. `write` makes such texts, a character a token; places are drawn by a power law, as
in the paper.

Source: Arora et al. 2023, *Zoology*, arXiv:2312.04927, section 3.2 and appendix C.1.

Key: B rows, T positions (a row holds T+1 tokens), P pairs
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from exnihilo.kernels.linear_ce import IGNORE
from exnihilo.objective._text import dtype_of, texts_of
from exnihilo.objective.base import Batch, Example, Item
from exnihilo.objective.causal_lm import shift
from exnihilo.objective.recall import Recall

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec

KEYS, VALUES = 0x4E00, 0xAC00  # the first character of either


class MQAR(Recall):
    """The value of each key that comes again."""

    columns: ClassVar[frozenset[str]] = frozenset({"tokens", "doc", "pos", "source", "answers"})

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        dtype, out = dtype_of(codec), []
        for ids in codec.encode_batch(texts_of(examples)):
            answers, pairs, at = np.zeros(len(ids) + 1, np.int32), dict[int, int](), 0
            while at + 1 < len(ids) and ids[at] not in pairs and ids[at] not in pairs.values():
                pairs[ids[at]] = ids[at + 1]
                at += 2
            for t in range(at, len(ids)):
                answers[t + 1] = pairs.get(ids[t], -1) + 1  # 0: nothing is asked
            fits = self.length is None or len(ids) <= self.length
            tokens = np.array([codec.bos_id, *ids], dtype)
            out.append([{"tokens": tokens, "answers": answers}] if fits and answers.any() else [])
        return out

    @staticmethod
    def targets(batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Of each key that comes again its value; nothing at padding."""
        inputs, _ = shift(batch)
        targets_BT = batch["answers"][:, :-1].long() - 1
        return inputs, targets_BT.where(targets_BT >= 0, IGNORE)


def write(
    path: Path,
    *,
    texts: int,
    length: int,
    pairs: int,
    vocabulary: int,
    seed: int,
    power: float = 0.01,
    append: bool = False,
) -> None:
    """Texts of `length` characters, one a line: `pairs` of half the vocabulary, then as many queries.

    Args:
        append: to the lines that the file has.
    """
    half, room = vocabulary // 2, (length - 2 * pairs) // 2
    share = power * np.arange(1, room + 1) ** (power - 1.0)
    share /= share.sum()
    lines = []
    for n in range(texts):
        chance = np.random.default_rng([seed, length, n])
        keys, values = chance.permutation(half)[:pairs], chance.integers(half, size=pairs)
        out = np.empty(length, np.int64)
        out[: 2 * pairs : 2], out[1 : 2 * pairs : 2] = KEYS + keys, VALUES + values
        out[2 * pairs :] = VALUES + values[chance.integers(pairs, size=length - 2 * pairs)]
        places = chance.choice(room, size=min(pairs, room), replace=False, p=share)
        out[2 * pairs + 2 * places] = KEYS + keys[: len(places)]
        lines.append("".join(map(chr, out.tolist())))
    with path.open("a" if append else "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]), texts=int(sys.argv[2]), length=64, pairs=8, vocabulary=128, seed=0)
