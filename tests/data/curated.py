"""Documents for tests of curation."""

import numpy as np

from kanana_jax.data import template_text
from kanana_jax.data.curate.document import Document, of_text


def prose(language: str, count: int, seed: int = 0) -> list[str]:
    return [template_text.document(language, seed, index) for index in range(count)]


def documents(texts: list[str], language: str = "") -> list[Document]:
    return [of_text(text, "test")._replace(language=language) for text in texts]


def halves(items: list) -> list[list]:
    return [items[: len(items) // 2], items[len(items) // 2 :]]


def decide_and_apply(stage, shards: list[list[Document]]) -> list[list]:
    """The verdicts of a stage on each shard, as a run makes them."""
    surveys = [stage.survey(one) for one in shards]
    rulings = stage.decide(surveys).rulings
    return [stage.apply(*one) for one in zip(shards, surveys, rulings, strict=True)]


def changed(text: str, share: float, rng: np.random.Generator) -> str:
    """The text with a share of its words replaced."""
    words = text.split()
    for place in rng.choice(len(words), round(share * len(words)), replace=False):
        words[place] = f"new{rng.integers(1_000_000)}"
    return " ".join(words)
