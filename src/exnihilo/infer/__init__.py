"""Training is over: cache, sampling, generation, scoring (see docs/sampling.md)."""

from exnihilo.infer.engine import Engine
from exnihilo.infer.generate import Generation, generate, stream
from exnihilo.infer.request import Completion, Request, Token
from exnihilo.infer.sampling import Sampling
from exnihilo.infer.score import Choice, Probe, Score, choose, log_likelihood, log_likelihoods

__all__ = [
    "Choice",
    "Completion",
    "Engine",
    "Generation",
    "Probe",
    "Request",
    "Sampling",
    "Score",
    "Token",
    "choose",
    "generate",
    "log_likelihood",
    "log_likelihoods",
    "stream",
]
