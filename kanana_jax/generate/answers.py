"""Whole answers of an engine, where nobody waits for their parts."""

from collections.abc import Sequence
from typing import NamedTuple

from kanana_jax.generate.engine import Engine, Request


class Answer(NamedTuple):
    ids: tuple[int, ...]  # as they were drawn, with the token that ended them
    text: str
    is_ended: bool  # by the model, not by a limit


def answers(engine: Engine, requests: Sequence[Request]) -> list[Answer]:
    """What the model says to each request; RequestError where one can never be served."""
    ids: list[list[int]] = [[] for _ in requests]
    texts, reasons = [""] * len(requests), [""] * len(requests)
    for piece in engine.run(requests):
        ids[piece.request].append(piece.token)
        texts[piece.request] += piece.text
        reasons[piece.request] = piece.finish_reason or ""
    return [
        Answer(tuple(one), text, reason == "stop")
        for one, text, reason in zip(ids, texts, reasons, strict=True)
    ]
