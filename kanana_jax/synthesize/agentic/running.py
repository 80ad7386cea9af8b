"""A run in a folder: what is kept, what is left out and by which rule, in a fixed order.

    OUT/answers.jsonl         every answer under the hash of its request; never asked again
    OUT/conversations.jsonl   messages, tools and "about": what supervised fine-tuning reads
    OUT/tasks.jsonl           the task of each of these, by which it replays to its goal
    OUT/left_out.jsonl        what, which rule, and why
    OUT/report.json           counts

The last four are written whole at the end. A run that was killed goes on with the answers it has.
"""

import collections
import itertools
import json
import pathlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import tqdm

from kanana_jax.data import whole_files
from kanana_jax.rollouts.environments.tables import Spec
from kanana_jax.synthesize import batch
from kanana_jax.synthesize.agentic import filters, playing, seeds, tasks
from kanana_jax.synthesize.agentic.playing import Limits, Played
from kanana_jax.synthesize.agentic.tasks import Agent, Settings, UnusableError
from kanana_jax.synthesize.replies import Ask

ANSWERS = "answers.jsonl"
MOST_CALLS = 10  # of a goal


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is made. `agent` is the model that is learned from, `author` does all else."""

    author: Settings
    agent: Settings
    topics: Sequence[str] = seeds.TOPICS
    personas: Sequence[str] = seeds.PERSONAS
    specs: Sequence[Spec] = field(default_factory=seeds.specs)  # besides those that are evolved
    num_agents: int = 2  # of each specification
    num_tasks: int = 4  # of each agent
    sizes: Sequence[int] = (1, 2, 3)  # calls of a goal
    failing: float = 0.1
    limits: Limits = Limits()  # noqa: RUF009
    has_judge: bool = True
    has_rules: bool = True  # without them all is kept: a control, to see what they are for
    window: int = 64  # under way at a time


@dataclass(frozen=True, kw_only=True)
class Made:
    """A conversation that is kept, and its scores."""

    played: Played
    scores: tuple[int, ...]

    def line(self) -> str:
        task = self.played.task
        about = {"task": task.id, "domain": task.agent.spec.name, "persona": task.persona,
                 "scores": list(self.scores)}  # fmt: skip
        fields = {
            "messages": list(self.played.messages), "tools": self.played.schemas, "about": about,
        }  # fmt: skip
        return json.dumps(fields, ensure_ascii=False) + "\n"


async def run(
    ask: Ask, plan: Plan, out: pathlib.Path, shown: Callable[[], str] | None = None
) -> dict[str, Any]:
    """Returns the report. An endpoint error that is not of one request ends the run.

    `shown` gives the text after a progress bar; without it there is no bar.
    """
    left = _LeftOut(shown)
    evolved = await left.of(
        "specification",
        [(topic, seeds.specs()[n % len(seeds.specs())], n) for n, topic in enumerate(plan.topics)],
        lambda one: tasks.evolve(ask, plan.author, one[1], one[0], one[2]),
        plan.window,
    )
    specs = _distinct([*plan.specs, *evolved])
    agents = await left.of(
        "agent",
        list(itertools.product(specs, range(plan.num_agents))),
        lambda one: tasks.staff(ask, plan.author, *one),
        plan.window,
    )

    async def made(one: tuple[int, Agent, int]) -> Made:
        place, agent, number = one
        rank = place * plan.num_tasks + number
        task = await tasks.write(
            ask,
            plan.author,
            agent,
            plan.personas[rank % len(plan.personas)],
            plan.sizes[rank % len(plan.sizes)],
            f"{agent.spec.name} {place} {number}",
            plan.failing,
        )
        played = await playing.play(ask, plan.author, plan.agent, task, plan.limits)
        if plan.has_rules:
            filters.expect_good(played)
        scores = await filters.judged(ask, plan.author, played) if plan.has_judge else ()
        return Made(played=played, scores=scores)

    wanted = [(place, one, n) for place, one in enumerate(agents) for n in range(plan.num_tasks)]
    found = await left.of("conversation", wanted, made, plan.window)
    kept = list({json.dumps(one.played.messages): one for one in found}.values())
    return _written(out, kept, left, len(specs), len(agents))


class _LeftOut:
    """What was left out so far."""

    def __init__(self, shown: Callable[[], str] | None):
        self.lines: list[dict[str, str]] = []
        self._shown = shown

    async def of[Item, Result](
        self,
        what: str,
        items: Sequence[Item],
        make: Callable[[Item], Awaitable[Result]],
        window: int,
    ) -> list[Result]:
        """The results of the items, in their order, without those that break a rule."""

        async def tried(item: Item) -> Result | UnusableError:
            try:
                return await make(item)
            except UnusableError as error:
                return error

        found: list[Result] = []
        with tqdm.tqdm(total=len(items), unit=what, disable=self._shown is None) as bar:
            async for one in batch.in_order(items, tried, window=window):
                if isinstance(one, UnusableError):
                    self.lines.append({"what": what, "rule": one.rule, "detail": one.detail})
                else:
                    found.append(one)
                bar.update()
                if self._shown is not None:
                    bar.set_postfix_str(f"{len(found)} pass, {self._shown()}", refresh=False)
        return found


def _distinct(specs: Iterable[Spec]) -> list[Spec]:
    """The first of every name."""
    found: dict[str, Spec] = {}
    for one in specs:
        found.setdefault(one.name, one)
    return list(found.values())


def _written(
    out: pathlib.Path, kept: Sequence[Made], left: _LeftOut, num_specs: int, num_agents: int
) -> dict[str, Any]:
    rules = collections.Counter(f"{one['what']}: {one['rule']}" for one in left.lines)
    report = {
        "specifications": num_specs,
        "agents": num_agents,
        "conversations": len(kept),
        "left out": dict(sorted(rules.items())),
    }
    lines = {
        "conversations.jsonl": [one.line() for one in kept],
        "tasks.jsonl": [_line(tasks.to_json(one.played.task)) for one in kept],
        "left_out.jsonl": [_line(one) for one in left.lines],
        "report.json": [json.dumps(report, indent=1, ensure_ascii=False) + "\n"],
    }
    for name, written in lines.items():
        with whole_files.written(out / name) as file:
            file.writelines(written)
    return report


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"
