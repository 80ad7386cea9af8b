"""A script in place of a model: it answers as an endpoint would, by rules and the request's seed.

It writes specifications, prompts and requests without fault. In a share of the conversations its
agent says that it is done but does nothing, which only execution can tell.
"""

import json
import random
import re
from collections.abc import Sequence
from typing import Any

from kanana_jax.synthesize.agentic import prompts
from kanana_jax.synthesize.replies import Answer
from kanana_jax.synthesize.requests import Request, seed_of

# An evolved domain: a thing with its names, a place with its names, a number, three verbs.
_DOMAINS = {
    "bakery": ("cake Tarte Strudel Baba Lemon", "tray T1 T2 T3", "slices", "Cut Bake Carry"),
    "theatre": ("play Hamlet Medea Tosca Aida", "hall Red Blue Gold", "seats", "Book Free Shift"),
    "hotel": ("room Oak Elm Ash Fir", "floor F1 F2 F3", "beds", "Take Add Swap"),
    "museum": ("vase Ming Tang Song Qing", "case C1 C2 C3", "stamps", "Use Print Place"),
}
TOPICS = tuple(f"a {name}" for name in _DOMAINS)


class Model:
    """`await model(request)` answers it; `idle` is the share of conversations without an action."""

    def __init__(self, idle: float):
        self._idle = idle

    async def __call__(self, request: Request) -> Answer:
        text, calls = self.said(request.body())
        return Answer(text, 1, 1, calls)

    def said(self, body: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
        """The text and the calls that answer the body of a request."""
        system, *rest = body["messages"]
        if body.get("tools"):
            return self._act(body["tools"], rest)
        asked = rest[0]["content"]
        write = {
            prompts.SPEC: _spec, prompts.AGENT: _agent, prompts.TASK: _task, prompts.USER: _user,
            prompts.JUDGE: _judge,
        }[system["content"]]  # fmt: skip
        return write(asked), []

    def _act(
        self, tools: Sequence[dict[str, Any]], messages: Sequence[dict[str, Any]]
    ) -> tuple[str, list[dict[str, Any]]]:
        """The first thing that the user's newest message asks for and that is not done yet."""
        last = max(place for place, one in enumerate(messages) if one["role"] == "user")
        wanted = messages[last]["content"]
        results = [one["content"] for one in messages[last:] if one["role"] == "tool"]
        done = [one for one in results if not one.startswith("error: the service")]
        calls = [_call(tools, one) for one in _parts(wanted)]
        rng = random.Random(seed_of(*(one["content"] for one in messages if one["role"] == "user")))
        if not calls:
            return "What is it?", []
        if rng.random() < self._idle:
            return "Done.", []
        if len(done) < len(calls):
            return "", [calls[len(done)]]
        return ", ".join(done), []


def _parts(text: str) -> list[str]:
    return re.findall(r"[^.]+: [^.]+(?=\.)", text)


def _call(tools: Sequence[dict[str, Any]], part: str) -> dict[str, Any]:
    about, _, listed = part.strip().partition(": ")
    (one,) = [tool["function"] for tool in tools if tool["function"]["description"] == about]
    kinds = one["parameters"]["properties"]
    values = listed.split(", ")
    arguments = {
        name: int(value) if kinds[name]["type"] == "integer" else value
        for name, value in zip(kinds, values, strict=True)
    }
    function = {"name": one["name"], "arguments": json.dumps(arguments)}
    return {"type": "function", "function": function}


def _spec(asked: str) -> str:
    (name,) = [one for one in _DOMAINS if f"the like for a {one}" in asked]
    things, places, number, verbs = (one.split() for one in _DOMAINS[name])
    thing, place, count = things[0], places[0], number[0]
    less, more, move = verbs

    def tool(about: str, kind: str, field: str, **sign: int) -> dict[str, Any]:
        called = f"{name}_{about.split()[0].lower()}"
        return {"name": called, "about": about, "table": thing, "kind": kind, "field": field} | sign

    rows = {key: {place: places[1 + n % 3], count: 5} for n, key in enumerate(things[1:])}
    return json.dumps({
        "name": name,
        "about": f"A {name}.",
        "tables": {thing: {place: "string", count: "integer"}},
        "tools": [
            tool(f"{place.capitalize()} of", "read", place),
            tool(f"{count.capitalize()} of", "read", count),
            tool(less, "change", count, sign=-1),
            tool(more, "change", count, sign=1),
            tool(move, "set", place),
        ],
        "rows": {thing: rows},
    })  # fmt: skip


def _agent(asked: str) -> str:
    name = re.search(r"tools of (\w+) ", asked)
    tools = re.search(r"\n\n(\[.*\])\n\n", asked)
    assert name and tools
    names = [one["name"] for one in json.loads(tools[1])]
    return json.dumps({"prompt": f"You work at the {name[1]}.", "tools": names})


def _task(asked: str) -> str:
    """Worded as by `family.words`, so that measured goals are asked for in the same words."""
    steps = re.findall(r"^- (.*?) \((.*)\)$", asked, re.MULTILINE)
    said = (f"{about}: {', '.join(re.findall(r': ([^,]+)', rest))}." for about, rest in steps)
    return json.dumps({"need": " ".join(said), "rubric": ["The answer is short."]})


def _user(asked: str) -> str:
    """The whole need in one message, as the expert persona asks; here all personas do so."""
    need = re.search(r"You want: (.*)\n", asked)
    assert need
    return prompts.DONE if "\nuser: " in asked else need[1]


def _judge(asked: str) -> str:
    count = len(re.findall(r"^\d+\. ", asked, re.MULTILINE))
    return json.dumps({"scores": [1] * count})
