"""Tasks tried by a model: it answers, its tool calls are run, it goes on, and the end is graded.

    prompt -> model -> tools -> model -> ... -> answer -> grade

The ids of an episode only grow: what the model drew stays as it was drawn, and what tools said and
the template put around it is appended. Each id has an origin, and the loss counts the model's. Text
is never tokenized again.

Tools and graders run in the sandbox. A call that fails is a message to the model. A grader that
does leaves the episode without a reward: it was not judged, and is not wrong.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kanana_jax.data import Tokenizer, chat
from kanana_jax.data.chat import Format, Message, Origin
from kanana_jax.generate import Answer, Request, Sampling
from kanana_jax.generate.sampling import NUM_SEEDS
from kanana_jax.rollouts import calls, grading, sandbox
from kanana_jax.rollouts.task import Task

# answered: it ended with a turn without calls. length: a limit of tokens. turns: of turns.
# malformed: a turn that its format cannot read.
End = Literal["answered", "length", "turns", "malformed"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    max_tokens: int  # of one turn of the model
    max_turns: int
    length: int  # ids of an episode


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One try of a task. `messages` are those behind the prompt."""

    task: Task
    seed: int
    ids: tuple[int, ...]
    origins: tuple[int, ...]
    messages: tuple[Message, ...] = ()
    state: Any = None
    end: End | None = None
    num_calls: int = 0
    reward: float | None = None  # None: not judged
    parts: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def is_valid(self) -> bool:
        """Whether every turn was ended by the model and could be read."""
        return self.end == "answered"

    @property
    def answer(self) -> str:
        """What it said last."""
        return self.messages[-1]["content"] if self.messages else ""

    @property
    def num_drawn(self) -> int:
        return sum(origin == Origin.MODEL for origin in self.origins)


class Player:
    """Plays episodes: how messages become ids, who runs tools and grades, what limits there are.

    Tools and graders are pools apart: nothing that a model wrote runs where a goal was.
    """

    def __init__(
        self,
        form: Format,
        tokenizer: Tokenizer,
        tools: sandbox.Runner,
        graders: sandbox.Runner,
        limits: Limits,
    ):
        self._form, self._tokenizer = form, tokenizer
        self._tools, self._graders, self._limits = tools, graders, limits

    def play(
        self,
        tries: Sequence[tuple[Task, int]],
        sample: Callable[[Sequence[Request]], list[Answer]],
        temperature: float,
    ) -> list[Episode]:
        """An episode of each (task, seed), graded. The same weights and seeds give the same."""
        episodes = [self._start(task, seed) for task, seed in tries]
        for turn in range(self._limits.max_turns):
            places = [i for i, one in enumerate(episodes) if one.end is None]
            if not places:
                break
            opened = [episodes[i] for i in places]
            answers = sample([self._request(one, turn, temperature) for one in opened])
            said = [self._say(one, answer) for one, answer in zip(opened, answers, strict=True)]
            for i, one in zip(places, self._run_tools(said), strict=True):
                episodes[i] = one
        ended = [
            dataclasses.replace(one, end="turns") if one.end is None else one for one in episodes
        ]
        return self._grade(ended)

    def _start(self, task: Task, seed: int) -> Episode:
        made = chat.encode(
            self._form, self._tokenizer, task.messages, task.tools, add_generation_prompt=True
        )
        one = Episode(
            task=task,
            seed=seed,
            ids=tuple(made.ids),
            origins=tuple(map(int, made.origins)),
            state=task.state,
        )
        return self._cut(one)

    def _request(self, one: Episode, turn: int, temperature: float) -> Request:
        room = self._limits.length - len(one.ids)
        seed = (one.seed * self._limits.max_turns + turn) % NUM_SEEDS
        return Request(
            prompt=one.ids,
            max_tokens=min(self._limits.max_tokens, room),
            sampling=Sampling(temperature=temperature, seed=seed),
        )

    def _cut(self, one: Episode) -> Episode:
        """Ended where there is no room for another token."""
        has_room = len(one.ids) < self._limits.length
        return one if has_room else dataclasses.replace(one, end="length")

    def _say(self, one: Episode, answer: Answer) -> Episode:
        """With a turn of the model."""
        said = dataclasses.replace(
            one,
            ids=(*one.ids, *answer.ids),
            origins=(*one.origins, *[int(Origin.MODEL)] * len(answer.ids)),
        )
        if not answer.is_ended:
            return dataclasses.replace(said, end="length")
        try:
            message = self._form.parse(answer.text)
        except chat.FormatError:
            return dataclasses.replace(said, end="malformed")
        calls = message.get("tool_calls", [])
        return dataclasses.replace(
            said,
            messages=(*one.messages, message),
            num_calls=one.num_calls + len(calls),
            end=None if calls else "answered",
        )

    def _run_tools(self, said: Sequence[Episode]) -> list[Episode]:
        requests = [
            calls.Request(
                family=one.task.family, state=one.state, tool_calls=one.messages[-1]["tool_calls"]
            )
            for one in said
            if one.end is None
        ]
        ran = iter(calls.run_all(self._tools, requests))
        return [self._hear(one, next(ran)) if one.end is None else one for one in said]

    def _hear(self, one: Episode, ran: calls.Ran) -> Episode:
        """With what the tools said."""
        messages = (*one.messages, *ran.messages)
        made = chat.continuation(
            self._form,
            self._tokenizer,
            [*one.task.messages, *messages],
            one.task.tools,
            start=len(one.task.messages) + len(one.messages),
        )
        heard = dataclasses.replace(
            one,
            messages=messages,
            state=ran.state,
            ids=(*one.ids, *made.ids),
            origins=(*one.origins, *map(int, made.origins)),
        )
        return self._cut(heard)

    def _grade(self, ended: Sequence[Episode]) -> list[Episode]:
        """Those that have an answer by what it is worth, the others 0."""
        replies = [
            grading.Reply(
                task=one.task, messages=[dict(said) for said in one.messages], state=one.state
            )
            for one in ended
            if one.end == "answered"
        ]
        outcomes = iter(grading.grade_all(self._graders, replies))
        return [
            _graded(one, next(outcomes))
            if one.end == "answered"
            else dataclasses.replace(one, reward=0.0)
            for one in ended
        ]


def _graded(one: Episode, outcome: sandbox.Outcome) -> Episode:
    match outcome.value:
        case {"reward": float() | int() as reward, "parts": dict(parts)} if outcome.status == "ok":
            return dataclasses.replace(one, reward=float(reward), parts=parts)
    return one
