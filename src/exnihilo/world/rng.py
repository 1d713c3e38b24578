"""Random numbers that are the same on every machine: SplitMix64 read as a counter-based generator.

Draw k of stream key is `mix(key + (k + 1) * GOLDEN mod 2^64)`: pure integer arithmetic, random access, no
state shared between documents. `random.Random` and numpy's `Generator` are avoided, because the numbers
behind their methods may change between versions.

    draws = block(stream(seed, 7), 0, 64)      # 64 integers in [0, 2^64)

Source: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.
"""

from __future__ import annotations

import numpy as np

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
_M1, _M2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_G64 = np.uint64(GOLDEN)
_N1, _N2 = np.uint64(_M1), np.uint64(_M2)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)


def mix(x: int) -> int:
    """SplitMix64's output function: a bijection of the integers in [0, 2^64)."""
    x &= MASK
    x = ((x ^ (x >> 30)) * _M1) & MASK
    x = ((x ^ (x >> 27)) * _M2) & MASK
    return x ^ (x >> 31)


def stream(*parts: int) -> int:
    """The key of the stream named by some integers, e.g. `stream(seed, purpose, index)`."""
    key = 0
    for part in parts:
        key = mix(key + GOLDEN + mix(part & MASK))
    return key


def block(key: int, start: int, n: int) -> list[int]:
    """Draws `start .. start+n-1` of a stream, each an integer in [0, 2^64)."""
    x = np.arange(start + 1, start + n + 1, dtype=np.uint64) * _G64 + np.uint64(key)
    x = (x ^ (x >> _S30)) * _N1
    x = (x ^ (x >> _S27)) * _N2
    return (x ^ (x >> _S31)).tolist()


class Draws:
    """A stream read from its start: `below(n)`, `shuffled(items)`, `sample(items, k)`, `pick(items)`.

    `below(n)` is `u * n >> 64`, whose probabilities differ from 1/n by less than 2^-64.
    """

    def __init__(self, *parts: int) -> None:
        self._key, self._at = stream(*parts), 0

    def below(self, n: int) -> int:
        self._at += 1
        return mix(self._key + self._at * GOLDEN) * n >> 64

    def pick(self, items):
        return items[self.below(len(items))]

    def shuffled(self, items) -> list:
        out = list(items)
        for i in range(len(out) - 1, 0, -1):
            j = self.below(i + 1)
            out[i], out[j] = out[j], out[i]
        return out

    def sample(self, items, k: int) -> list:
        """k different items, in random order."""
        return self.shuffled(items)[:k]
