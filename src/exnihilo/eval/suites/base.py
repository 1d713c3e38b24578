"""What a suite is, and how one is found: each is a file of this folder, its name that of the file.

::

    suite = create("lambada")           # or multiple_choice, gsm8k, code, bits_per_byte
    result = suite.run(Asked(model, codec, DataConfig(sources="passages.jsonl")))
    result.figures["accuracy"], result.figures["accuracy_low"], result.figures["accuracy_high"]

A suite reads records (`_records`), asks the model, and returns figures and what became of each item. Every
share comes with a Wilson interval, every other mean with a bootstrap over what is independent (passages,
questions, documents), and with the figure of a control that knows nothing: chance, the most frequent answer,
zlib.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from exnihilo import log
from exnihilo.codec.chat import Chat
from exnihilo.config import DataConfig
from exnihilo.data.base import Drops
from exnihilo.errors import DataError, UsageError, nearest
from exnihilo.infer.interval import wilson

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

WORLD = DataConfig.model_validate({"sources": "world"})
DRAWS = 2000  # resamples of an interval


@dataclass
class Asked:
    """Whom a suite asks, and about what.

    Attributes:
        model, codec: a decoder and its tokenizer.
        data: where the items come from; "world" or "world:N": held-out ones of the embedded world.
        chat: how conversations are rendered, where the model was taught to answer; None: texts go on.
        max_examples: use at most so many items, from the beginning; None: all (of the world 200).
        shots: items that are shown with their answers before each question.
        shots_from: where they come from; None: the first ones of `data`, which are then not asked.
        samples, temperature, max_new_tokens, seed: of replies.
        grader, seconds: of replies, see docs/graders.md.
        stride: of bits_per_byte, see `likelihood.windows`.
        progress: is told what is done.
        drops: counts what is left out, with its reason and place.
    """

    model: Model
    codec: Codec
    data: DataConfig = WORLD
    chat: Chat | None = None
    max_examples: int | None = None
    shots: int = 0
    shots_from: DataConfig | None = None
    samples: int = 1
    temperature: float | None = None
    max_new_tokens: int | None = None
    seed: int = 0
    grader: str = ""
    seconds: float = 5.0
    stride: int = 0
    progress: log.Progress = field(default_factory=log.Quiet)
    drops: Drops = field(default_factory=Drops)

    def __post_init__(self) -> None:
        if "tokens" not in self.model.heads:
            raise UsageError(
                f"the model is an encoder ({', '.join(self.model.heads.keys())}): it has no likelihood of a "
                "text and writes none",
                expected="a decoder, such as a run of the recipe gpt",
                next="exnihilo eval RUN data=PATH gives its task's metrics",
            )
        for name in ("max_examples", "shots", "samples", "max_new_tokens", "stride"):
            value, least = getattr(self, name), int(name not in ("shots", "stride"))
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise UsageError(f"{name}={value!r}", expected=f"a whole number, {least} or above")
        if self.shots_from is not None and not self.shots:
            raise UsageError("shots_from without shots", expected="shots=N, N >= 1")


@dataclass(frozen=True)
class Result:
    """What a suite found.

    Attributes:
        figures: names to numbers; NAME_low and NAME_high are the 95% interval of NAME.
        items: one record an item: what was asked, what came, whether it was right.
        picture: draws it to a .png; None: it has none.
    """

    figures: dict[str, float]
    items: list[dict[str, Any]]
    picture: Callable[[Path], None] | None = None


class Suite(ABC):
    """One kind of evaluation. A file of this folder has one subclass.

    Attributes:
        summary: one line of help.
        options: which fields of `Asked` it obeys, beside model, codec, data, max_examples, progress, drops.
        needs_data: there is nothing of it in the embedded world.
    """

    summary: ClassVar[str]
    options: ClassVar[frozenset[str]] = frozenset()
    needs_data: ClassVar[bool] = False

    @abstractmethod
    def run(self, asked: Asked) -> Result:
        """Ask the model.

        Raises:
            DataError: there is nothing to ask.
            UsageError: a value that cannot be obeyed.
        """


def names() -> dict[str, str]:
    """The suites that there are, each with its line of help.

    >>> "lambada" in names()
    True
    """
    return {name: create(name).summary for name in _files()}


def create(name: str) -> Suite:
    """A suite by its name.

    Raises:
        UsageError: there is none; names the nearest.
    """
    if name not in _files():
        raise UsageError(
            f"there is no suite {name!r}", expected=nearest(name, [*_files(), "harness"]),
            next="see docs/eval.md",
        )  # fmt: skip
    module = importlib.import_module(f"{__package__}.{name}")
    [found] = [
        one
        for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, Suite) and one.__module__ == module.__name__
    ]
    return found()


def _files() -> list[str]:
    """Files of this folder that hold a suite; those with an underscore are their tools."""
    package = importlib.import_module(__package__ or "")
    found = (module.name for module in pkgutil.iter_modules(package.__path__))
    return sorted(name for name in found if name != "base" and not name.startswith("_"))


def parse(specs: str | Sequence[str]) -> list[tuple[str, str | None]]:
    """(name, path or None) of ``NAME[=PATH]``, divided by commas where it is one text.

    >>> parse("lambada,gsm8k=test.jsonl")
    [('lambada', None), ('gsm8k', 'test.jsonl')]
    """
    texts = [specs] if isinstance(specs, str) else list(specs)
    found: list[tuple[str, str | None]] = []
    for text in texts:
        for part in text.split(","):
            name, sign, path = part.strip().partition("=")
            if not name or (sign and not path):
                raise UsageError(f"suite {text!r}", expected="NAME or NAME=PATH, several with commas")
            found.append((name.replace("-", "_"), path or None))
    if not found:
        raise UsageError("no suite was given", expected=", ".join(_files()))
    if double := [one for n, one in enumerate(found) if one in found[:n]]:
        raise UsageError(f"suite {double[0][0]!r} was given twice", expected="each once")
    return found


def share(name: str, right: Sequence[bool]) -> dict[str, float]:
    """A share with its Wilson interval."""
    low, high = wilson(sum(right), len(right))
    return {name: sum(right) / len(right), f"{name}_low": low, f"{name}_high": high}


def ratio(
    tops: Sequence[float], unders: Sequence[float], *, seed: int = 0, draws: int = DRAWS
) -> tuple[float, float, float]:
    """(Σ tops / Σ unders, low, high): the percentile bootstrap over the pairs, Efron 1979.

    >>> ratio([1.0, 3.0], [1.0, 3.0])
    (1.0, 1.0, 1.0)
    """
    top_N, under_N = np.asarray(tops, np.float64), np.asarray(unders, np.float64)
    chance = np.random.default_rng(seed)
    block = max(1, 4_000_000 // len(top_N))
    found = []
    for done in range(0, draws, block):
        drawn = chance.integers(0, len(top_N), (min(block, draws - done), len(top_N)))
        found.append(top_N[drawn].sum(1) / under_N[drawn].sum(1))
    low, high = np.quantile(np.concatenate(found), [0.025, 0.975])
    return float(top_N.sum() / under_N.sum()), float(low), float(high)


def nothing(asked: Asked, what: str) -> DataError:
    """The error where no item is left."""
    lost = asked.drops.summary(": ")
    return DataError(
        f"nothing to evaluate on{lost}",
        expected=f"at least one {what} beside the shots",
        next="check data=PATH and data.fields; docs/eval.md has the shapes",
    )


def counted(asked: Asked, figures: Mapping[str, float], items: int) -> dict[str, float]:
    """Figures with how many items they come from and how many were left out."""
    return {**figures, "examples": float(items), "dropped": float(asked.drops.counts.total())}
