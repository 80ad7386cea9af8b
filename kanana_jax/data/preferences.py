"""Pairs of answers to one prompt, for preference objectives, a JSON object per line:

    {"prompt": "Hi.", "chosen": "Hello.", "rejected": "Go away."}

The prompt is text, which is what a user says, or a list of messages of which a user's is the last.
The answers are what the assistant says to it. A pair is two segments of one row, the prompt with
the chosen answer and the prompt with the rejected one: pair k = 1, 2, ... of a row has segment ids
2k - 1 and 2k, so what is cut by rows keeps pairs whole. The loss counts an answer and the EOS that
closes it; what the assistant has said before, in the prompt, is closed but not counted.

All pairs of one prompt are on one side of the split: a held-out prompt was never trained on.
"""

import functools
import pathlib
from collections.abc import Callable, Sequence

from kanana_jax.config import DataConfig
from kanana_jax.data import conversations, examples, jsonl, utf8
from kanana_jax.data.conversations import Message, Render, plain
from kanana_jax.data.errors import DataError
from kanana_jax.data.examples import Example, Piece, Text

_ANSWERS = ("chosen", "rejected")  # in the order of their segments


def read(
    cfg: DataConfig,
    cache_dir: pathlib.Path,
    report: Callable[[str], None] = lambda line: None,
    render: Render = plain,
) -> Text:
    """Reads and checks the pairs of `cfg`, and writes nothing; `open` gives their batches.

    Arguments and errors are those of `conversations.read`. `render` must write an answer behind
    what it makes of the prompt alone; ValueError where it does not.
    """
    kind = examples.Kind(
        name="pairs",
        keys="prompts",
        num_segments=len(_ANSWERS),
        parse=functools.partial(_parse, render=render),
    )
    return examples.read(cfg, cache_dir, report, kind)


def _parse(record: jsonl.Record, render: Render) -> Example:
    prompt = _prompt(record)
    answers = [_answer(record, name) for name in _ANSWERS]
    if answers[0] == answers[1]:
        raise DataError(
            f"{record.where}: expected two different answers, got the same in 'chosen' and "
            "'rejected'; there is nothing to prefer."
        )
    segments = tuple(_segment(prompt, answer, render, record.where) for answer in answers)
    return Example(segments=segments, key=conversations.key_of(prompt))


def _prompt(record: jsonl.Record) -> list[dict[str, str]]:
    value = jsonl.field(record, "prompt")
    if not isinstance(value, str | list):
        raise DataError(
            f"{record.where}: expected a string or a list of messages in 'prompt', got "
            f"{jsonl.kind(value)}."
        )
    messages = [{"role": "user", "content": value}] if isinstance(value, str) else value
    return conversations.checked_messages(messages, "'prompt'", record.where, last="user")


def _answer(record: jsonl.Record, name: str) -> str:
    value = jsonl.field(record, name)
    if not isinstance(value, str) or not value.strip():
        got = jsonl.kind(value) if not isinstance(value, str) else "none"
        raise DataError(f"{record.where}: expected text in {name!r}, got {got}.")
    utf8.encode(value, record.where)
    return value


def _segment(
    prompt: Sequence[Message], answer: str, render: Render, where: str
) -> tuple[Piece, ...]:
    whole = [*prompt, {"role": "assistant", "content": answer}]
    before = conversations.rendered(prompt, render, where)
    pieces = conversations.rendered(whole, render, where)
    after = pieces[len(before) :]
    if pieces[: len(before)] != before:
        raise ValueError(
            f"{where}: expected render to write an answer behind what it makes of the prompt, got "
            "other text before it; render message by message"
        )
    conversations.expect_trained(after, where)
    return conversations.joined([*(one._replace(is_target=False) for one in before), *after])
