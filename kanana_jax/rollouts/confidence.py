"""Asks a model whether its answer is right, and trains it to say what the grader found.

    ... answer  user: Sure?  assistant: yes        if the answer is right, else no

Cross-entropy is a proper score, so training makes the probability of "yes" that of being right
(arXiv:2207.05221, P(True)). Only the word is trained, not the answer before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from kanana_jax.data import Tokenizer, chat
from kanana_jax.data.chat import Format, Origin
from kanana_jax.rollouts.episodes import Episode
from kanana_jax.rollouts.store import Collected, Segment


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked, and the two words that can be answered."""

    text: str = "Sure?"
    yes: str = "yes"
    no: str = "no"


def example(
    form: Format, tokenizer: Tokenizer, one: Episode, asked: Question, *, says: str
) -> Collected:
    """An ended episode with the question and the answer `says`; only that answer is trained."""
    messages = [*one.task.messages, *one.messages]
    question = chat.continuation(
        form,
        tokenizer,
        [*messages, {"role": "user", "content": asked.text}],
        one.task.tools,
        start=len(messages),
    )
    word = [*tokenizer.encode(says).tolist(), chat.end_id(form, tokenizer)]
    earlier = [int(Origin.EARLIER) if x == Origin.MODEL else x for x in one.origins]
    origins = (*earlier, *map(int, question.origins), *[int(Origin.MODEL)] * len(word))
    segment = Segment((*one.ids, *question.ids, *word), origins)
    return Collected(segments=(segment,), about={"says": says, "reward": one.reward})


def examples(
    form: Format,
    tokenizer: Tokenizer,
    played: Sequence[Episode],
    asked: Question,
    *,
    threshold: float,
    length: int,
) -> list[Collected]:
    """One example for every graded answer that leaves room for the question in `length` ids."""
    made = [
        example(
            form,
            tokenizer,
            one,
            asked,
            says=asked.yes if (one.reward or 0.0) >= threshold else asked.no,
        )
        for one in played
        if can_ask(one)
    ]
    return [one for one in made if len(one.segments[0].ids) <= length]


def can_ask(one: Episode) -> bool:
    return one.end == "answered" and one.reward is not None
