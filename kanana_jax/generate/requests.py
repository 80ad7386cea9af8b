"""What an engine is asked for, and what it hands out."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
from jaxtyping import Int, UInt32

from kanana_jax import model
from kanana_jax.errors import UserError
from kanana_jax.generate.logprobs import Logprobs
from kanana_jax.generate.processors import NOTHING, Processors
from kanana_jax.generate.sampling import Sampling


class RequestError(UserError, ValueError):
    """A request that can never be served with the present settings."""


class Matcher(Protocol):
    """Follows one answer, and says what may come next."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing can follow."""
        ...

    @property
    def has_given_up(self) -> bool:
        """Whether it no longer follows the answer."""
        ...

    def allowed(self) -> UInt32[np.ndarray, "W"]:
        """A bit per token; if the matcher gives up here, that of an end."""
        ...

    def push(self, token: int) -> None: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt and how to go on from it.

    `drawn` holds the tokens of an answer that was cut off. Under the same weights the answer goes
    on as if it had not been cut off: places of the seed, stop strings and `max_tokens` count from
    its beginning. What is handed out begins after `drawn`.

    The first of the model's ends and `stop_ids` to come ends the answer; `ignores_eos` leaves out
    the model's. `constraint` makes a matcher for each answer, which its tokens obey.
    """

    prompt: Sequence[int]
    max_tokens: int = 128
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    drawn: Sequence[int] = ()
    processors: Processors = NOTHING
    stop_ids: Sequence[int] = ()
    ignores_eos: bool = False
    constraint: Callable[[], Matcher] | None = None
    num_top_logprobs: int | None = None  # most likely tokens beside each; None: no logprobs at all
    has_prompt_logprobs: bool = False
    has_special_tokens: bool = False  # whether their text is shown
    # A row of `model.Features` without the batch axis; its `slots` are the prompt's.
    features: model.Features | None = None

    @property
    def is_processed(self) -> bool:
        """Whether its tokens need more than sampling."""
        return (
            self.processors != NOTHING
            or self.constraint is not None
            or self.num_top_logprobs is not None
        )


class Piece(NamedTuple):
    """New text of a request; the last one says why it ended."""

    request: int  # the number that `submit` returned
    text: str
    token: int
    finish_reason: Literal["stop", "length"] | None = None
    # Of the token, in the distribution that it was drawn from: after temperature and filters.
    logp: float = 0.0
    version: int = 0  # of the weights that drew it
    # Experts of the tokens read since the last piece, if the engine keeps them. The first piece
    # has those of the prompt and of `drawn`, each later piece those of one token.
    routes: Int[np.ndarray, "S L K"] | None = None
    logprobs: Logprobs | None = None  # of the token, where they were asked for
    prompt_logprobs: Logprobs | None = None  # of all tokens of the prompt but the first
