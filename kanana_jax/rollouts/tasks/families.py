"""The families by name."""

from kanana_jax.rollouts.tasks import (
    chain_sum,
    digit_sum,
    equation,
    largest,
    letters,
    sorting,
    word_sum,
)

FAMILIES = {
    module.FAMILY.name: module.FAMILY
    for module in (chain_sum, word_sum, largest, letters, sorting, equation, digit_sum)
}
