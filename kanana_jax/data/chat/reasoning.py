"""Which reasoning is written, and how a conversation becomes examples: data.chat_reasoning.

all    every message keeps its reasoning; a conversation is one example
none   no message has it
last   as reasoning models are served: only messages after the user's last one have it. So a
       conversation becomes one example per message of the user, and what the assistant said before
       that is EARLIER
"""

import re
from collections.abc import Sequence

from kanana_jax.data.chat.format import Format, FormatError, turn_text
from kanana_jax.data.chat.messages import Message, Tool
from kanana_jax.data.chat.pieces import Origin, Piece
from kanana_jax.data.errors import DataError


def examples(
    fmt: Format, messages: Sequence[Message], tools: Sequence[Tool], how: str, where: str
) -> list[list[Piece]]:
    """The pieces of each example of a conversation. DataError where a guarantee does not hold."""
    if how != "last":
        return [judged(fmt, messages, tools, 0, how, where)]
    queries = [n for n, one in enumerate(messages) if one["role"] == "user"]
    ends = [*queries[1:], len(messages)]
    return [
        judged(fmt, messages[:end], tools, query + 1, how, where)
        for query, end in zip(queries, ends, strict=True)
    ]


def judged(
    fmt: Format,
    messages: Sequence[Message],
    tools: Sequence[Tool],
    start: int,
    how: str,
    where: str,
) -> list[Piece]:
    """The pieces of a conversation in which messages[start:] are trained.

    Raises DataError where nothing is trained, where a tool is not written, and where the format
    would not read back what it wrote.
    """
    messages = shown(messages, how)
    for message in messages[start:]:
        if message["role"] == "assistant":
            _expect_read_back(fmt, message, tools, where)
    try:
        pieces = fmt.render(messages, tools)
        prompt = fmt.render(messages[:start], tools, add_generation_prompt=True) if start else []
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    num_before = _num_shared(prompt, pieces, where)
    before = [
        one._replace(origin=Origin.EARLIER, is_mark=one.has_special_tokens)
        if one.origin is Origin.MODEL
        else one
        for one in pieces[:num_before]
    ]
    pieces = [*before, *pieces[num_before:]]
    _expect_trained(pieces, where)
    _expect_tools(pieces, tools, where)
    return pieces


def shown(messages: Sequence[Message], how: str) -> list[Message]:
    """The messages with the reasoning that is written."""
    last = max((n for n, one in enumerate(messages) if one["role"] == "user"), default=0)
    first = {"all": 0, "last": last, "none": len(messages)}[how]
    return [
        {key: value for key, value in one.items() if n >= first or key != "reasoning_content"}
        for n, one in enumerate(messages)
    ]


def _num_shared(prompt: Sequence[Piece], pieces: Sequence[Piece], where: str) -> int:
    if [*pieces[: len(prompt)]] != [*prompt]:
        raise DataError(
            f"{where}: expected the format to write an answer behind what it makes of the prompt, "
            "got other text before it; take a format that writes message by message."
        )
    return len(prompt)


def _expect_trained(pieces: Sequence[Piece], where: str) -> None:
    if not any(piece.text and piece.origin is Origin.MODEL for piece in pieces):
        raise DataError(
            f"{where}: expected the chat format to say what the assistant wrote, got no such text; "
            "an example without trained tokens teaches nothing."
        )


def _expect_tools(pieces: Sequence[Piece], tools: Sequence[Tool], where: str) -> None:
    prompt = "".join(piece.text for piece in pieces if piece.origin is not Origin.MODEL)
    for tool in tools:
        name = tool["function"]["name"]
        if not re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", prompt):
            raise DataError(
                f"{where}: expected the tool {name!r} in the prompt, got a prompt without it; take "
                "a chat format that writes tools, see data.chat_format."
            )


def _expect_read_back(fmt: Format, message: Message, tools: Sequence[Tool], where: str) -> None:
    """An answer that is not plain text, or could be taken for a call, must be read as meant."""
    if fmt.is_foreign or not (
        tools or message.get("reasoning_content") or message.get("tool_calls")
    ):
        return
    try:
        found = fmt.parse(turn_text(fmt, message))
    except FormatError as error:
        raise DataError(
            f"{where}: the format {fmt.name} cannot read an answer: {error}."
        ) from error
    if found != dict(message):
        raise DataError(
            f"{where}: expected an answer that the format {fmt.name} reads as it was meant, got "
            f"one that it takes for {str(found)[:200]}; it spells the format's own marks."
        )
