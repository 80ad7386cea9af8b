"""What an engine is asked for, and what it hands out."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from kanana_jax.errors import UserError
from kanana_jax.generate.sampling import Sampling


class RequestError(UserError, ValueError):
    """A request that can never be served, with the settings that there are."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt and how to go on from it.

    `drawn` is what an answer that was cut off holds already. Under the same weights it goes on as
    if it had not been cut: places of the seed, stop strings and `max_tokens` count from its
    beginning. What is handed out begins after it.
    """

    prompt: Sequence[int]
    max_tokens: int = 128
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    drawn: Sequence[int] = ()


class Piece(NamedTuple):
    """New text of a request; the last one says why it ended."""

    request: int  # the number that `submit` returned
    text: str
    token: int
    finish_reason: Literal["stop", "length"] | None = None
    # Of the token, in the distribution that it was drawn from: after temperature and filters.
    logp: float = 0.0
    version: int = 0  # of the weights that drew it
    # Experts of the tokens read since the last piece, if the engine keeps them: of the prompt and
    # what was drawn already for the first, of one token for each later one.
    routes: Int[np.ndarray, "S L K"] | None = None
