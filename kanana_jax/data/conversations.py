"""Conversations for supervised fine-tuning, a JSON object per line:

    {"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]}

A system message may come first; then user and assistant take turns and the assistant is last.
`render` says how messages become text. The loss counts what the assistant says and the EOS that
closes its turn, nothing else. A conversation is never cut; see `whole_documents` for rows and
batches, and `examples` for the cache and the split.
"""

import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from kanana_jax.config import DataConfig
from kanana_jax.data import examples, jsonl, utf8
from kanana_jax.data.errors import DataError, listed
from kanana_jax.data.examples import Example, Piece, Text

Message = Mapping[str, str]  # "role" and "content"
Render = Callable[[Sequence[Message]], list[tuple[str, bool]]]

_ROLES = ("system", "user", "assistant")


def plain(messages: Sequence[Message]) -> list[tuple[str, bool]]:
    """Pieces of text and whether each is trained: a line per message, what the assistant says last.

    user: Hi.
    assistant: Hello.<EOS>user: ...
    """
    pieces = []
    for message in messages:
        if message["role"] == "assistant":
            pieces += [("assistant: ", False), (message["content"], True)]
        else:
            pieces.append((f"{message['role']}: {message['content']}\n", False))
    return pieces


def read(
    cfg: DataConfig,
    cache_dir: pathlib.Path,
    report: Callable[[str], None] = lambda line: None,
    render: Render = plain,
) -> Text:
    """Reads and checks the conversations of `cfg`, and writes nothing; `open` gives their batches.

    `render` writes messages as pieces of text, each with whether it is trained; EOS follows those
    that are. `report` is told, a line each, that a damaged file of the cache is made anew and what
    `data.skip_bad_lines` has left out. Raises DataError, with file and line, for a record that
    cannot be used.
    """
    kind = examples.Kind(
        name="conversations",
        keys="conversations",
        num_segments=1,
        parse=functools.partial(_parse, render=render),
    )
    return examples.read(cfg, cache_dir, report, kind)


def _parse(record: jsonl.Record, render: Render) -> Example:
    value = jsonl.field(record, "messages")
    messages = checked_messages(value, "'messages'", record.where, last="assistant")
    pieces = rendered(messages, render, record.where)
    expect_trained(pieces, record.where)
    return Example(segments=(joined(pieces),), key=key_of(messages))


def checked_messages(
    value: Any, name: str, where: str, *, last: Literal["user", "assistant"]
) -> list[dict[str, str]]:
    """The messages of a record's field `name`, of which the last is of that role.

    Raises DataError on other roles, another order, what is no text, and an assistant that says
    nothing.
    """
    if not isinstance(value, list) or not value:
        got = "none" if value == [] else jsonl.kind(value)
        raise DataError(f"{where}: expected a list of messages in {name}, got {got}.")
    messages = [
        _checked_message(one, f"{where}: message {number} of {name}")
        for number, one in enumerate(value, start=1)
    ]
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    in_turn = [("user", "assistant")[place % 2] for place in range(len(turns))]
    if turns != in_turn or turns[-1:] != [last]:
        raise DataError(
            f"{where}: expected in {name} a system message or none, then user and assistant in "
            f"turn, the {last} last, got {listed(roles)}."
        )
    return messages


def _checked_message(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object, got {jsonl.kind(value)}.")
    role, content = value.get("role"), value.get("content")
    if role not in _ROLES:
        shown = repr(role) if isinstance(role, str) else jsonl.kind(role)
        raise DataError(f"{where}: expected a role of {listed(_ROLES)}, got {shown}.")
    if not isinstance(content, str):
        raise DataError(f"{where}: expected a string in 'content', got {jsonl.kind(content)}.")
    # Tool calls and weights of messages would change what is to be learned.
    more = [key for key in value if key not in ("role", "content") and value[key] is not None]
    if more:
        raise DataError(
            f"{where}: expected the keys 'role' and 'content', got also {listed(more)}; take them "
            "out, or leave such lines out with data.skip_bad_lines."
        )
    utf8.encode(content, where)
    if role == "assistant" and not content.strip():
        raise DataError(f"{where}: expected text from the assistant, got none.")
    return {"role": role, "content": content}


def rendered(messages: Sequence[Message], render: Render, where: str) -> list[Piece]:
    """What `render` makes of the messages; EOS closes what is trained, and is trained with it."""
    return [
        Piece(utf8.encode(text, where), is_closed=is_trained, is_target=is_trained)
        for text, is_trained in render(messages)
    ]


def expect_trained(pieces: Sequence[Piece], where: str) -> None:
    """ValueError unless a piece is a target with text: `render` is at fault, not the record."""
    if not any(piece.text and piece.is_target for piece in pieces):
        raise ValueError(
            f"{where}: expected render to give what the assistant says as trained text, got none; "
            "return (text, True) for it"
        )


def joined(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Makes one piece of neighbours that are plain text, tokenized as a prompt would be."""
    found: list[Piece] = []
    for piece in pieces:
        is_open = not (piece.is_closed or piece.is_target)
        if is_open and found and not (found[-1].is_closed or found[-1].is_target):
            found[-1] = piece._replace(text=found[-1].text + piece.text)
        else:
            found.append(piece)
    return tuple(found)


def key_of(messages: Sequence[Message]) -> bytes:
    """Bytes that are equal if and only if the messages are."""
    return json.dumps([[one["role"], one["content"]] for one in messages]).encode()
