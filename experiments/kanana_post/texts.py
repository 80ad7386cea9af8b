"""What the stages of kanana_post learn from: all of it made of tasks, none of them held out.

tools, sums, talk   conversations as plain text, with calls and results, for mid-training
chats               greetings as people write them: in the style of the house half of the time
practice, thought   solved tasks: a few with calls, and sums with reasoning
style               a greeting in style against flawed ones, a pair for each
chosen              the same greetings in style, to train on
"""

import functools
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from experiments.kanana_post.size import CHAT, Size
from kanana_jax.data import python_text, template_text
from kanana_jax.data.chat import PLAIN
from kanana_jax.rollouts.environments import drawing, families, small_talk
from kanana_jax.rollouts.task import Task

GOOD_SHARE = 0.5  # of the chats
FLAWS_PER_PROMPT = 6  # draws; equal ones count once
Streams = Mapping[str, Callable[[], Iterator[Any]]]

TEXTS = ("english", "korean", "tools", "sums", "talk")
SPOKEN = ("chats", "practice", "thought")
_STYLES = small_talk.STYLE_FLAWS
_ENGLISH = {"prose": python_text.read_prose, "documents": python_text.read_documents}


class Material(NamedTuple):
    """Streams by the path that a stage reads."""

    texts: Streams
    conversations: Streams
    pairs: Streams


def of(size: Size) -> Material:
    def stream(name: str, make: Callable[..., Iterator[Any]], *given: Any) -> Streams:
        return {name: functools.partial(make, *given, size.num_documents[name])}

    return Material(
        texts={
            "english": _ENGLISH[size.english],
            **stream("korean", _korean),
            **stream("tools", _dialogues, size.learned),
            **stream("sums", _dialogues, (size.sums,)),
            **stream("talk", _dialogues, (CHAT,)),
        },
        conversations={
            **stream("chats", _chats),
            **stream("practice", _solved, size.practised),
            **stream("thought", _solved, (size.sums,)),
            **stream("chosen", _chosen),
        },
        pairs=stream("style", _style),
    )


def _drawn(names: tuple[str, ...], seed: int, count: int) -> list[Task]:
    found = list(map(families.of, names))
    return drawing.tasks_of(found, ("en", "ko"), seed=seed, count=count, heldout=False)


def _korean(count: int) -> Iterator[bytes]:
    return (one.encode() for one in template_text.documents("ko", seed=0, count=count))


def _dialogues(names: tuple[str, ...], count: int) -> Iterator[bytes]:
    for one in _drawn(names, 1, count):
        pieces = PLAIN.render([*one.messages, *one.oracle], one.tools)
        yield "".join(piece.text + "\n" * piece.is_closed for piece in pieces).encode()


def _solved(names: tuple[str, ...], count: int) -> Iterator[dict[str, Any]]:
    for one in _drawn(names, 2, count):
        yield {"messages": [*one.messages, *one.oracle], "tools": list(one.tools)}


def _chats(count: int) -> Iterator[dict[str, Any]]:
    rng = random.Random(0)
    for one in _drawn((CHAT,), 2, count):
        is_good = rng.random() < GOOD_SHARE
        answer = one.oracle[-1]["content"] if is_good else small_talk.flawed(one, rng, _STYLES)
        yield {"messages": [*one.messages, {"role": "assistant", "content": answer}]}


def _style(count: int) -> Iterator[dict[str, Any]]:
    rng = random.Random(1)
    for one in _drawn((CHAT,), 3, count):
        flawed = {small_talk.flawed(one, rng) for _ in range(FLAWS_PER_PROMPT)}
        for rejected in sorted(flawed):
            yield {
                "prompt": one.messages[-1]["content"],
                "chosen": one.oracle[-1]["content"],
                "rejected": rejected,
            }


def _chosen(count: int) -> Iterator[dict[str, Any]]:
    for one in _drawn((CHAT,), 3, count):
        yield {"messages": [*one.messages, *one.oracle]}
