"""Draws from several sources by ratio, as a pure function of their number.

Draw k of source i has its turn at (k + 1/2) / weight i, so after any number of draws each
source is off its share by less than one draw per other source. A source of weight 0 is never drawn.
"""

from collections.abc import Sequence


def draw(weights: Sequence[float], number: int) -> tuple[int, int]:
    """Draw `number` from 0: which source, and how many draws of it came before."""
    counts = counts_of(weights, number)
    source = _next(weights, counts)
    return source, counts[source]


def counts_of(weights: Sequence[float], num_draws: int) -> list[int]:
    """How often each source is among the first `num_draws`."""
    total = sum(weights)
    # Surely before the turn sought: a source is at most that far ahead of its share.
    certain = max(0, num_draws - len(weights))
    counts = [max(0, int(certain * (weight / total)) - 1) for weight in weights]
    for _ in range(num_draws - sum(counts)):
        counts[_next(weights, counts)] += 1
    return counts


def _next(weights: Sequence[float], counts: Sequence[int]) -> int:
    """The source whose turn is the earliest after `counts` draws of each."""
    total = sum(weights)
    turns = {
        source: (count + 0.5) / (weight / total)
        for source, (count, weight) in enumerate(zip(counts, weights, strict=True))
        if weight
    }
    return min(turns, key=turns.__getitem__)
