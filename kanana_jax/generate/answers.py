"""Whole answers of an engine, where nobody waits for their parts.

Letters: S tokens read, L MoE layers, K experts of a token.
"""

import base64
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from kanana_jax.generate.engine import Engine
from kanana_jax.generate.requests import Piece, Request


class Answer(NamedTuple):
    """What was drawn for a request, without what had been drawn before (`Request.drawn`)."""

    ids: tuple[int, ...]  # as they were drawn, with the token that ended them
    text: str
    is_ended: bool  # by the model, not by a limit
    logps: tuple[float, ...] = ()  # of the ids, in the distributions that they were drawn from
    versions: tuple[int, ...] = ()  # of the weights that drew them
    # The experts of the prompt, `Request.drawn` and the ids but the last, which was never read.
    routes: Int[np.ndarray, "S L K"] | None = None


def answers(engine: Engine, requests: Sequence[Request]) -> list[Answer]:
    """What the model says to each request; RequestError where one can never be served."""
    pieces: list[list[Piece]] = [[] for _ in requests]
    for piece in engine.run(requests):
        pieces[piece.request].append(piece)
    return list(map(_joined, pieces))


def _joined(pieces: Sequence[Piece]) -> Answer:
    routes = [one.routes for one in pieces if one.routes is not None]
    return Answer(
        ids=tuple(one.token for one in pieces),
        text="".join(one.text for one in pieces),
        is_ended=pieces[-1].finish_reason == "stop",
        logps=tuple(one.logp for one in pieces),
        versions=tuple(one.version for one in pieces),
        routes=np.concatenate(routes) if routes else None,
    )


def to_json(answer: Answer) -> list[Any]:
    """The answer as JSON, its routes as base64 of their bytes."""
    *rest, routes = answer
    return [*rest, routes_to_json(routes)]


def from_json(told: Sequence[Any]) -> Answer:
    """The answer from which `to_json` made this, bit for bit."""
    ids, text, is_ended, logps, versions, routes = told
    found = routes_from_json(routes)
    return Answer(tuple(ids), text, is_ended, tuple(logps), tuple(versions), found)


def routes_to_json(routes: np.ndarray | None) -> Any:
    if routes is None:
        return None
    data = base64.b64encode(np.ascontiguousarray(routes)).decode("ascii")
    return [routes.dtype.str, routes.shape, data]


def routes_from_json(told: Any) -> np.ndarray | None:
    """The routes from which `routes_to_json` made this, bit for bit."""
    if told is None:
        return None
    dtype, shape, data = told
    return np.frombuffer(base64.b64decode(data), dtype).reshape(shape)
