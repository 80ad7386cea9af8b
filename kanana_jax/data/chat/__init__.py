"""Conversations with tools and reasoning: their messages, their text, and the origin of each id."""

from kanana_jax.data.chat.choice import chosen, own
from kanana_jax.data.chat.encoding import Encoded, continuation, encode, encode_pieces, end_id
from kanana_jax.data.chat.format import Format, FormatError, Render
from kanana_jax.data.chat.hermes import HERMES
from kanana_jax.data.chat.messages import (
    Message,
    Tool,
    checked_calls,
    checked_messages,
    checked_tools,
)
from kanana_jax.data.chat.pieces import Origin, Piece
from kanana_jax.data.chat.plain import PLAIN
from kanana_jax.data.chat.template import Template, TemplateError

__all__ = [
    "HERMES",
    "PLAIN",
    "Encoded",
    "Format",
    "FormatError",
    "Message",
    "Origin",
    "Piece",
    "Render",
    "Template",
    "TemplateError",
    "Tool",
    "checked_calls",
    "checked_messages",
    "checked_tools",
    "chosen",
    "continuation",
    "encode",
    "encode_pieces",
    "end_id",
    "own",
]
