"""The source ``recall:TASK[:LENGTH[:TEXTS]]``: tasks of recall as texts, a character a token.

::

    data=recall:needle              # 30,000 texts of up to 32 characters, whose last one is the answer
    data=recall:copy_first:256

They are generated, the same at every call; what each answer depends on is known (`world/recalls.py`), so a
model that is trained on them says whether a map of influence is to be trusted (`exnihilo probe`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from exnihilo.config import DataConfig, SourceConfig
from exnihilo.data import cache as cached
from exnihilo.data.base import Drops, Example
from exnihilo.data.sources import Source, Want
from exnihilo.errors import ConfigError
from exnihilo.world import recalls

SEED = 0  # of training texts: judges draw from others


class RecallSource(Source):
    """Texts of one task."""

    kind = "recall"

    def __init__(self, config: SourceConfig, data: DataConfig, want: Want) -> None:
        found = recalls.parse(config.path)
        if found is None:
            raise ConfigError(f"data={config.path}", expected="recall:TASK", next="e.g. recall:needle")
        super().__init__(config, data, want)
        self.task, self.count = found
        lacking = [role for role in self.roles if role != "text"]
        if lacking or self.given:
            raise ConfigError(
                f"data={config.path} has texts alone, no {', '.join(lacking) or 'columns to choose from'}",
                expected="a training type that reads texts",
                next="exnihilo train recall data=recall:TASK",
            )
        self.name = config.name or self.task.name
        self.names = (self.task.name,)
        self.format = f"{self.task.name}, up to {self.task.length} tokens a text"

    def read(self, file: int, drops: Drops | None = None) -> Iterator[Example]:
        for n in range(self.count):
            tokens_T = recalls.lesson(self.task, SEED, n).tokens_T
            yield {"text": self.task.text(tokens_T), "_file": file, "_index": n}

    def content(self, cache: Path, workers: int) -> object:
        # the generator's own source is its content, and NumPy's may change with its version
        made = cached.hash_files([Path(recalls.__file__)], cache, "recalls", workers)
        return ["recall", self.task.name, self.task.length, self.count, np.__version__, *made]
