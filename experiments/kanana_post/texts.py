"""What the stages of kanana_post learn from: all of it made of tasks, none of them held out.

tools, sums, talk   conversations as plain text, with calls and results, for mid-training
chats               greetings as people write them: in the style of the house half of the time
products, thought   conversations with a calculator, and with reasoning
style               a greeting in style against a flawed one
chosen              the same greetings in style, to train on
"""

import functools
import random
from collections.abc import Iterator
from typing import Any

from kanana_jax.data import python_text, template_text
from kanana_jax.data.chat import PLAIN
from kanana_jax.rollouts.environments import drawing, families, small_talk
from kanana_jax.rollouts.task import Task

CHAT, TOOLS, SUMS = "small_talk", "products@1", "chain_sum@3"
GOOD_SHARE = 0.5  # of the chats


def _drawn(name: str, seed: int, count: int) -> list[Task]:
    family = families.of(name)
    return drawing.tasks_of([family], ("en", "ko"), seed=seed, count=count, heldout=False)


def _korean(count: int) -> Iterator[bytes]:
    return (one.encode() for one in template_text.documents("ko", seed=0, count=count))


def _dialogues(name: str, count: int) -> Iterator[bytes]:
    for one in _drawn(name, 1, count):
        pieces = PLAIN.render([*one.messages, *one.oracle], one.tools)
        yield "".join(piece.text + "\n" * piece.is_closed for piece in pieces).encode()


def _solved(name: str, count: int) -> Iterator[dict[str, Any]]:
    for one in _drawn(name, 2, count):
        yield {"messages": [*one.messages, *one.oracle], "tools": list(one.tools)}


def _chats(count: int) -> Iterator[dict[str, Any]]:
    rng = random.Random(0)
    for one in _drawn(CHAT, 2, count):
        is_good = rng.random() < GOOD_SHARE
        answer = one.oracle[-1]["content"] if is_good else small_talk.flawed(one, rng)
        yield {"messages": [*one.messages, {"role": "assistant", "content": answer}]}


def _style(count: int) -> Iterator[dict[str, Any]]:
    rng = random.Random(1)
    for one in _drawn(CHAT, 3, count):
        yield {
            "prompt": one.messages[-1]["content"],
            "chosen": one.oracle[-1]["content"],
            "rejected": small_talk.flawed(one, rng),
        }


def _chosen(count: int) -> Iterator[dict[str, Any]]:
    for one in _drawn(CHAT, 3, count):
        yield {"messages": [*one.messages, *one.oracle]}


TEXTS = {
    "english": python_text.read_prose,
    "korean": functools.partial(_korean, 1500),
    "tools": functools.partial(_dialogues, TOOLS, 600),
    "sums": functools.partial(_dialogues, SUMS, 200),
    "talk": functools.partial(_dialogues, CHAT, 300),
}
SPOKEN = ("chats", "products", "thought")
CONVERSATIONS = {
    "chats": functools.partial(_chats, 240),
    "products": functools.partial(_solved, TOOLS, 16),
    "thought": functools.partial(_solved, SUMS, 100),
    "chosen": functools.partial(_chosen, 240),
}
PAIRS = {"style": functools.partial(_style, 480)}
