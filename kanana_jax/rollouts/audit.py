"""Rewards of replies that solve nothing: python -m kanana_jax.rollouts.audit [--family=shop,...].

    --family=products,shop --language=en,ko --count=400 --seed=0 --allow=chain_sum

For every family the mean reward, over `count` tasks, of:

    oracle      the reply that is right, which must earn 1.0 in every task
    constant    the best of "", "0", "yes", "error", and the most frequent right answers
    echo        the prompt
    junk        the better of two: the right answer among those of other tasks, or inside filler
    other       the right answer of another task
    no tools    the right answer without a tool call (families with tools)

All but "constant", "echo" and "no tools" make the right tool calls. A model that is rewarded learns
what pays: a family in which one of these earns 0.15 or more is refused unless it is allowed by
name. Exit code 2: a family is refused, or a setting cannot be used.
"""

import argparse
import collections
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kanana_jax import errors
from kanana_jax.config import ConfigError, fields
from kanana_jax.config.ranges import Count, Seed
from kanana_jax.rollouts import calls, environments, sandbox, task
from kanana_jax.rollouts.grading import Reply
from kanana_jax.rollouts.task import Task, TaskFamily
from kanana_jax.rollouts.tasks.problem import LANGUAGES, Language

_PROGRAM = "kanana_jax.rollouts.audit"
MOST_PAID = 0.15
_CONSTANTS = ("", "0", "yes", "error")
_NUM_FREQUENT = 3
_NUM_OTHERS = 4
_FILLER = " ".join(["well and so on"] * 6)
Earned = dict[str, float]  # by the name of a kind of reply


def check(
    families: Sequence[TaskFamily],
    allow: Collection[str] = (),
    *,
    languages: Sequence[Language] = LANGUAGES,
    count: int = 400,
    seed: int = 0,
) -> dict[str, Earned]:
    """What each kind of reply earns in every family. ConfigError if a family pays too much."""
    found = measure(families, languages=languages, count=count, seed=seed)
    refuse(found, allow)
    return found


def refuse(found: Mapping[str, Earned], allow: Collection[str] = ()) -> None:
    """ConfigError with the figures of families that pay too much, or the oracle less than 1.0."""
    if unknown := set(allow) - set(found):
        raise ConfigError(f"expected allowed families among {', '.join(found)}, got {unknown}")
    refused = [name for name, earned in found.items() if name not in allow and too_much(earned)]
    wrong = [name for name, earned in found.items() if earned["oracle"] < 1.0]
    said = "; ".join(
        f"{name}: " + ", ".join(f"{kind} {mean:.2f}" for kind, mean in found[name].items())
        for name in dict.fromkeys((*refused, *wrong))
    )
    if said:
        raise ConfigError(
            f"expected families in which what solves nothing earns less than {MOST_PAID} and the "
            f"oracle 1.0, got {said}; leave them out, or allow by name those that pay too much"
        )


def too_much(earned: Earned) -> list[str]:
    """The kinds of replies that earn too much."""
    return [kind for kind, mean in earned.items() if kind != "oracle" and mean >= MOST_PAID]


def measure(
    families: Sequence[TaskFamily], *, languages: Sequence[Language], count: int, seed: int
) -> dict[str, Earned]:
    """`Earned` by the name of the family."""
    found = {}
    with sandbox.Pool() as pool:
        for family in families:
            drawn = environments.tasks_of(
                [family], languages, seed=seed, count=count, heldout=False
            )
            kinds = _replies(family, drawn, _states_after(pool, drawn))
            found[family.name] = {
                kind: max(_mean(family, replies) for replies in sets)
                for kind, sets in kinds.items()
            }
    return found


def _states_after(pool: sandbox.Pool, drawn: Sequence[Task]) -> list[Any]:
    """The states after the calls of the oracles, turn by turn."""
    states = [one.state for one in drawn]
    turns = [[m["tool_calls"] for m in one.oracle if m.get("tool_calls")] for one in drawn]
    for k in range(max(map(len, turns))):
        at = [i for i, found in enumerate(turns) if len(found) > k]
        ran = calls.run_all(
            pool,
            [
                calls.Request(family=drawn[i].family, state=states[i], tool_calls=turns[i][k])
                for i in at
            ],
        )
        for i, one in zip(at, ran, strict=True):
            if one.status != "ok":
                raise ConfigError(
                    f"expected the oracle's calls of {drawn[i].family} to run in the sandbox, got "
                    f"{one.status}: {one.messages[0]['content']}; guards here: {pool.guards}"
                )
            states[i] = one.state
    return states


def _others(drawn: Sequence[Task]) -> list[list[str]]:
    """For every task the right answers of further tasks, none of which is its translation."""
    answers, found = [task.answer(one.oracle) for one in drawn], []
    for i, one in enumerate(drawn):
        turned = itertools.chain(range(i + 1, len(drawn)), range(i))
        texts = (answers[k] for k in turned if drawn[k].content != one.content)
        found.append([*itertools.islice(texts, _NUM_OTHERS)])
    if min(map(len, found)) < _NUM_OTHERS:
        raise ConfigError(f"expected more than {_NUM_OTHERS} tasks to audit, got {len(drawn)}")
    return found


def _replies(
    family: TaskFamily, drawn: Sequence[Task], states: Sequence[Any]
) -> dict[str, list[list[Reply]]]:
    """By kind, sets of replies, each with a reply to every task; the best set counts."""
    answers = [task.answer(one.oracle) for one in drawn]
    others = _others(drawn)
    frequent = collections.Counter(answers).most_common(_NUM_FREQUENT)
    constants = (*_CONSTANTS, *(text for text, _ in frequent))
    around = [
        " ".join((*texts[:2], text, *texts[2:]))
        for text, texts in zip(answers, others, strict=True)
    ]
    filled = [f"{_FILLER} {text} {_FILLER}" for text in answers]

    def uncalled(texts: Sequence[str]) -> list[Reply]:
        return [
            Reply(task=one, messages=[task.assistant(text)], state=one.state)
            for one, text in zip(drawn, texts, strict=True)
        ]

    def called(texts: Sequence[str]) -> list[Reply]:
        """Replies after the oracle's calls."""
        return [
            Reply(task=one, messages=[*one.oracle[:-1], task.assistant(text)], state=state)
            for one, text, state in zip(drawn, texts, states, strict=True)
        ]

    oracle = [
        Reply(task=one, messages=one.oracle, state=state)
        for one, state in zip(drawn, states, strict=True)
    ]
    return {
        "oracle": [oracle],
        "constant": [uncalled([text] * len(drawn)) for text in constants],
        "echo": [uncalled([one.messages[-1]["content"] for one in drawn])],
        "junk": [called(around), called(filled)],
        "other": [called([texts[0] for texts in others])],
        **({"no tools": [uncalled(answers)]} if family.tools else {}),
    }


def _mean(family: TaskFamily, replies: Sequence[Reply]) -> float:
    """In this process, because no model wrote these replies."""
    rewards = [family.verify(one.task, one.messages, one.state).reward for one in replies]
    return sum(rewards) / len(rewards)


def table(found: Mapping[str, Earned]) -> str:
    """A row per family; what is too much has a mark behind it."""
    kinds = list(dict.fromkeys(kind for earned in found.values() for kind in earned))
    width = max(map(len, (*found, "family")))
    lines = [f"{'family':{width}}" + "".join(f"{kind:>10}" for kind in kinds)]
    for name, earned in found.items():
        cells = [
            f"{earned[kind]:.2f}{'*' if kind in too_much(earned) else ' '}"
            if kind in earned
            else "- "
            for kind in kinds
        ]
        lines.append(f"{name:{width}}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is audited."""

    family: tuple[str, ...] = tuple(environments.FAMILIES)
    language: tuple[Language, ...] = LANGUAGES
    count: Count = 400
    seed: Seed = 0
    allow: tuple[str, ...] = ()

    def __post_init__(self):
        fields.check(self, "")


def main(argv: list[str] | None = None) -> None:
    with errors.reported(_PROGRAM):
        wanted = Wanted(**vars(_parser().parse_args(argv)))
        families = [environments.of(name) for name in wanted.family]
        settings = {"languages": wanted.language, "count": wanted.count, "seed": wanted.seed}
        found = measure(families, **settings)
        print(table(found), flush=True)
        refuse(found, wanted.allow)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {_PROGRAM}", allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    known = ", ".join(environments.FAMILIES)
    parser.add_argument("--family", type=_names, help=f"of {known}; default: all")
    parser.add_argument("--language", type=_names, help="default: en,ko")
    parser.add_argument("--count", type=int, help=f"tasks of a family; default {Wanted.count}")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--allow", type=_names, help="families that may pay too much")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


if __name__ == "__main__":
    main()
