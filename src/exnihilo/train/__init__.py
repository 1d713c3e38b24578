"""The training loop: one for every training type. See docs/training.md and docs/resume.md."""

from exnihilo.train.loop import Result
from exnihilo.train.run import run

__all__ = ["Result", "run"]
