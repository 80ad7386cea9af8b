"""What a model wrote behind a prompt."""

from typing import NamedTuple


class Answer(NamedTuple):
    ids: tuple[int, ...]  # as they were drawn, with the token that ended them
    text: str
    is_ended: bool  # by the model, not by a limit
