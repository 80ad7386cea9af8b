"""A problem with its answer and a trace, the steps that lead to it; each step can be checked.

    text   =  prompt \\n trace \\n = answer        or without a trace:  prompt \\n = answer
    trace  =  step_1 step_2 ... step_n
    step_i =  step(numbers, step_{i-1}, i)        ends in : or = and its result
    answer =  result of step_n

A step is a function of the problem's numbers and of the step before it as it was written. So a
step that follows from a wrong one can be told from one that does not follow. Steps repeat the
number that they use: a small model learns to copy it first and then what to do with it.
"""

import hashlib
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Language = Literal["en", "ko"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
Numbers = tuple[int, ...]

HELDOUT_SHARE = 1 / 8  # of all problems that a family has
_ANSWER = "= "


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of problem, as pure functions. The size of a problem is how many steps it takes.

    `draw` gives the numbers of a problem, which alone decide its answer. `ask` puts them into
    words, with names and things from its generator. `step` gives step i, counted from 0, and raises
    ValueError if no step can follow what was written before; steps contain no blank.
    """

    name: str
    sizes: tuple[int, ...]  # drawn unless others are asked for
    draw: Callable[[random.Random, int], Numbers]
    ask: Callable[[Numbers, Language, random.Random], str]
    step: Callable[[Numbers, str, int], str]
    most_steps: int = 20


@dataclass(frozen=True, kw_only=True)
class Problem:
    prompt: str
    trace: str
    answer: str
    language: Language
    family: Family
    size: int
    numbers: Numbers


def make(
    family: Family, language: Language, seed: int, index: int, sizes: Sequence[int] = ()
) -> Problem:
    """Problem `index` of a seed: the same numbers in both languages."""
    rng = random.Random(f"{family.name} {seed} {index}")
    return drawn(family, language, rng, rng.choice(tuple(sizes) or family.sizes))


def drawn(family: Family, language: Language, rng: random.Random, size: int) -> Problem:
    """A problem of a size from a generator."""
    numbers = family.draw(rng, size)
    steps = [""]
    for i in range(size):
        steps.append(family.step(numbers, steps[-1], i))
    return Problem(
        prompt=family.ask(numbers, language, rng),
        trace=" ".join(steps[1:]),
        answer=result(steps[-1]),
        language=language,
        family=family,
        size=size,
        numbers=numbers,
    )


def is_heldout(problem: Problem) -> bool:
    """Whether a problem is for measuring. Only its numbers decide, so its translations are, too."""
    return is_heldout_content(content(problem))


def content(problem: Problem) -> str:
    """What decides the answer, whatever the words."""
    return repr((problem.family.name, problem.numbers))


def is_heldout_content(content: str) -> bool:
    digest = hashlib.blake2b(content.encode(), digest_size=8).digest()
    return int.from_bytes(digest) < HELDOUT_SHARE * 2**64


def prompt_text(problem: Problem) -> str:
    """What a model is given."""
    return f"{problem.prompt}\n"


def document(problem: Problem, with_trace: bool) -> str:
    """What a model learns from: the prompt and all that should follow it."""
    trace = f"{problem.trace}\n" if with_trace else ""
    return f"{prompt_text(problem)}{trace}{_ANSWER}{problem.answer}"


def answer_of(text: str) -> str | None:
    """The answer in a text, or in what a model wrote after a prompt; None if it gives none."""
    return _read(text)[1]


def is_right(problem: Problem, text: str) -> bool:
    """Whether a text, or what a model wrote after the prompt, gives the answer."""
    return answer_of(text) == problem.answer


def trace_of(problem: Problem, text: str) -> str:
    """What stands between prompt and answer; empty where nothing does."""
    return _read(text.removeprefix(prompt_text(problem)))[0]


def follows(problem: Problem, trace: str) -> tuple[bool, ...]:
    """For every step of a trace, whether it follows from the problem and the step before it.

    Missing steps count as steps that do not follow.
    """
    family, numbers = problem.family, problem.numbers
    steps = trace.split(" ") if trace else []

    def is_next(i: int) -> bool:
        if i >= min(len(steps), problem.size):
            return False
        try:
            return steps[i] == family.step(numbers, steps[i - 1] if i else "", i)
        except ValueError:
            return False

    return tuple(is_next(i) for i in range(max(len(steps), problem.size)))


def result(step: str) -> str:
    """The result of a step."""
    return re.split("[:=]", step)[-1]


def whole(text: str) -> int:
    """A number of a step; ValueError if `text` is not written like one."""
    if text.isascii() and text.isdigit() and str(int(text)) == text:
        return int(text)
    raise ValueError(f"expected a whole number, got {text!r}")


def _read(text: str) -> tuple[str, str | None]:
    """All before the answer, and the answer: the first line that begins with its sign."""
    before: list[str] = []
    for line in text.split("\n"):
        if line.startswith(_ANSWER):
            return "\n".join(before), line.removeprefix(_ANSWER).strip()
        before.append(line)
    return "\n".join(before), None
