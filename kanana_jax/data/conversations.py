"""Conversations for supervised fine-tuning, a JSON object per line, or a row of a Parquet file:

    {"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}],
     "tools": [...]}

`chat.messages` says what messages and tools hold; the last message is the assistant's.
`data.chat_format` says how they become text. The loss counts what the assistant writes and the
token that ends its turn, nothing else. A conversation is never cut; see `whole_documents` for rows
and batches, and `examples` for the cache and the split.
"""

import functools
import json
import pathlib
from collections.abc import Callable, Sequence

from kanana_jax.config import DataConfig
from kanana_jax.data import chat, examples, jsonl
from kanana_jax.data.chat import reasoning
from kanana_jax.data.chat.messages import Message, Tool
from kanana_jax.data.examples import Example, Text


def read(
    cfg: DataConfig,
    cache_dir: pathlib.Path,
    report: Callable[[str], None] = lambda line: None,
    fmt: chat.Format | None = None,
    streams: examples.Streams | None = None,
) -> Text:
    """Reads and checks the conversations of `cfg`, and writes nothing; `open` gives their batches.

    `fmt` is the format, by default that of the settings. An entry of data.paths that names one of
    `streams` stands for the records that its function yields, not for a file. `report` gets a line
    when a damaged file of the cache is made anew, and lines on what `data.skip_bad_lines` has left
    out. Raises DataError, with file and line, for a record that cannot be used.
    """
    fmt = fmt or chat.chosen(cfg)
    kind = examples.Kind(
        name="conversations",
        keys="conversations",
        num_segments=1,
        format=fmt,
        parse=functools.partial(_parse, fmt=fmt, how=cfg.chat_reasoning),
        streams=streams or {},
    )
    return examples.read(cfg, cache_dir, report, kind)


def _parse(record: jsonl.Record, fmt: chat.Format, how: str) -> list[Example]:
    tools = chat.checked_tools(record.fields.get("tools"), record.where)
    messages = chat.checked_messages(
        jsonl.field(record, "messages"),
        "'messages'",
        record.where,
        last=("assistant",),
        tools=tools,
    )
    key = key_of(messages, tools)
    found = reasoning.examples(fmt, messages, tools, how, record.where)
    return [Example(segments=(tuple(pieces),), key=key) for pieces in found]


def key_of(messages: Sequence[Message], tools: Sequence[Tool]) -> bytes:
    """Bytes that are equal if and only if the messages and tools are."""
    said = [
        [one["role"], one["content"], *[[key, one[key]] for key in [*one][2:]]] for one in messages
    ]
    return json.dumps([said, tools] if tools else said).encode()
