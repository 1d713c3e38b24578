"""Models: front ends, trunk, heads, sizes, initialisation, families."""

from exnihilo.model.count import flops_per_token, parameters
from exnihilo.model.model import Model, build
from exnihilo.model.sizes import resolve

__all__ = ["Model", "build", "flops_per_token", "parameters", "resolve"]
