"""Which conversations are kept: those that reached their goal, by rules that are named.

The first broken rule tells why a conversation is left out. Code checks all rules but the last; a
model gives the scores of that one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kanana_jax.rollouts import tools
from kanana_jax.rollouts.environments import tables
from kanana_jax.synthesize import reading
from kanana_jax.synthesize.agentic import prompts, tasks
from kanana_jax.synthesize.agentic.playing import Played
from kanana_jax.synthesize.agentic.tasks import Settings, UnusableError
from kanana_jax.synthesize.replies import Ask

_MOST_CALLS_TIMES = 3  # as many as the goal takes


def _ended(played: Played) -> str:
    return "" if played.end == "done" else played.end


def _state(played: Played) -> str:
    wanted, found = played.task.goal.tables, tables.lasting(played.state)
    return "" if found == wanted else f"wanted {wanted}, got {found}"[:300]


def _read(played: Played) -> str:
    missing = [one for one in played.task.goal.reads if one not in played.state["reads"]]
    return f"{missing}" if missing else ""


def _said(played: Played) -> str:
    """What the user was to be told must be in an answer."""
    answers = " ".join(one["content"] for one in played.spoken if one["role"] == "assistant")
    missing = [one for one in played.task.goal.says if not tasks.says(answers, one)]
    return ", ".join(missing)


def _frugal(played: Played) -> str:
    count = sum(len(one.get("tool_calls", ())) for one in played.messages)
    most = _MOST_CALLS_TIMES * len(played.task.goal.calls)
    return f"{count} calls, {most} are enough" if count > most else ""


def _in_role(played: Played) -> str:
    """Users say what they want, and call nothing."""
    names = [f'"name": "{name}"' for name in played.task.agent.tools]
    users = [one["content"] for one in played.messages if one["role"] == "user"]
    return next((said[:80] for said in users if any(name in said for name in names)), "")


def _replays(played: Played) -> str:
    results, state = replay(played.task.state(), played.task.agent.spec.tools, played.messages)
    said = [one for one in played.messages if one["role"] == "tool"]
    return "" if (results, state) == (said, played.state) else "other results"


RULES: Mapping[str, Callable[[Played], str]] = {
    "no end": _ended,
    "goal state": _state,
    "not looked up": _read,
    "not told": _said,
    "too many calls": _frugal,
    "user out of role": _in_role,
    "no replay": _replays,
}
RUBRIC = "rubric"


def replay(
    state: Any, known: Mapping[str, tools.Tool], messages: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], Any]:
    """The results of all calls of a conversation in a fresh simulator, and the state after them."""
    results: list[dict[str, Any]] = []
    for one in messages:
        found, state = tools.run(known, state, one.get("tool_calls", ()))
        results += found
    return results, state


def expect_good(played: Played) -> None:
    """Raises UnusableError with the first rule that is broken."""
    for name, broken in RULES.items():
        if detail := broken(played):
            raise UnusableError(name, detail)


async def judged(ask: Ask, settings: Settings, played: Played) -> tuple[int, ...]:
    """A score of 0 or 1 for each line of the rubric; UnusableError where one is 0."""
    rubric = played.task.rubric
    messages = prompts.judge(played.task.need, rubric, played.spoken)
    answer = await tasks.asked(ask, settings, messages, "judge", played.task.id)
    try:
        scores = reading.first_object(answer.text).get("scores")
    except reading.UnreadableError as error:
        raise UnusableError("unreadable", str(error)) from None
    if not isinstance(scores, list) or len(scores) != len(rubric) or not {*scores} <= {0, 1}:
        raise UnusableError("unreadable", f"scores {str(scores)[:80]} for {len(rubric)} lines")
    for line, score in zip(rubric, scores, strict=True):
        if not score:
            raise UnusableError(RUBRIC, line)
    return tuple(scores)
