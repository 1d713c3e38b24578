"""Training is over: cache, sampling, generation, scoring (see docs/sampling.md)."""

from exnihilo.infer.generate import Generation, generate, stream
from exnihilo.infer.sampling import Sampling
from exnihilo.infer.score import Choice, Probe, Score, choose, log_likelihood, log_likelihoods

__all__ = [
    "Choice",
    "Generation",
    "Probe",
    "Sampling",
    "Score",
    "choose",
    "generate",
    "log_likelihood",
    "log_likelihoods",
    "stream",
]
