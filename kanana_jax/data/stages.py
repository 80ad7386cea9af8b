"""Where the windows of a staged run lie: a pure function of the batch, the row and the stages.

Each source is a stream of tokens, epoch after epoch. Each stage reads on from where the stage
before it stopped; one with longer sequences begins at the next multiple of its length.

    begin of a stage in a source = sum over earlier stages of (draws of the source) x seq_len

The stream is cut into blocks of the longest sequence, which are shuffled; shorter sequences are the
parts of a block in their order. So no token is read twice in an epoch, wherever a switch falls.
"""

import bisect
import itertools
from collections.abc import Sequence
from typing import NamedTuple

from kanana_jax.config import DataConfig
from kanana_jax.data import mixture


class Stage(NamedTuple):
    """Batches of one size and mixture. Each `seq_len` divides the longest."""

    num_batches: int
    cfg: DataConfig  # its batch_size, seq_len and weights
    rows: Sequence[int] | None = None  # the rows that this process loads; None: all


class Place(NamedTuple):
    """A window: a source and where in its stream it begins, in tokens."""

    source: int
    begin: int


class Schedule:
    """The stages of a run over sources of `epoch_tokens` tokens per epoch. The last never ends."""

    def __init__(self, stages: Sequence[Stage], epoch_tokens: Sequence[int]):
        self.stages, self._epoch_tokens = tuple(stages), tuple(epoch_tokens)
        self._ends = list(itertools.accumulate(one.num_batches for one in stages))
        self._begins = [[0] * len(epoch_tokens)]
        for stage in self.stages[:-1]:
            self._begins.append(self._read(stage, self._begins[-1]))

    def of_batch(self, number: int) -> Stage:
        """The stage of batch `number` from 0."""
        return self.stages[self._index(number)]

    def place(self, number: int, row: int) -> Place:
        """The window of a row of a batch."""
        index = self._index(number)
        stage, begins = self.stages[index], self._begins[index]
        first = self._ends[index - 1] if index else 0
        drawn = (number - first) * stage.cfg.batch_size + row
        source, before = mixture.draw(self._weights(stage), drawn)
        begin = _round_up(begins[source], stage.cfg.seq_len)
        return Place(source, begin + before * stage.cfg.seq_len)

    def epochs(self) -> list[float]:
        """How many times each source is read over all stages."""
        ends = self._read(self.stages[-1], self._begins[-1])
        return [end / tokens for end, tokens in zip(ends, self._epoch_tokens, strict=True)]

    def _index(self, number: int) -> int:
        return min(bisect.bisect_right(self._ends, number), len(self.stages) - 1)

    def _read(self, stage: Stage, begins: Sequence[int]) -> list[int]:
        """How far each source is read after a stage."""
        counts = mixture.counts_of(self._weights(stage), stage.num_batches * stage.cfg.batch_size)
        length = stage.cfg.seq_len
        return [
            _round_up(begin, length) + count * length if count else begin
            for begin, count in zip(begins, counts, strict=True)
        ]

    def _weights(self, stage: Stage) -> Sequence[float]:
        # Without weights, an epoch lasts equally long in every source.
        return stage.cfg.weights or self._epoch_tokens


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step
