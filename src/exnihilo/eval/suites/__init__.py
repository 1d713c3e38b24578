"""Suites: what a decoder is worth on files of well-known shapes, with intervals. See docs/eval.md."""

from exnihilo.eval.suites.base import Asked, Result, Suite, create, names, parse

__all__ = ["Asked", "Result", "Suite", "create", "names", "parse"]
