"""Tasks whose truth is known, by which a measure is judged (`faith.py`): those of `world/recalls.py`, which
also make the data of the recipe ``recall``.

::

    task = make("associative_recall", length=64)
    rows_NT, lessons = task.rows(32, seed=10_000)
    lessons[0].truth, lessons[0].idle
"""

from __future__ import annotations

from exnihilo.world.recalls import (
    ASK,
    IS,
    LENGTH,
    MARK,
    NAMES,
    PAD,
    SIGNS,
    Lesson,
    Maker,
    Task,
    make,
    parse,
)

__all__ = ["ASK", "IS", "LENGTH", "MARK", "NAMES", "PAD", "SIGNS", "Lesson", "Maker", "Task", "make", "parse"]
