"""The jobs of both stages, which measure the same held-out goals, and what they read."""

import asyncio
import functools
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from experiments.agentic import script
from kanana_jax import config, data
from kanana_jax.data import conversations, python_text
from kanana_jax.jobs import pass_rates, pretrain, sft
from kanana_jax.jobs.training import Job
from kanana_jax.synthesize.agentic import family, running, seeds, tasks

KEPT, UNFILTERED = "kept", "unfiltered"
IDLE = 0.5  # the share of conversations in which the script's agent does nothing
NUM_CONVERSATIONS = 500
# Tasks of each of the five domains, enough for that number of conversations in either arm.
_NUM_TASKS = {KEPT: 300, UNFILTERED: 150}
_SCRIPT = tasks.Settings(model="script")


def _rollouts(name: str) -> config.RolloutConfig:
    return config.RolloutConfig(
        families=(f"{family.PREFIX}:{name}",),
        languages=("en",),
        num_prompts=48,
        num_samples=4,
        max_tokens=64,
        max_turns=4,
        num_rows=48,
    )


SETS = {"known": _rollouts("LIBRARY"), "new": _rollouts("STABLE")}


def plan(*, has_rules: bool) -> running.Plan:
    """Conversations of the library and of the four evolved domains; the stable is left out."""
    return running.Plan(
        author=_SCRIPT,
        agent=_SCRIPT,
        topics=script.TOPICS,
        specs=seeds.specs()[:1],
        num_agents=1,
        num_tasks=_NUM_TASKS[KEPT if has_rules else UNFILTERED],
        sizes=(1, 2),
        failing=0.05,
        has_rules=has_rules,
    )


def read(cfg: config.DataConfig, cache_dir: pathlib.Path, report: Callable[[str], None]) -> Any:
    """Conversations of both arms, made anew: a script answers at once."""
    streams = {}
    for name in (KEPT, UNFILTERED):
        folder = cache_dir / "agentic" / name
        asyncio.run(running.run(script.Model(IDLE), plan(has_rules=name == KEPT), folder))
        streams[name] = functools.partial(_records, folder / "conversations.jsonl")
    return conversations.read(cfg, cache_dir, report, streams=streams)


def _records(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Equally many from both arms."""
    lines = path.read_text().splitlines()
    assert len(lines) >= NUM_CONVERSATIONS, f"{len(lines)} conversations; raise _NUM_TASKS"
    yield from map(json.loads, lines[:NUM_CONVERSATIONS])


_PROSE = functools.partial(data.read_text, streams={"prose": python_text.read_prose})
JOBS: dict[str, Job] = {
    "base": pass_rates.measured(pretrain.JOB._replace(read=_PROSE), SETS),
    "sft": pass_rates.measured(sft.JOB._replace(read=read), SETS),
}
