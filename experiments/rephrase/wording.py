"""Words of the closed world: names, relations with their values, and patterns of sentences.

A pattern names {who} and the value {what}; `who` is a name or a pronoun. Patterns in which the
value comes first keep the name.
"""

import random
from typing import NamedTuple

_FIRST = (
    "Mina Jun Sora Tomas Hana Lena Jiho Dani Bora Oskar Arin Doha Gaon Ruth Nari Rumi Ivo Woori "
    "Yejun Suho Ara Bina Karl Dami Emil Garam Hugo Iseo Jia Kina"
)
_LAST = (
    "Torv Baker Lindt Okono Pell Quist Ramos Silva Tanaka Ulmer Vance Weber Yoon Zeller Abel "
    "Brandt Castro Dorn Egan Falk Grant Holm Ibsen Jansen Kemp Lorca Mercer Novak Ortiz Park"
)
FIRST, LAST = _FIRST.split(" "), _LAST.split(" ")


class Relation(NamedTuple):
    name: str
    values: tuple[str, ...]
    question: str
    plain: str  # how a raw text says it
    patterns: tuple[str, ...]  # how rewrites do


class Person(NamedTuple):
    name: str
    pronoun: str
    values: tuple[str, ...]  # by relation


RELATIONS = (
    Relation(
        "home",
        ("Oslo", "Lima", "Cairo", "Seoul", "Quito", "Milan", "Delhi", "Tunis", "Perth", "Hanoi"),
        "Where does {who} live?",
        "{who} lives in {what}.",
        (
            "{who} lives in {what}.",
            "{who} has a flat in {what}.",
            "The home of {who} is in {what}.",
            "{what} is where {who} lives.",
            "{who} moved to {what} and stayed.",
            "You can visit {who} in {what}.",
        ),
    ),
    Relation(
        "work",
        (
            "baker",
            "pilot",
            "nurse",
            "judge",
            "tailor",
            "miner",
            "dentist",
            "farmer",
            "clerk",
            "diver",
        ),
        "What is the job of {who}?",
        "{who} works as a {what}.",
        (
            "{who} works as a {what}.",
            "{who} earns a living as a {what}.",
            "The job of {who} is that of a {what}.",
            "{who} was trained as a {what}.",
            "People know {who} as a good {what}.",
            "Every day {who} goes to work as a {what}.",
        ),
    ),
    Relation(
        "pet",
        ("cat", "dog", "parrot", "rabbit", "turtle", "lizard", "hamster", "goat", "pony", "duck"),
        "Which animal does {who} keep?",
        "{who} keeps a {what}.",
        (
            "{who} keeps a {what}.",
            "{who} shares a house with a {what}.",
            "A {what} lives with {who}.",
            "The animal of {who} is a {what}.",
            "{who} takes care of a {what}.",
            "{who} would never give away the {what}.",
        ),
    ),
    Relation(
        "music",
        (
            "violin",
            "piano",
            "flute",
            "drum",
            "harp",
            "guitar",
            "cello",
            "organ",
            "trumpet",
            "banjo",
        ),
        "What does {who} play?",
        "{who} plays the {what}.",
        (
            "{who} plays the {what}.",
            "{who} practises the {what} at night.",
            "The instrument of {who} is the {what}.",
            "{who} learned to play the {what}.",
            "On the {what}, {who} is hard to beat.",
            "{who} has lessons on the {what}.",
        ),
    ),
    Relation(
        "food",
        ("rice", "soup", "bread", "fish", "cheese", "noodles", "plums", "beans", "honey", "figs"),
        "What does {who} like to eat?",
        "{who} likes to eat {what}.",
        (
            "{who} likes to eat {what}.",
            "The favourite food of {who} is {what}.",
            "{who} could eat {what} all day.",
            "There is always {what} on the table of {who}.",
            "{who} never says no to {what}.",
            "For dinner {who} has {what}.",
        ),
    ),
)
_SHARE_NAMED = 0.5  # of the sentences of a rewrite after the first


def raw(one: Person) -> str:
    """All facts in the order of RELATIONS, the name in the first alone."""
    said = [relation.plain for relation in RELATIONS]
    return _text(one, said, one.values, [True] + [False] * (len(said) - 1))


def rewrite(one: Person, rng: random.Random) -> str:
    """All facts in another order, each in a pattern of its own."""
    order = rng.sample(range(len(RELATIONS)), len(RELATIONS))
    said = [rng.choice(RELATIONS[index].patterns) for index in order]
    named = [True, *(rng.random() < _SHARE_NAMED for _ in order[1:])]
    return _text(one, said, [one.values[index] for index in order], named)


def _text(one: Person, patterns: list[str], values, named: list[bool]) -> str:
    return " ".join(
        _sentence(one, pattern, what, is_named)
        for pattern, what, is_named in zip(patterns, values, named, strict=True)
    )


def _sentence(one: Person, pattern: str, what: str, is_named: bool) -> str:
    # A pronoun would need another form where it does not begin the sentence.
    is_named = is_named or not pattern.startswith("{who}")
    who = one.name if is_named else one.pronoun
    said = pattern.format(who=who, what=what)
    return said[0].upper() + said[1:]
