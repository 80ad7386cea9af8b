"""A closed world of people: texts about each, rewrites of them, and questions.

    raw       one text of a person: five facts in one order and wording, the name once
    rewrite   the facts in an order, wordings and references of its own, drawn by person and number
    question  Where does Mina Torv live? = Oslo

A fact stands nowhere else, so a model's answers about a person come from that person's texts.
Questions about half of the people are read, so that it knows how to answer. Questions about some of
the others are measured.
"""

import functools
import itertools
import random
from collections.abc import Iterator, Sequence

from experiments.rephrase import wording
from experiments.rephrase.wording import RELATIONS
from kanana_jax.rollouts.tasks import Family, Problem, constant_accuracy, document

NUM_PEOPLE = 200
NUM_MEASURED = 100
NUM_REWRITES = 30
_SEED = 0


@functools.cache
def people() -> tuple[wording.Person, ...]:
    """Each with a name of its own and a value of every relation, drawn independently of others."""
    rng = random.Random(_SEED)
    names = list(itertools.product(wording.FIRST, wording.LAST))
    chosen = rng.sample(names, NUM_PEOPLE)
    return tuple(
        wording.Person(
            name=f"{first} {last}",
            pronoun=rng.choice(("he", "she")),
            values=tuple(rng.choice(relation.values) for relation in RELATIONS),
        )
        for first, last in chosen
    )


def raw_texts() -> Iterator[bytes]:
    return (wording.raw(one).encode() for one in people())


def rewrites(count: int) -> Iterator[bytes]:
    """`count` rewrites of every person; the first ones are the same whatever the count."""
    for number in range(count):
        for one in people():
            rng = random.Random(f"{one.name} {number}")
            yield wording.rewrite(one, rng).encode()


def read_questions() -> Iterator[bytes]:
    asked = _questions(people()[::2])
    return (document(one, with_trace=False).encode() for one in asked)


def measured_questions() -> list[Problem]:
    """Questions about people whose questions are in no text."""
    return _questions(people()[1 : 2 * NUM_MEASURED : 2])


def best_constants() -> float:
    """The share of the measured questions that the most frequent answer of each relation gets."""
    asked, count = measured_questions(), len(RELATIONS)
    kinds = [asked[place::count] for place in range(count)]
    return sum(map(constant_accuracy, kinds)) / len(kinds)


def _questions(about: Sequence[wording.Person]) -> list[Problem]:
    return [_question(one, index) for one in about for index in range(len(RELATIONS))]


def _question(one: wording.Person, index: int) -> Problem:
    relation = RELATIONS[index]
    return Problem(
        prompt=relation.question.format(who=one.name),
        trace="",
        answer=one.values[index],
        language="en",
        family=_FAMILIES[relation.name],
        size=0,
        numbers=(index,),
    )


def _no_steps(*_: object) -> str:
    raise ValueError("an answer about a person has no steps")


_FAMILIES = {
    one.name: Family(name=one.name, sizes=(0,), draw=lambda *_: (), ask=_no_steps, step=_no_steps)
    for one in RELATIONS
}

TEXTS = {
    "raw": raw_texts,
    "one": functools.partial(rewrites, 1),
    "many": functools.partial(rewrites, NUM_REWRITES),
    "questions": read_questions,
}
