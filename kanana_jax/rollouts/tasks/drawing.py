"""Sets of problems from one side of the split, and the documents made of them.

The numbers of a problem decide whether it is on the training side or on the held-out side, so the
sides share none, whatever the seeds.
"""

import collections
import itertools
import random
from collections.abc import Iterable, Iterator, Sequence

from kanana_jax.config import ConfigError
from kanana_jax.rollouts.tasks import problem
from kanana_jax.rollouts.tasks.problem import Family, Language, Problem

# After so many draws in a row without a new problem, the family has hardly any left.
_MAX_MISSES = 10_000


def problems(
    family: Family,
    language: Language,
    *,
    seed: int,
    count: int,
    heldout: bool,
    sizes: Sequence[int] = (),
) -> list[Problem]:
    """`count` problems of one side, no prompt twice. ConfigError where there are not so many."""
    found: dict[str, Problem] = {}
    misses = 0
    for index in itertools.count():
        if len(found) == count:
            break
        one = problem.make(family, language, seed, index, sizes)
        is_new = problem.is_heldout(one) == heldout and one.prompt not in found
        misses = 0 if is_new else misses + 1
        if is_new:
            found[one.prompt] = one
        elif misses == _MAX_MISSES:
            raise ConfigError(
                f"expected {count} {'held-out' if heldout else 'training'} problems of "
                f"{family.name} with sizes {list(sizes or family.sizes)}, got {len(found)} that "
                "differ; ask for fewer or for larger sizes"
            )
    return list(found.values())


def mixed(
    families: Sequence[Family],
    languages: Sequence[Language],
    *,
    seed: int,
    count: int,
    heldout: bool,
    sizes: Sequence[int] = (),
) -> list[Problem]:
    """`count` problems in all, of every family in every language in turn."""
    kinds = list(itertools.product(families, languages))
    sets = [
        problems(family, language, seed=seed, count=-(-count // len(kinds)), heldout=heldout,
                 sizes=sizes)
        for family, language in kinds
    ]  # fmt: skip
    return list(itertools.chain.from_iterable(zip(*sets, strict=True)))[:count]


def documents(drawn: Iterable[Problem], traces: float, seed: int) -> Iterator[str]:
    """A document of each problem; a share `traces` of them, picked by the seed, has its trace."""
    for one in drawn:
        picked = random.Random(f"trace {seed} {one.prompt}").random() < traces
        yield problem.document(one, with_trace=picked)


def constant_accuracy(drawn: Iterable[Problem]) -> float:
    """The accuracy of the one answer that is right most often, which takes no reasoning."""
    counts = collections.Counter(one.answer for one in drawn)
    return max(counts.values()) / counts.total()
