"""The small world that the experiments on reinforcement learning share: its texts and its base.

A problem is a sum of digits modulo 10, in English or Korean. The base reads most of them with the
answer alone and few with their steps written out:

    user: Sum mod 10: 3 + 8 + 1 . .    user: Sum mod 10: 3 + 8 + 1 . .
    assistant: 2                       assistant: ~~3=3 8=1 1=2~~2

It reads steps first, and towards the end mostly answers alone. So it can reason but seldom does,
and is right far more often when it does: a reward for right answers can find this. With the answer
alone it also reads problems that ask for the largest number. It reads prose too.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

from kanana_jax.data import python_text, template_text
from kanana_jax.data.chat import PLAIN
from kanana_jax.rollouts.environments import drawing, families
from kanana_jax.rollouts.task import Message, Task

SEEN, LONGER = "digit_sum@2,3,4,5", "digit_sum@6,7"
REWARDED = "digit_sum@5,6,7"
OTHER = "largest@3,4"


def problems(name: str, seed: int, count: int) -> list[Task]:
    """Problems of a family that are not held out, in both languages."""
    family = families.of(name)
    return drawing.tasks_of([family], ("en", "ko"), seed=seed, count=count, heldout=False)


def reply(one: Task, *, is_reasoned: bool) -> list[Message]:
    """The right answer, with its steps or alone."""
    kept = ("role", "content", *(["reasoning_content"] if is_reasoned else []))
    return [{name: said[name] for name in kept} for said in one.oracle]


def text(messages: Sequence[Message]) -> bytes:
    """A conversation as plain text."""
    pieces = PLAIN.render(messages, ())
    return "".join(piece.text + "\n" * piece.is_closed for piece in pieces).encode()


def documents(counts: Mapping[str, int], seed: int, *, is_reasoned: bool) -> Iterator[bytes]:
    """Problems of every family, as many as `counts` says, with their answers."""
    for one in itertools.chain.from_iterable(
        problems(name, seed, count) for name, count in counts.items()
    ):
        yield text([*one.messages, *reply(one, is_reasoned=is_reasoned)])


def korean(count: int) -> Iterator[bytes]:
    return (one.encode() for one in template_text.documents("ko", seed=0, count=count))


def texts(seen: str) -> dict[str, Callable[[], Iterator[bytes]]]:
    """The texts of a base that reads sums of the lengths of the family `seen`."""
    return {
        "english": python_text.read_prose,
        "korean": functools.partial(korean, 1000),
        "direct": functools.partial(documents, {seen: 3600, OTHER: 400}, 1, is_reasoned=False),
        "reasoned": functools.partial(documents, {seen: 3000}, 2, is_reasoned=True),
    }


TEXTS = texts(SEEN)
# Shares of the tokens, at first and at last. A reasoned answer takes twice as many as one alone.
FIRST_MIXTURE, MIXTURE = (0.05, 0.05, 0.05, 0.85), (0.05, 0.05, 0.65, 0.25)
