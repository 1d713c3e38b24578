"""Predictions of a saved run: load it, answer texts, or work through a file."""

from exnihilo.predictions.file import predict_file
from exnihilo.predictions.rows import read_rows
from exnihilo.predictions.run import Run, ask, load_predictor, load_run, objective_of, top

__all__ = ["Run", "ask", "load_predictor", "load_run", "objective_of", "predict_file", "read_rows", "top"]
