"""Batches as a pure function of (seed, step), by index alone.

    document order per epoch -> windows -> shuffle -> repeat -> mix of sources -> batch

`stages` says which windows a batch has where mixture, batch or sequence length changes in a run.

Every stage maps an index to an index, so step n costs the same whether or not the steps before
it were read, and resuming needs no state but n. The seed decides the order of documents, the
order of windows and nothing else; the held-out batches are the same for every seed.

`rows` are the rows of a batch that a process needs. It reads only their windows, and all processes
together, however many, have the batch that one alone would have.
"""

import sys
from collections.abc import Callable, Iterator, Sequence

import grain
import numpy as np
from jaxtyping import Int64

from kanana_jax.batch import Batch
from kanana_jax.config import DataConfig
from kanana_jax.data import packing
from kanana_jax.data.corpus import Corpus
from kanana_jax.data.stages import Schedule, Stage
from kanana_jax.data.store import TokenArray
from kanana_jax.data.tokenizer import Tokenizer

_READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)  # in batches


def train_batch(
    corpus: Corpus,
    cfg: DataConfig,
    step: int,
    *,
    rows: Sequence[int] | None = None,
    stages: Sequence[Stage] = (),
) -> Batch:
    """The batch of one step, or its rows `rows`.

    `stages`, if given, say the batch size, sequence length, mixture and rows of each batch;
    cfg.seq_len is the longest.
    """
    batch = _train_dataset(corpus, cfg, _in_stages(cfg, rows, stages))[step]
    assert batch is not None
    return batch


def train_batches(
    corpus: Corpus,
    cfg: DataConfig,
    *,
    start_step: int = 0,
    rows: Sequence[int] | None = None,
    stages: Sequence[Stage] = (),
) -> Iterator[Batch]:
    """Batches of start_step, start_step + 1, ... without end, prefetched by two threads."""
    batches = _train_dataset(corpus, cfg, _in_stages(cfg, rows, stages))
    return iter(batches[start_step:].to_iter_dataset(_READ))


def num_epochs(corpus: Corpus, cfg: DataConfig, stages: Sequence[Stage]) -> list[float]:
    """How many times all stages together read each source."""
    return Schedule(stages, _epoch_tokens(corpus, cfg)).epochs()


def heldout_batches(
    corpus: Corpus, cfg: DataConfig, num_batches: int, *, rows: Sequence[int] | None = None
) -> list[Batch]:
    """At most `num_batches` batches of held-out windows, spread over all documents.

    Every source gives as many windows as the others, until it runs out. With too little text
    there are fewer batches, and padding windows fill up the last.
    """
    sources = _heldout_packings(corpus, cfg)
    chosen = _chosen_windows(sources, num_batches * cfg.batch_size)

    def window(number: int) -> Batch:
        if number >= len(chosen):
            return window(0).map(np.zeros_like)
        source, place = chosen[number]
        return sources[source].window_of(0, place)

    used = range(cfg.batch_size) if rows is None else rows
    begins = range(0, len(chosen), cfg.batch_size)
    return [Batch.stacked([window(begin + row) for row in used]) for begin in begins]


def heldout_sources(corpus: Corpus, cfg: DataConfig, num_batches: int) -> Int64[np.ndarray, "S"]:
    """The source of every sequence of `heldout_batches`, without those of padding at the end."""
    chosen = _chosen_windows(_heldout_packings(corpus, cfg), num_batches * cfg.batch_size)
    return np.array([source for source, _ in chosen], np.int64)


def _heldout_packings(corpus: Corpus, cfg: DataConfig) -> list[packing.Packing]:
    return [
        packing.Packing(
            array=array,
            order=packing.stored(array),
            token_bytes_V=corpus.tokenizer.token_bytes_V,
            seq_len=cfg.seq_len,
        )
        for array in corpus.heldout
    ]


def _chosen_windows(sources: Sequence[packing.Packing], count: int) -> list[tuple[int, int]]:
    """(source, window) of the first `count`, from each source in turn while it has some."""
    # The padded window at the end counts too: evaluation leaves no token out.
    orders = [packing.random_permutation(one.num_padded_windows, "heldout") for one in sources]
    turns = sorted(
        (turn, source) for source, order in enumerate(orders) for turn in range(len(order))
    )
    return [(source, int(orders[source][turn])) for turn, source in turns[:count]]


def _in_stages(
    cfg: DataConfig, rows: Sequence[int] | None, stages: Sequence[Stage]
) -> Sequence[Stage]:
    return stages or (Stage(sys.maxsize, cfg, rows),)


def _epoch_tokens(corpus: Corpus, cfg: DataConfig) -> list[int]:
    """Tokens of each source in whole blocks of the longest sequence."""
    return [(array.num_tokens - 1) // cfg.seq_len * cfg.seq_len for array in corpus.train]


def _train_dataset(
    corpus: Corpus, cfg: DataConfig, stages: Sequence[Stage]
) -> grain.MapDataset[Batch]:
    schedule = Schedule(stages, _epoch_tokens(corpus, cfg))
    streams = [
        _stream(array, corpus.tokenizer, cfg, index) for index, array in enumerate(corpus.train)
    ]

    def batch(step: int) -> Batch:
        stage = schedule.of_batch(step)
        rows = range(stage.cfg.batch_size) if stage.rows is None else stage.rows
        places = [schedule.place(step, row) for row in rows]
        return Batch.stacked([streams[p.source](p.begin, stage.cfg.seq_len) for p in places])

    largest = max(stage.cfg.batch_size for stage in stages)
    return grain.MapDataset.range(sys.maxsize // largest).map(lambda step: batch(int(step)))


def _stream(
    array: TokenArray, tokenizer: Tokenizer, cfg: DataConfig, index: int
) -> Callable[[int, int], Batch]:
    """The windows of a source, by the token of its stream at which one begins, and its length."""
    order = packing.shuffled(array, "documents", cfg.seed, index)
    num_blocks = max(0, (array.num_tokens - 1) // cfg.seq_len)
    # map_with_index hands on the index as counted over epochs; range alone would wrap it.
    blocks = grain.MapDataset.range(num_blocks).map_with_index(lambda block, _: block)
    shuffled = blocks.shuffle(packing.seed_of("windows", cfg.seed, index, bits=32)).repeat()

    def window(begin: int, seq_len: int) -> Batch:
        number, offset = divmod(begin, cfg.seq_len)
        block = shuffled[number]
        assert block is not None  # grain's type allows for filters; there are none
        epoch, place = divmod(int(block), num_blocks)
        cut = packing.Packing(
            array=array, order=order, token_bytes_V=tokenizer.token_bytes_V, seq_len=seq_len
        )
        return cut.window_of(epoch, (place * cfg.seq_len + offset) // seq_len)

    return window
