"""Pairs of answers to one prompt, for preference objectives, a JSON object per line:

    {"prompt": "Hi.", "chosen": "Hello.", "rejected": "Go away."}

The prompt is text, the words of a user, or a list of messages that ends with a user's or a tool's;
"tools" are as in `conversations`. An answer is what the assistant says to it, text or a message of
the assistant with reasoning and calls. A pair is two segments of one row, the prompt with the
chosen answer and the prompt with the rejected one: pair k = 1, 2, ... of a row has segment ids
2k - 1 and 2k, so a cut between rows keeps pairs whole. The loss counts an answer and the token that
ends it; what the assistant said before, in the prompt, is EARLIER.

All pairs of one prompt are on one side of the split: a held-out prompt was never trained on.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

from kanana_jax.config import DataConfig
from kanana_jax.data import chat, conversations, examples, jsonl
from kanana_jax.data.chat import reasoning
from kanana_jax.data.chat.messages import Message, Tool
from kanana_jax.data.errors import DataError
from kanana_jax.data.examples import Example, Text

_ANSWERS = ("chosen", "rejected")  # in the order of their segments


def read(
    cfg: DataConfig,
    cache_dir: pathlib.Path,
    report: Callable[[str], None] = lambda line: None,
    fmt: chat.Format | None = None,
    streams: examples.Streams | None = None,
) -> Text:
    """Reads and checks the pairs of `cfg`, and writes nothing; `open` gives their batches.

    Arguments and errors are those of `conversations.read`.
    """
    fmt = fmt or chat.chosen(cfg)
    kind = examples.Kind(
        name="pairs",
        keys="prompts",
        num_segments=len(_ANSWERS),
        format=fmt,
        parse=functools.partial(_parse, fmt=fmt, how=cfg.chat_reasoning),
        streams=streams or {},
    )
    return examples.read(cfg, cache_dir, report, kind)


def _parse(record: jsonl.Record, fmt: chat.Format, how: str) -> list[Example]:
    tools = chat.checked_tools(record.fields.get("tools"), record.where)
    prompt = _prompt(record, tools)
    answers = [_answer(record, name, prompt, tools) for name in _ANSWERS]
    if answers[0] == answers[1]:
        raise DataError(
            f"{record.where}: expected two different answers, got the same in 'chosen' and "
            "'rejected'; there is nothing to prefer."
        )
    segments = tuple(
        tuple(reasoning.judged(fmt, [*prompt, one], tools, len(prompt), how, record.where))
        for one in answers
    )
    return [Example(segments=segments, key=conversations.key_of(prompt, tools))]


def _prompt(record: jsonl.Record, tools: list[Tool]) -> list[dict[str, Any]]:
    value = jsonl.field(record, "prompt")
    if not isinstance(value, str | list):
        raise DataError(
            f"{record.where}: expected a string or a list of messages in 'prompt', got "
            f"{jsonl.kind(value)}."
        )
    messages = [{"role": "user", "content": value}] if isinstance(value, str) else value
    return chat.checked_messages(
        messages, "'prompt'", record.where, last=("user", "tool"), tools=tools
    )


def _answer(
    record: jsonl.Record, name: str, prompt: list[dict[str, Any]], tools: list[Tool]
) -> Message:
    value = jsonl.field(record, name)
    if not isinstance(value, str | dict) or (isinstance(value, str) and not value.strip()):
        got = "none" if isinstance(value, str) else jsonl.kind(value)
        raise DataError(
            f"{record.where}: expected text or a message of the assistant in {name!r}, got {got}."
        )
    message = {"role": "assistant", "content": value} if isinstance(value, str) else value
    return chat.checked_messages(
        [*prompt, message], f"{name!r}", record.where, last=("assistant",), tools=tools
    )[-1]
