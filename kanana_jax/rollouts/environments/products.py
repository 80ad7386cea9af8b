"""Arithmetic with a calculator: What is 47*8? Call mul(a=47, b=8), answer 376.

level 1: a*b, one digit times two    2: two times two    3: a*b+c or a*b-c    4: (a+b)*c
"""

import random

from kanana_jax import korean
from kanana_jax.rollouts import task, tools
from kanana_jax.rollouts.environments import exact
from kanana_jax.rollouts.task import Task, TaskFamily
from kanana_jax.rollouts.tasks.problem import Language
from kanana_jax.rollouts.tools import Tool

_TWO: dict[str, tools.Type] = {"a": "integer", "b": "integer"}
TOOLS = tools.by_name(
    Tool(
        name="mul",
        description="a times b",
        parameters=_TWO,
        function=lambda state, a, b: exact.note(state, str(a * b)),
    ),
    Tool(
        name="add",
        description="a plus b",
        parameters=_TWO,
        function=lambda state, a, b: exact.note(state, str(a + b)),
    ),
    Tool(
        name="sub",
        description="a minus b",
        parameters=_TWO,
        function=lambda state, a, b: exact.note(state, str(a - b)),
    ),
)


def _draw(rng: random.Random, language: Language, level: int) -> Task:
    expression, calls = _expression(rng, level)
    oracle, state = [], {"results": []}
    for one in calls:
        results, state = tools.run(TOOLS, state, [one])
        oracle += [task.assistant("", tool_calls=[one]), *results]
    answer = oracle[-1]["content"]
    asked = _asked_in_korean(expression) if language == "ko" else f"What is {expression}?"
    return Task(
        family="products",
        language=language,
        level=level,
        content=f"products {expression}",
        messages=(task.user(asked),),
        tools=tuple(map(tools.schema, TOOLS.values())),
        state={"results": []},
        goal={"answer": answer},
        oracle=(*oracle, task.assistant(answer)),
    )


def _expression(rng: random.Random, level: int) -> tuple[str, list[dict]]:
    """Its text, and the calls that work it out."""
    a, b, c = rng.randint(11, 99), rng.randint(11, 99), rng.randint(11, 99)
    digit = rng.randint(3, 9)
    name, sign = rng.choice((("add", "+"), ("sub", "-")))
    match level:
        case 1:
            return f"{a}*{digit}", [tools.call("mul", a=a, b=digit)]
        case 2:
            return f"{a}*{b}", [tools.call("mul", a=a, b=b)]
        case 3:
            calls = [tools.call("mul", a=a, b=b), tools.call(name, a=a * b, b=c)]
            return f"{a}*{b}{sign}{c}", calls
        case _:
            calls = [tools.call("add", a=a, b=b), tools.call("mul", a=a + b, b=c)]
            return f"({a}+{b})*{c}", calls


def _asked_in_korean(expression: str) -> str:
    return f"{korean.with_particle(expression, '은')}?"


FAMILY = TaskFamily(
    name="products",
    levels=(1, 2, 3, 4),
    draw=_draw,
    verify=exact.verify_with_tools,
    tools=TOOLS,
)
