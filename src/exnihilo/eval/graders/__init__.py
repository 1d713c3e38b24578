"""Graders: ``grade(example, completion) -> float | None``, for evaluation and for RL. See docs/graders.md."""

from exnihilo.eval.graders.base import Graded, Grader, GraderError, grade_many
from exnihilo.eval.graders.registry import create, names

__all__ = ["Graded", "Grader", "GraderError", "create", "grade_many", "names"]
