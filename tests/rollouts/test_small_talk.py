"""Flaws of greetings: each breaks the part that it names; another language breaks three."""

import random

import pytest

from kanana_jax.rollouts.environments import drawing, families, small_talk
from kanana_jax.rollouts.task import assistant

FAMILY = families.of("small_talk")
TASKS = drawing.tasks_of([FAMILY], ["en", "ko"], seed=0, count=24, heldout=False)
BROKEN = {
    "ending": {"ending"},
    "short": {"short"},
    "language": {"language", "greeting", "ending"},
    "name": {"name"},
    "other name": {"name"},
}


@pytest.mark.parametrize("flaw", small_talk.FLAWS)
def test_a_flaw_breaks_its_part_and_keeps_the_name_where_it_is_one_of_style(flaw):
    broken = set()
    for one in TASKS:
        said = small_talk.flawed(one, random.Random(1), (flaw,))
        score = FAMILY.verify(one, [assistant(said)], None)
        assert score.reward < 1.0
        broken |= {part for part, holds in score.parts.items() if not holds}
    assert broken == BROKEN[flaw]
    assert ("name" in broken) == (flaw not in small_talk.STYLE_FLAWS)
