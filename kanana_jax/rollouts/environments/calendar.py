"""A calendar of one day: events with a first hour and a length, none at the same time.

level 1: one call    2: one request that takes two calls    3: the third request of a user
"""

import random
from collections.abc import Callable
from typing import Any

from kanana_jax.rollouts import tools
from kanana_jax.rollouts.environments import world
from kanana_jax.rollouts.environments.world import Request
from kanana_jax.rollouts.task import Task, TaskFamily
from kanana_jax.rollouts.tasks.problem import Language
from kanana_jax.rollouts.tools import MistakeError, Tool, call

_TITLES = (
    ("gym", "운동"), ("tea", "차"), ("walk", "산책"), ("exam", "시험"), ("call", "통화"),
    ("lunch", "점심"), ("class", "수업"), ("visit", "방문"),
)  # fmt: skip
_FIRST, _LAST = 0, 24  # hours of the day
State = dict[str, Any]


def _found(state: State, title: str) -> dict[str, Any]:
    if title not in state["events"]:
        raise MistakeError(f"no event {title[:40]!r}")
    return state["events"][title]


def _is_free(state: State, start: int, hours: int, but: str = "") -> bool:
    others = [event for title, event in state["events"].items() if title != but]
    is_apart = all(
        start + hours <= one["start"] or one["start"] + one["hours"] <= start for one in others
    )
    return is_apart and start >= _FIRST and hours >= 1 and start + hours <= _LAST


def _place(state: State, title: str, start: int, hours: int) -> str:
    if not _is_free(state, start, hours, but=title):
        raise MistakeError(f"{start} to {start + hours} is not free")
    state["events"][title] = {"start": start, "hours": hours}
    return f"{start} to {start + hours}"


def _list(state: State) -> str:
    shown = sorted((one["start"], one["hours"], title) for title, one in state["events"].items())
    world.read(state, "list")
    return ", ".join(f"{title} {start} to {start + hours}" for start, hours, title in shown)


def _add(state: State, title: str, start: int, hours: int) -> str:
    if title in state["events"] or not title:
        raise MistakeError(f"there is {title[:40]!r} already")
    return _place(state, title, start, hours)


def _move(state: State, title: str, start: int) -> str:
    return _place(state, title, start, _found(state, title)["hours"])


def _delete(state: State, title: str) -> str:
    _found(state, title)
    del state["events"][title]
    return f"{len(state['events'])} left"


def _free(state: State, hours: int) -> str:
    starts = [start for start in range(_FIRST, _LAST) if _is_free(state, start, hours)]
    world.read(state, "free", str(hours))
    return ", ".join(map(str, starts)) or "none"


TOOLS = tools.by_name(
    Tool(name="list", description="All events", function=_list),
    Tool(
        name="add",
        description="A new event",
        parameters={"title": "string", "start": "integer", "hours": "integer"},
        function=_add,
    ),
    Tool(
        name="move",
        description="Another start for an event",
        parameters={"title": "string", "start": "integer"},
        function=_move,
    ),
    Tool(
        name="delete",
        description="Takes an event away",
        parameters={"title": "string"},
        function=_delete,
    ),
    Tool(
        name="free",
        description="Hours at which so many free hours begin",
        parameters={"hours": "integer"},
        function=_free,
    ),
)


def _draw(rng: random.Random, language: Language, level: int) -> Task:
    count = rng.randint(3, 5)
    pairs = rng.sample(_TITLES, count + 1)
    lengths = [rng.randint(1, 2) for _ in pairs]
    gaps = [rng.randint(0, 2) for _ in pairs]
    starts = [_FIRST + sum(lengths[:i]) + sum(gaps[: i + 1]) for i in range(count)]
    order = rng.sample(range(count), count)
    later = rng.randint(starts[-1] + lengths[count - 1], _LAST - 2)
    choice = rng.randrange(4)

    def built(language: Language) -> tuple[State, list[Request]]:
        titles = [pair[language == "ko"] for pair in pairs]
        events = {titles[i]: {"start": starts[i], "hours": lengths[i]} for i in order}
        state = {"events": events, "reads": []}
        say = _english if language == "en" else _korean
        asked = _requests(state, list(events), titles[-1], lengths[-1], later, choice, level, say)
        return state, asked

    return world.make("calendar", TOOLS, level, built, language)


def _requests(
    state: State,
    known: list[str],
    new: str,
    hours: int,
    later: int,
    choice: int,
    level: int,
    say: Callable[..., str],
) -> list[Request]:
    a, b, *_ = known
    first, length = state["events"][a]["start"], state["events"][a]["hours"]
    when = Request(text=say("when", a), turns=((call("list"),),), answer=str(first))
    move = Request(
        text=say("move", a, later),
        turns=((call("move", title=a, start=later),),),
        answer=str(later + length),
    )
    cancel = Request(
        text=say("cancel", b), turns=((call("delete", title=b),),), answer=str(len(known) - 1)
    )
    add = Request(
        text=say("add", new, later, hours),
        turns=((call("add", title=new, start=later, hours=hours),),),
        answer=str(later + hours),
    )
    match level:
        case 1:
            return [(when, move, cancel, add)[choice]]
        case 2:
            return [_first_free(state, new, hours, say)]
        case _:
            return [cancel, move, _after(state, a, b, later, new, hours, choice, say)]


def _first_free(state: State, new: str, hours: int, say: Callable[..., str]) -> Request:
    start = next(one for one in range(_FIRST, _LAST) if _is_free(state, one, hours))
    return Request(
        text=say("first", new, hours),
        turns=((call("free", hours=hours),), (call("add", title=new, start=start, hours=hours),)),
        answer=str(start),
    )


def _after(
    state: State,
    moved: str,
    gone: str,
    later: int,
    new: str,
    hours: int,
    choice: int,
    say: Callable[..., str],
) -> Request:
    """The request after two that moved one event and deleted another."""
    events = {title: event for title, event in state["events"].items() if title != gone}
    events[moved] = {**events[moved], "start": later}
    if choice % 2:
        return _first_free({"events": events}, new, hours, say)
    other = [title for title in events if title != moved][-1]
    return Request(
        text=say("when", other), turns=((call("list"),),), answer=str(events[other]["start"])
    )


def _english(kind: str, a: str, n: int = 0, m: int = 0) -> str:
    return {
        "when": f"When does {a} start?",
        "move": f"Move {a} to {n}. When does it end?",
        "cancel": f"Cancel {a}. How many are left?",
        "add": f"Add {a} at {n} for {m} h. Its end?",
        "first": f"Book {a} for {n} h as early as you can. When?",
    }[kind]


def _korean(kind: str, a: str, n: int = 0, m: int = 0) -> str:
    return {
        "when": f"{a} 시작은?",
        "move": f"{a} {n}시로 옮기기. 끝은?",
        "cancel": f"{a} 취소. 남은 일정 수는?",
        "add": f"{a} {n}시에 {m}시간 추가. 끝은?",
        "first": f"{a} {n}시간 가장 이른 때에 잡기. 시작은?",
    }[kind]


FAMILY = TaskFamily(name="calendar", levels=(1, 2, 3), draw=_draw, verify=world.verify, tools=TOOLS)
