"""The command line: `exnihilo VERB ...`; each verb is also a function of the Python API."""

from exnihilo.cli.main import main

__all__ = ["main"]
