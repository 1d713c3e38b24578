"""What a model is worth: loss over a split, metrics with intervals."""

from exnihilo.eval.loss import evaluate
from exnihilo.eval.metrics import Mean, Totals, bootstrap, wilson

__all__ = ["Mean", "Totals", "bootstrap", "evaluate", "wilson"]
