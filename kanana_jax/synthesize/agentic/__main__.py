"""Makes conversations of agents with tools: python -m kanana_jax.synthesize.agentic --to=OUT.

    --endpoint=http://127.0.0.1:8000/v1 --model=NAME --agent-model=NAME

--model writes specifications, agents, tasks and users' words, and judges. --agent-model is the
agent that is learned from; without it --model is. OUT/conversations.jsonl has what passes all
rules, for supervised fine-tuning; OUT/left_out.jsonl names the rule that everything else breaks.
The same command, run again, asks only what has no answer yet. Exit code 2: a flag cannot be used,
or the endpoint answers nothing.
"""

import argparse
import asyncio
import json
import pathlib
from typing import Any

from kanana_jax import config, errors, extras
from kanana_jax.config import paths

with extras.needed("train", "synthesize"):
    from kanana_jax.synthesize import endpoints, flags
    from kanana_jax.synthesize.agentic import playing, running, seeds, tasks
    from kanana_jax.synthesize.endpoints import ByModel, Endpoints
    from kanana_jax.synthesize.records import Records

_PROGRAM = "kanana_jax.synthesize.agentic"


def main(argv: list[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    with errors.reported(_PROGRAM):
        plan, by_model = _plan(arguments), flags.by_model(arguments, "agent")
        out = paths.local(arguments.to, "--to")
        if arguments.dry_run:
            most = (len(plan.topics) + len(plan.specs)) * plan.num_agents * plan.num_tasks
            print(f"at most {most} conversations; nothing was asked by --dry-run")
            return
        paths.expect_folder(out, "--to")
        prices = arguments.price_in, arguments.price_out
        print(json.dumps(asyncio.run(_run(plan, by_model, out, prices))))


async def _run(
    plan: running.Plan, by_model: ByModel, out: pathlib.Path, prices: tuple[float, float]
) -> dict[str, Any]:
    with Records(out / running.ANSWERS) as records:
        async with Endpoints(by_model, records) as opened:

            def shown() -> str:
                return endpoints.shown(opened.counts(), prices)

            return await running.run(opened.ask, plan, out, shown)


def _plan(arguments: argparse.Namespace) -> running.Plan:
    flags.expect_positive(arguments, "agents", "tasks", "turns", "calls")
    if not 0 <= arguments.failing < 1:
        raise config.ConfigError(f"--failing must lie in [0, 1), got {arguments.failing}")

    def settings(model: str) -> tasks.Settings:
        return tasks.Settings(
            model=model, max_tokens=arguments.max_tokens, temperature=arguments.temperature
        )

    return running.Plan(
        author=settings(arguments.model),
        agent=settings(arguments.agent_model or arguments.model),
        topics=_listed(arguments.topics),
        num_agents=arguments.agents,
        num_tasks=arguments.tasks,
        sizes=_sizes(arguments.sizes),
        failing=arguments.failing,
        limits=playing.Limits(turns=arguments.turns, calls=arguments.calls),
        has_judge=not arguments.no_judge,
        window=4 * arguments.concurrency,
    )


def _listed(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


def _sizes(text: str) -> list[int]:
    found = [int(one) if one.isdecimal() else 0 for one in _listed(text)]
    if not found or not all(1 <= one <= running.MOST_CALLS for one in found):
        raise config.ConfigError(
            f"--sizes must be numbers from 1 to {running.MOST_CALLS}, got {text!r}"
        )
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {_PROGRAM}", allow_abbrev=False)
    add = parser.add_argument
    add("--to", required=True, help="a folder")
    add("--topics", default=",".join(seeds.TOPICS), help="each gets a specification of tools")
    add("--agents", type=int, default=2, help="of each specification")
    add("--tasks", type=int, default=4, help="of each agent")
    add("--sizes", default="1,2,3", help="calls of the goals, in turn")
    add("--failing", type=float, default=0.1, help="share of calls that fail by chance")
    add("--turns", type=int, default=6, help="most messages of a user")
    add("--calls", type=int, default=8, help="most steps of the agent to one of them")
    add("--temperature", type=float, default=0.8)
    add("--no-judge", action="store_true", help="code alone decides; nobody reads the rubric")
    flags.add(parser, "agent", "which plays the agent; without it --model does")
    return parser


if __name__ == "__main__":
    main()
