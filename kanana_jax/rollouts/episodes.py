"""Tasks tried by a model: it answers, its tool calls are run, it goes on, and the end is graded.

    prompt -> model -> tools -> model -> ... -> answer -> grade

The ids of an episode only grow: what the model drew stays as it was drawn, and what tools said is
appended, with what the template puts around it. Each id has an origin, and the loss counts the
model's. Text is never tokenized again. Each id that the model drew comes with its log-probability
at that moment and the version of the weights that drew it.

An episode may be cut at any token and go on later, under the same weights or newer ones. Under the
same weights it goes on as if it had not been cut, to the last bit.

Tools and graders run in the sandbox. A call that fails is a message to the model. A grader that
fails leaves the episode without a reward: not judged, and not wrong.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from kanana_jax.data import Tokenizer, chat
from kanana_jax.data.chat import Format, Message, Origin
from kanana_jax.generate import Answer, Request, Sampling
from kanana_jax.generate.answers import routes_from_json, routes_to_json
from kanana_jax.generate.sampling import NUM_SEEDS
from kanana_jax.rollouts import calls, grading, sandbox
from kanana_jax.rollouts import task as task_lib
from kanana_jax.rollouts.task import Task

# answered: the last turn has no calls. length: a limit of tokens. turns: the limit of turns.
# malformed: a turn that the format cannot read.
End = Literal["answered", "length", "turns", "malformed"]

NO_VERSION = -1  # of an id that no weights drew


@dataclass(frozen=True, kw_only=True)
class Limits:
    max_tokens: int  # of one turn of the model
    max_turns: int
    length: int  # ids of an episode


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One try at a task. `messages` are those after the prompt."""

    task: Task
    seed: int
    ids: tuple[int, ...]
    origins: tuple[int, ...]
    # Per id: its log-probability when it was drawn, 0 if the model did not draw it; and the
    # version of the weights that drew it, or NO_VERSION. Empty: not known.
    logps: tuple[float, ...] = ()
    versions: tuple[int, ...] = ()
    # (ids read, L MoE layers, K): the experts of every id, where they are kept.
    routes: np.ndarray | None = dataclasses.field(default=None, compare=False)
    num_open: int = 0  # ids at the end that are of a turn which has not ended
    num_turns: int = 0  # of the model that have ended
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
    def is_cut(self) -> bool:
        """Whether a limit of tokens or turns ended it."""
        return self.end in ("length", "turns")

    @property
    def answer(self) -> str:
        """What it said last."""
        return self.messages[-1]["content"] if self.messages else ""

    @property
    def num_drawn(self) -> int:
        return sum(origin == Origin.MODEL for origin in self.origins)


class Player:
    """Plays episodes. It knows how messages become ids, who runs tools and grades, and the limits.

    Tools and graders have separate pools: nothing that a model wrote runs where a goal was.
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
        """A graded episode for each (task, seed). The same weights and seeds give the same ones."""
        return self.advance([self.start(*one) for one in tries], sample, temperature)

    def advance(
        self,
        episodes: Sequence[Episode],
        sample: Callable[[Sequence[Request]], list[Answer]],
        temperature: float,
        budget: int = 0,
    ) -> list[Episode]:
        """Plays each episode for at most `budget` more drawn tokens; 0: to its end.

        Those that end are graded; those that had ended before stay as they were.
        """
        now = list(episodes)
        enough = [one.num_drawn + budget if budget else self._limits.length for one in now]
        while places := [
            i for i, one in enumerate(now) if one.end is None and one.num_drawn < enough[i]
        ]:
            answers = sample(
                [self._request(now[i], enough[i] - now[i].num_drawn, temperature) for i in places]
            )
            said = [self._say(now[i], one) for i, one in zip(places, answers, strict=True)]
            for i, one in zip(places, self._run_tools(said), strict=True):
                now[i] = one
        newly = [i for i, one in enumerate(now) if one.end and not episodes[i].end]
        for i, one in zip(newly, self._grade([now[i] for i in newly]), strict=True):
            now[i] = one
        return now

    def start(self, task: Task, seed: int) -> Episode:
        """An episode before its first token."""
        made = chat.encode(
            self._form, self._tokenizer, task.messages, task.tools, add_generation_prompt=True
        )
        one = Episode(
            task=task,
            seed=seed,
            ids=tuple(made.ids),
            origins=tuple(map(int, made.origins)),
            logps=(0.0,) * len(made.ids),
            versions=(NO_VERSION,) * len(made.ids),
            state=task.state,
        )
        return self._cut(one)

    def _request(self, one: Episode, num_more: int, temperature: float) -> Request:
        begin = len(one.ids) - one.num_open
        seed = (one.seed * self._limits.max_turns + one.num_turns) % NUM_SEEDS
        return Request(
            prompt=one.ids[:begin],
            drawn=one.ids[begin:],
            max_tokens=min(self._longest_turn(begin), one.num_open + num_more),
            sampling=Sampling(temperature=temperature, seed=seed),
        )

    def _longest_turn(self, begin: int) -> int:
        """The most tokens that a turn after `begin` ids may have."""
        return min(self._limits.max_tokens, self._limits.length - begin)

    def _cut(self, one: Episode) -> Episode:
        """The episode, ended if it has no room for another token."""
        has_room = len(one.ids) < self._limits.length
        return one if has_room else dataclasses.replace(one, end="length", reward=0.0)

    def _say(self, one: Episode, answer: Answer) -> Episode:
        """The episode with a turn of the model, or more of one."""
        begin = len(one.ids) - one.num_open
        said = dataclasses.replace(
            one,
            ids=(*one.ids, *answer.ids),
            origins=(*one.origins, *[int(Origin.MODEL)] * len(answer.ids)),
            logps=(*one.logps, *answer.logps),
            versions=(*one.versions, *answer.versions),
            routes=_longer(one.routes, answer.routes),
        )
        if not answer.is_ended:
            num_open = len(said.ids) - begin
            if num_open < self._longest_turn(begin):
                return dataclasses.replace(said, num_open=num_open)
            return dataclasses.replace(said, num_open=0, end="length")
        said = dataclasses.replace(said, num_open=0, num_turns=one.num_turns + 1)
        try:
            # Of the whole turn, which may have been cut; the last id is the one that ended it.
            message = self._form.parse(self._tokenizer.decode(said.ids[begin:-1]))
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
            if _has_called(one)
        ]
        ran = iter(calls.run_all(self._tools, requests))
        return [self._hear(one, next(ran)) if _has_called(one) else one for one in said]

    def _hear(self, one: Episode, ran: calls.Ran) -> Episode:
        """The episode with what the tools said."""
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
            logps=(*one.logps, *(0.0 for _ in made.ids)),
            versions=(*one.versions, *(NO_VERSION for _ in made.ids)),
        )
        if one.num_turns == self._limits.max_turns:
            return dataclasses.replace(heard, end="turns")
        return self._cut(heard)

    def _grade(self, ended: Sequence[Episode]) -> list[Episode]:
        """Grades episodes that have an answer; the others get 0."""
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


def to_json(one: Episode) -> dict[str, Any]:
    fields = {field.name: getattr(one, field.name) for field in dataclasses.fields(one)}
    return fields | {"task": task_lib.to_json(one.task), "routes": routes_to_json(one.routes)}


def from_json(fields: Mapping[str, Any]) -> Episode:
    sequences = ("ids", "origins", "logps", "versions", "messages")
    made: dict[str, Any] = {name: tuple(fields[name]) for name in sequences}
    made["task"] = task_lib.from_json(fields["task"])
    made["routes"] = routes_from_json(fields["routes"])
    return Episode(**{**fields, **made})


def _has_called(one: Episode) -> bool:
    """Whether its last turn has ended in calls that are to be run."""
    return one.end is None and not one.num_open


def _longer(known: np.ndarray | None, newer: np.ndarray | None) -> np.ndarray | None:
    """The routes of ids read before, as they were, and of those read since."""
    if known is None or newer is None:
        return newer
    return np.concatenate([known, newer[len(known) :]])


def _graded(one: Episode, outcome: sandbox.Outcome) -> Episode:
    match outcome.value:
        case {"reward": float() | int() as reward, "parts": dict(parts)} if outcome.status == "ok":
            return dataclasses.replace(one, reward=float(reward), parts=parts)
    return one
