"""A crawl of known making: pages that are worth reading and pages that are not, by kind.

    prose       docstrings and topics of the running Python: real text
    exercises   pages of English sums with their steps written out
    mirrors     copies of a few pages of prose, each with other words here and there, in a frame
    listings    goods and prices, menus of links, lines of keywords
    chatter     fluent English of templates, which says nothing

No page has prose of the measured part. The kinds are known, and so are the labels of educational
value: they stand in for labels by a person or a model.
"""

import hashlib
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kanana_jax.data import python_text, template_text
from kanana_jax.rollouts import tasks

LABELS = {"prose": 5.0, "exercises": 5.0, "mirrors": 5.0, "listings": 0.0, "chatter": 1.0}
LABELLED_SHARE = 0.1
SUMS = tasks.FAMILIES["chain_sum"]
_MEASURED_SHARE = 0.25  # of prose
_NUM_EXERCISES, _PER_PAGE = 2400, 4
_NUM_ORIGINALS, _NUM_COPIES, _CHANGED = 60, 10, 0.02
_NUM_LISTINGS, _NUM_CHATTER = 700, 1500
_MENU = "home news shop login about help terms cookies search more next back share follow"
_GOODS = "lamp chair shoe cable phone case mug bag watch shelf frame towel brush tent ring"
_TEACHING = (
    "Here is another one to work through. Add the numbers one after the other, and write down "
    "what you have before you take up the next one.",
    "Do not try to see the result at once. Take the first two numbers, say what they come to, and "
    "go on from there until none is left.",
    "Every step below takes up what the step before it has found. Follow the line from the left to "
    "the right and check each of them.",
    "The teacher went through this one on the board. What counts is that nothing is left out on "
    "the way, so each sum stands there in full.",
    "Who can do this one alone? Write the steps in a row, as before, and put the result on a line "
    "of its own below them.",
    "Mistakes come from haste. Read the numbers, carry the sum along, and only then write what all "
    "of them come to.",
)


class Page(NamedTuple):
    kind: str
    text: str

    @property
    def is_labelled(self) -> bool:
        return _share(f"label {self.text}") < LABELLED_SHARE


def pages() -> list[Page]:
    """All pages, shuffled; the same at every call under one Python."""
    found = [
        Page(kind, text)
        for kind, texts in (
            ("prose", _prose()),
            ("exercises", _exercises()),
            ("mirrors", _mirrors()),
            ("listings", _listings()),
            ("chatter", template_text.documents("en", seed=1, count=_NUM_CHATTER)),
        )
        for text in texts
    ]
    random.Random(0).shuffle(found)
    return found


def digest(found: Sequence[Page]) -> str:
    """Equal if and only if the pages and their kinds are."""
    told = json.dumps([list(one) for one in found]).encode()
    return hashlib.blake2b(told, digest_size=8).hexdigest()


def measured_prose() -> Iterator[str]:
    """Pages of prose that the crawl does not have."""
    return (text for text in _all_prose() if _is_measured(text))


def _all_prose() -> Iterator[str]:
    return (text.decode() for text in python_text.read_prose())


def _prose() -> list[str]:
    return [text for text in _all_prose() if not _is_measured(text)]


def _is_measured(text: str) -> bool:
    return _share(f"measured {text}") < _MEASURED_SHARE


def _share(text: str) -> float:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) / 2**32


def _exercises() -> Iterator[str]:
    drawn = tasks.problems(SUMS, "en", seed=0, count=_NUM_EXERCISES, heldout=False)
    texts = tasks.documents(drawn, traces=1.0, seed=0)
    for number, part in enumerate(itertools.batched(texts, _PER_PAGE)):
        rng = random.Random(f"exercises {number}")
        # Without words around them, rules on letters and digits drop every page of sums.
        said = [" ".join(rng.sample(_TEACHING, 2)) for _ in part]
        yield "\n\n".join(f"{words}\n{one}" for words, one in zip(said, part, strict=True))


def _mirrors() -> Iterator[str]:
    originals = [text for text in _prose() if 400 < len(text) < 2000][:_NUM_ORIGINALS]
    for number, text in itertools.product(range(_NUM_COPIES), originals):
        rng = random.Random(f"mirror {number} {text}")
        words = [
            rng.choice(_MENU.split()) if rng.random() < _CHANGED else one for one in text.split(" ")
        ]
        yield f"{' '.join(words)}\n\nmirror {rng.randrange(10**6)}"


def _listings() -> Iterator[str]:
    for number in range(_NUM_LISTINGS):
        rng = random.Random(f"listing {number}")
        make = (_prices, _menu, _keywords)[number % 3]
        yield "\n".join(make(rng) for _ in range(rng.randint(12, 30)))


def _prices(rng: random.Random) -> str:
    goods, price = rng.choice(_GOODS.split()), rng.randrange(100)
    return f"* {goods} #{rng.randrange(10**6)} ${price}.99 [{rng.random():.3f}]"


def _menu(rng: random.Random) -> str:
    return " | ".join(rng.sample(_MENU.split(), 3))


def _keywords(rng: random.Random) -> str:
    return ", ".join(rng.choices(_GOODS.split(), k=3)) + " ..."
