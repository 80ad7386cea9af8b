"""Questions for which a model writes a program: Sum of i*i for i below 37? Call python, answer.

level 1: a sum of squares    2: of multiples    3: of digits of a power    4: of primes
"""

import random
from typing import Any

from kanana_jax.rollouts import task, tools
from kanana_jax.rollouts.environments import exact, running
from kanana_jax.rollouts.task import Task, TaskFamily
from kanana_jax.rollouts.tasks.problem import Language
from kanana_jax.rollouts.tools import Tool


def _python(state: Any, code: str) -> str:
    """Only a child of the sandbox gets here; what the program does to the state is a claim."""
    return exact.note(state, running.run(code))


TOOLS = tools.by_name(
    Tool(
        name="python",
        description="Runs a program and returns what it prints",
        parameters={"code": "string"},
        function=_python,
    )
)


def _draw(rng: random.Random, language: Language, level: int) -> Task:
    english, korean, code, answer = _question(rng, level)
    call = tools.call("python", code=code)
    return Task(
        family="program",
        language=language,
        level=level,
        content=f"program {code}",
        messages=(task.user(english if language == "en" else korean),),
        tools=tuple(map(tools.schema, TOOLS.values())),
        state={"results": []},
        goal={"answer": str(answer)},
        oracle=(
            task.assistant("", tool_calls=[call]),
            {"role": "tool", "name": "python", "content": str(answer)},
            task.assistant(str(answer)),
        ),
    )


def _question(rng: random.Random, level: int) -> tuple[str, str, str, int]:
    """In English, in Korean, a program, and what it prints."""
    n, k, power = rng.randint(20, 400), rng.randint(3, 9), rng.randint(10, 60)
    match level:
        case 1:
            return (
                f"Sum of i*i for i below {n}?",
                f"i가 {n}보다 작을 때 i*i의 합은?",
                f"print(sum(i*i for i in range({n})))",
                sum(i * i for i in range(n)),
            )
        case 2:
            return (
                f"Sum of multiples of {k} below {n}?",
                f"{n}보다 작은 {k}의 배수의 합은?",
                f"print(sum(range(0, {n}, {k})))",
                sum(range(0, n, k)),
            )
        case 3:
            return (
                f"Sum of the digits of {k}**{power}?",
                f"{k}**{power}의 각 자리 수의 합은?",
                f"print(sum(map(int, str({k}**{power}))))",
                sum(map(int, str(k**power))),
            )
        case _:
            return (
                f"Sum of primes below {n}?",
                f"{n}보다 작은 소수의 합은?",
                f"print(sum(n for n in range(2, {n}) if all(n % d for d in range(2, n))))",
                sum(p for p in range(2, n) if all(p % d for d in range(2, p))),
            )


FAMILY = TaskFamily(
    name="program",
    levels=(1, 2, 3, 4),
    draw=_draw,
    verify=exact.verify_with_tools,
    tools=TOOLS,
)
