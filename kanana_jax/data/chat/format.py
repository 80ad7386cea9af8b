"""What a chat format is: functions from messages to pieces and from a turn's text to a message."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from kanana_jax.data.chat import template
from kanana_jax.data.chat.messages import Message, Tool
from kanana_jax.data.chat.pieces import Origin, Piece


class FormatError(ValueError):
    """A turn of the model that its format cannot read."""


class Render(Protocol):
    """The pieces of a conversation.

    The pieces of some messages, with the generation prompt, begin the pieces of more messages.
    Results of one turn's calls are taken together.
    """

    def __call__(
        self, messages: Sequence[Message], tools: Sequence[Tool], add_generation_prompt: bool = ...
    ) -> list[Piece]: ...


@dataclass(frozen=True, kw_only=True)
class Format:
    """How messages become text, and a turn's text a message."""

    name: str
    render: Render
    # What the model wrote in one turn, without the token that ends it; raises FormatError.
    parse: Callable[[str], Message]
    template: str  # its twin in Jinja, which writes the same text; empty: none
    end: str = ""  # the token that ends a turn, where the tokenizer has it; else EOS does
    # For a template: `render` writes BOS itself, and how to read a turn is not known.
    is_foreign: bool = False


def expect_twin(fmt: Format) -> None:
    """ValueError where the template does not write what `render` does: a mistake of the program."""
    user = {"role": "user", "content": "a"}
    messages = [user, {"role": "assistant", "content": "b"}, user]
    end = fmt.end or "</s>"
    pieces = fmt.render(messages, (), True)
    wanted = "".join(piece.text + end * piece.is_closed for piece in pieces)
    found = template.Template(fmt.template, {"eos_token": "</s>"}).render(messages)
    if found != wanted:
        raise ValueError(
            f"expected the template of the format {fmt.name} to write {wanted!r}, as its render "
            f"does, got {found!r}; write the same in both, or leave the template empty"
        )


def turn_text(fmt: Format, message: Message) -> str:
    """The text of an assistant's message as the model writes it, without the token that ends it."""
    user = {"role": "user", "content": ""}
    pieces = fmt.render([user, message], ())
    return "".join(piece.text for piece in pieces if piece.origin is Origin.MODEL)
