"""What models are asked, by role; the first words of a system message tell the roles apart."""

import json
from collections.abc import Sequence
from typing import Any

from kanana_jax.rollouts.environments.tables import KINDS
from kanana_jax.synthesize.requests import Message

DONE = "DONE"  # of a user who has nothing to ask any more

SPEC = "You design sets of tools."
AGENT = "You write system prompts."
TASK = "You write what a user wants."
USER = "You play a user."
JUDGE = "You judge a conversation."


def spec(seed: dict[str, Any], topic: str) -> list[Message]:
    """Another specification in the form of a seed."""
    asked = (
        f"Here are tools for {seed['name']}:\n\n{json.dumps(seed, ensure_ascii=False)}\n\nWrite "
        f"the like for {topic}: other tables, other fields, other tools. Types are integer and "
        f"string; kinds are {', '.join(KINDS)}; each table has 3 to 8 rows. Answer with the JSON "
        "object alone."
    )
    return _of(SPEC, asked)


def agent(spec_json: dict[str, Any]) -> list[Message]:
    """A system prompt and a choice of tools."""
    asked = (
        f"These are the tools of {spec_json['name']} ({spec_json['about']}):\n\n"
        f"{json.dumps(spec_json['tools'], ensure_ascii=False)}\n\nWrite the system prompt of an "
        "assistant who works there, and choose the tools that it needs. Answer with a JSON object "
        '{"prompt": "...", "tools": ["name", ...]} alone.'
    )
    return _of(AGENT, asked)


def task(about: str, persona: str, steps: Sequence[str]) -> list[Message]:
    """Words for a goal, as the user would say it, and what else an answer is judged by."""
    listed = "\n".join(f"- {one}" for one in steps)
    asked = (
        f"{about}\n\nThe user is {persona}. What has to happen:\n{listed}\n\nSay in the user's "
        "words what they want, with every name and number above and without names of tools; then "
        "name one to three things that a good assistant minds here. Answer with a JSON object "
        '{"need": "...", "rubric": ["...", ...]} alone.'
    )
    return _of(TASK, asked)


def user(persona: str, need: str, spoken: Sequence[Message]) -> list[Message]:
    """The next message of the user, or DONE. `spoken` is what user and assistant said so far."""
    asked = (
        f"You are {persona}. You want: {need}\n\nThe conversation so far:\n{_shown(spoken)}\n\n"
        f"Write your next message alone; where all that you want is done, write {DONE} alone. "
        "Ask for one thing after another or for all at once, as you would."
    )
    return _of(USER, asked)


def judge(need: str, rubric: Sequence[str], spoken: Sequence[Message]) -> list[Message]:
    """A score of 0 or 1 for each line of the rubric."""
    listed = "\n".join(f"{place}. {one}" for place, one in enumerate(rubric, 1))
    asked = (
        f"The user wanted: {need}\n\nThe conversation:\n{_shown(spoken)}\n\nDid the assistant mind "
        f'these?\n{listed}\n\nAnswer with a JSON object {{"scores": [0 or 1 for each]}} alone.'
    )
    return _of(JUDGE, asked)


def _of(system: str, asked: str) -> list[Message]:
    return [{"role": "system", "content": system}, {"role": "user", "content": asked}]


def _shown(spoken: Sequence[Message]) -> str:
    lines = [f"{one['role']}: {one['content']}" for one in spoken]
    return "\n".join(lines) or "(nothing yet)"
