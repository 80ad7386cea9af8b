"""What the stages of kanana_post learn from, made of tasks: all of it on the training side.

dialogues    conversations as plain text, tool calls and results with them, for mid-training
chats        conversations whose answers are as good as people's are: often, not always
products     conversations with a calculator
sums         conversations with reasoning
style_pairs  a good answer and a flawed one to the same greeting
"""

import functools
import random
from collections.abc import Iterator
from typing import Any

from kanana_jax.data import python_text, template_text
from kanana_jax.data.chat import PLAIN
from kanana_jax.rollouts.environments import drawing, families, small_talk
from kanana_jax.rollouts.task import Task

LANGUAGES = ("en", "ko")
CHAT, TOOLS, SUMS = "small_talk", "products@1", "chain_sum@3"
GOOD_SHARE = 0.5  # of the chats that people wrote


def drawn(name: str, seed: int, count: int) -> list[Task]:
    return drawing.tasks_of([families.of(name)], LANGUAGES, seed=seed, count=count, heldout=False)


def korean(count: int) -> Iterator[bytes]:
    return (one.encode() for one in template_text.documents("ko", seed=0, count=count))


def dialogues(name: str, count: int) -> Iterator[bytes]:
    for one in drawn(name, 1, count):
        pieces = PLAIN.render([*one.messages, *one.oracle], one.tools)
        yield "".join(piece.text + "\n" * piece.is_closed for piece in pieces).encode()


def solved(name: str, count: int) -> Iterator[dict[str, Any]]:
    """Conversations that end as they should."""
    for one in drawn(name, 2, count):
        yield {"messages": [*one.messages, *one.oracle], "tools": list(one.tools)}


def chats(count: int) -> Iterator[dict[str, Any]]:
    rng = random.Random(0)
    for one in drawn(CHAT, 2, count):
        answer = one.oracle[-1]["content"]
        if rng.random() >= GOOD_SHARE:
            answer = small_talk.flawed(one, rng)
        yield {"messages": [*one.messages, {"role": "assistant", "content": answer}]}


def style_pairs(count: int) -> Iterator[dict[str, Any]]:
    rng = random.Random(1)
    for one in drawn(CHAT, 3, count):
        yield {
            "prompt": one.messages[-1]["content"],
            "chosen": one.oracle[-1]["content"],
            "rejected": small_talk.flawed(one, rng),
        }


TEXTS = {
    "english": python_text.read_prose,
    "korean": functools.partial(korean, 1500),
    "tools": functools.partial(dialogues, TOOLS, 500),
    "sums": functools.partial(dialogues, SUMS, 200),
    "talk": functools.partial(dialogues, CHAT, 150),
}
CONVERSATIONS = {
    "chats": functools.partial(chats, 150),
    "products": functools.partial(solved, TOOLS, 60),
    "sums": functools.partial(solved, SUMS, 100),
}
PAIRS = {"style": functools.partial(style_pairs, 150)}
