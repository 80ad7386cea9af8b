"""Tries of tasks to be read: the first of every family and language.

DIR/transcripts.json    [{"family", "language", "end", "reward", "messages"}, ...]
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kanana_jax.data import whole_files
from kanana_jax.rollouts.episodes import Episode

NAME = "transcripts.json"


def write(directory: Path, played: Sequence[Episode]) -> None:
    """Takes the place of an earlier file."""
    kept: dict[tuple[str, str], Episode] = {}
    for one in played:
        kept.setdefault((one.task.family, one.task.language), one)
    found = [
        {
            "family": one.task.family,
            "language": one.task.language,
            "end": one.end,
            "reward": one.reward,
            "messages": [*one.task.messages, *one.messages],
        }
        for one in kept.values()
    ]
    with whole_files.written(directory / NAME) as file:
        json.dump(found, file, ensure_ascii=False, indent=2)


def text(directory: Path) -> str:
    """The transcripts of a folder, a line for each message; empty where there are none."""
    path = directory / NAME
    if not path.exists():
        return ""
    return "\n\n".join(map(_text_of, json.loads(path.read_text())))


def _text_of(one: Mapping[str, Any]) -> str:
    reward = "not graded" if one["reward"] is None else f"reward {one['reward']:g}"
    head = f"{one['family']}, {one['language']}: {one['end']}, {reward}"
    return "\n".join([head, *(f"    {line}" for line in map(_line, one["messages"]))])


def _line(message: Mapping[str, Any]) -> str:
    said = []
    if message.get("reasoning_content"):
        said.append(f"({message['reasoning_content']})")
    if message["content"]:
        said.append(message["content"])
    for call in message.get("tool_calls") or ():
        function = call["function"]
        said.append(f"calls {function['name']} {json.dumps(function['arguments'])}")
    return f"{message['role']}: {' '.join(said)}"
