"""Text from a model: a cache, sampling, chat templates, and a queue of requests."""

from kanana_jax import extras

with extras.needed("train"):
    from kanana_jax.generate.answers import Answer, answers
    from kanana_jax.generate.chat import ChatError
    from kanana_jax.generate.engine import Engine
    from kanana_jax.generate.features import Room
    from kanana_jax.generate.load import Loaded, load
    from kanana_jax.generate.processors import Processors
    from kanana_jax.generate.requests import Piece, Request, RequestError
    from kanana_jax.generate.sampling import Sampling

__all__ = [
    "Answer",
    "ChatError",
    "Engine",
    "Loaded",
    "Piece",
    "Processors",
    "Request",
    "RequestError",
    "Room",
    "Sampling",
    "answers",
    "load",
]
