"""What models write around a goal: agents, and tasks in a user's words with a rubric.

Each is checked where it is read: `UnusableError` names the rule that it breaks.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kanana_jax.rollouts.environments import table_specs
from kanana_jax.rollouts.environments.tables import Spec, SpecError
from kanana_jax.rollouts.tasks import problem
from kanana_jax.synthesize import reading
from kanana_jax.synthesize.agentic import goals, prompts
from kanana_jax.synthesize.agentic.goals import Goal
from kanana_jax.synthesize.replies import Answer, Ask, RequestFailed
from kanana_jax.synthesize.requests import Message, Request, seed_of

_FEWEST_TOOLS = 2
_LONGEST_PROMPT, _LONGEST_NEED, _LONGEST_LINE = 1500, 1000, 200
_MOST_LINES = 6


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of requests. Roles may have endpoints of their own: `ask` gets the model's name."""

    model: str
    max_tokens: int = 1024
    temperature: float = 0.8


class UnusableError(Exception):
    """What was made and is left out, with the rule that it breaks."""

    def __init__(self, rule: str, detail: str = ""):
        super().__init__(f"{rule}: {detail}")
        self.rule, self.detail = rule, detail


@dataclass(frozen=True, kw_only=True)
class Agent:
    spec: Spec
    prompt: str
    tools: tuple[str, ...]  # by name, some of the specification's


@dataclass(frozen=True, kw_only=True)
class Task:
    id: str
    agent: Agent
    goal: Goal
    persona: str
    need: str
    rubric: tuple[str, ...]
    failing: float  # the share of calls that fail by chance
    seed: int

    def state(self) -> dict[str, Any]:
        return self.agent.spec.state(self.seed, self.failing)


async def asked(
    ask: Ask, settings: Settings, messages: Sequence[Message], *key: str | int, **more: Any
) -> Answer:
    """An answer; UnusableError "no answer" where the endpoint has none."""
    request = Request(
        model=settings.model,
        messages=messages,
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        seed=seed_of(*key),
        more=more,
    )
    try:
        return await ask(request)
    except RequestFailed as error:
        raise UnusableError("no answer", str(error)) from None


async def evolve(ask: Ask, settings: Settings, seed: Spec, topic: str, number: int) -> Spec:
    """Another specification, of a topic."""
    messages = prompts.spec(table_specs.to_json(seed), topic)
    answer = await asked(ask, settings, messages, "spec", topic, number)
    try:
        return table_specs.from_json(_object(answer))
    except SpecError as error:
        raise UnusableError("bad specification", str(error)) from None


async def staff(ask: Ask, settings: Settings, spec: Spec, number: int) -> Agent:
    """An agent of a specification."""
    messages = prompts.agent(table_specs.to_json(spec))
    answer = await asked(ask, settings, messages, "agent", spec.name, number)
    value = _object(answer)
    try:
        prompt = reading.text_of(value, "prompt", _LONGEST_PROMPT)
        names = reading.texts_of(value, "tools", len(spec.actions), _LONGEST_LINE)
    except reading.UnreadableError as error:
        raise UnusableError("unreadable", str(error)) from None
    unknown = [one for one in names if one not in spec.tools]
    if unknown or len(set(names)) < _FEWEST_TOOLS:
        raise UnusableError("bad choice of tools", ", ".join(names)[:_LONGEST_LINE])
    return Agent(spec=spec, prompt=prompt, tools=tuple(dict.fromkeys(names)))


async def write(
    ask: Ask, settings: Settings, agent: Agent, persona: str, size: int, key: str, failing: float
) -> Task:
    """A task of `size` calls, not held out; `key` tells it from all other tasks of all agents."""
    seed = seed_of("goal", key)
    agent = dataclasses.replace(agent, spec=goals.varied(agent.spec, seed))
    goal = goals.drawn(agent.spec, agent.tools, size, seed)
    if goal is None:
        raise UnusableError("no goal", f"{size} calls of {', '.join(agent.tools)}")
    if problem.is_heldout_content(goal.content):
        raise UnusableError("held out", goal.content)
    messages = prompts.task(agent.spec.about, persona, goal.steps)
    value = _object(await asked(ask, settings, messages, "task", key))
    try:
        need = reading.text_of(value, "need", _LONGEST_NEED)
        rubric = reading.texts_of(value, "rubric", _MOST_LINES, _LONGEST_LINE)
    except reading.UnreadableError as error:
        raise UnusableError("unreadable", str(error)) from None
    missing = [one for one in goal.values if not says(need, one)]
    if missing:
        raise UnusableError("value missing in the need", ", ".join(missing))
    return Task(
        id=key, agent=agent, goal=goal, persona=persona, need=need, rubric=rubric,
        failing=failing, seed=seed,
    )  # fmt: skip


def says(text: str, value: str) -> bool:
    """Whether a text has a value as a word or number of its own."""
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE) is not None


def to_json(task: Task) -> Mapping[str, Any]:
    """All that is needed to replay and judge a trajectory."""
    return {
        "id": task.id, "spec": table_specs.to_json(task.agent.spec), "prompt": task.agent.prompt,
        "tools": list(task.agent.tools), "persona": task.persona, "need": task.need,
        "rubric": list(task.rubric), "failing": task.failing, "seed": task.seed,
        "goal": {"tables": task.goal.tables, "reads": list(task.goal.reads),
                 "says": list(task.goal.says), "calls": list(task.goal.calls)},
    }  # fmt: skip


def _object(answer: Answer) -> dict[str, Any]:
    try:
        return reading.first_object(answer.text)
    except reading.UnreadableError as error:
        raise UnusableError("unreadable", str(error)) from None
