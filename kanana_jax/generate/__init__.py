"""Text from a model: a cache of latents, sampling, and a queue of requests."""

from kanana_jax.generate.engine import Engine, Piece, Request
from kanana_jax.generate.load import Loaded, load
from kanana_jax.generate.sampling import Sampling

__all__ = ["Engine", "Loaded", "Piece", "Request", "Sampling", "load"]
