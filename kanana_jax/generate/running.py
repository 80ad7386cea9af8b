"""A request from its submission to its last token.

Letters: B rows, M tokens of a step, W words of 32 bits.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int, UInt32

from kanana_jax.generate import device, text
from kanana_jax.generate.requests import Matcher, Request


@dataclasses.dataclass
class Running:
    """A request from its submission on."""

    number: int
    request: Request
    stream: text.TextStream
    token: int = 0  # that was drawn last
    num_drawn: int = 0
    routes: list[np.ndarray] = dataclasses.field(default_factory=list)  # since the last piece
    matcher: Matcher | None = None

    @property
    def position(self) -> int:
        """The position of the token that was drawn last."""
        return len(self.request.prompt) + self.num_drawn - 1

    @property
    def is_forced(self) -> bool:
        """Whether the next token was drawn before the answer was cut off."""
        return self.num_drawn < len(self.request.drawn)

    def begin(self) -> None:
        """Takes up the constraint, where there is one."""
        if self.request.constraint is not None:
            self.matcher = self.request.constraint()

    def match(self, token: int) -> Literal["stop", "length"] | None:
        """Why the constraint ends the answer after `token`."""
        if self.matcher is None:
            return None
        self.matcher.push(token)
        if self.matcher.is_whole:
            return "stop"
        return "length" if self.matcher.has_given_up else None

    def is_end(self, token: int, eos_ids: frozenset[int]) -> bool:
        """Whether `token` ends the answer; `eos_ids` are the model's."""
        return token in self.request.stop_ids or (token in eos_ids and not self.request.ignores_eos)

    def processing(self, eos_ids: frozenset[int]) -> device.Processing | None:
        """How the next token is processed; None: not at all."""
        request = self.request
        if not request.is_processed:
            return None
        ends = (frozenset() if request.ignores_eos else eos_ids).union(request.stop_ids)
        return device.Processing(
            request.processors,
            ends,
            None if self.matcher is None else self.matcher.allowed,
            request.num_top_logprobs is not None,
        )


class Anything:
    """A matcher that allows all."""

    is_whole = has_given_up = False

    def __init__(self, num_words: int):
        self._allowed_W = np.full(num_words, 2**32 - 1, np.uint32)

    def allowed(self) -> UInt32[np.ndarray, "W"]:
        return self._allowed_W

    def push(self, token: int) -> None:
        pass


def forced(rows: Sequence[Running | None], num_tokens: int) -> Int[np.ndarray, "M B"]:
    """For each row the next tokens that were drawn before its answer was cut off, then -1."""
    forced_MB = np.full((num_tokens, len(rows)), -1, np.int32)
    for row, one in enumerate(rows):
        if one and one.is_forced:
            known = one.request.drawn[one.num_drawn : one.num_drawn + num_tokens]
            forced_MB[: len(known), row] = known
    return forced_MB
