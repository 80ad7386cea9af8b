"""Batches as a pure function of (seed, step), by index alone.

    document order per epoch -> windows -> shuffle -> repeat -> mix of sources -> batch

Every stage maps an index to an index, so step n costs the same whether or not the steps before
it were read, and resuming needs no state but n. The seed decides the order of documents, the
order of windows and nothing else; the held-out batches are the same for every seed.

`rows` are those of a batch that a process needs: it reads their windows only, and all processes
together have the batch that one alone would, however many they are.
"""

import sys
from collections.abc import Iterator, Sequence

import grain
import numpy as np
from jaxtyping import Int64

from kanana_jax.batch import Batch
from kanana_jax.config import DataConfig
from kanana_jax.data import packing
from kanana_jax.data.corpus import Corpus

_READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)  # in batches


def train_batch(
    corpus: Corpus, cfg: DataConfig, step: int, *, rows: Sequence[int] | None = None
) -> Batch:
    """The batch of one step, or its rows `rows`."""
    batch = _train_dataset(corpus, cfg, rows)[step]
    assert batch is not None
    return batch


def train_batches(
    corpus: Corpus, cfg: DataConfig, *, start_step: int = 0, rows: Sequence[int] | None = None
) -> Iterator[Batch]:
    """Batches of start_step, start_step + 1, ... without end, prefetched by two threads."""
    return iter(_train_dataset(corpus, cfg, rows)[start_step:].to_iter_dataset(_READ))


def heldout_batches(
    corpus: Corpus, cfg: DataConfig, num_batches: int, *, rows: Sequence[int] | None = None
) -> list[Batch]:
    """At most `num_batches` batches of held-out windows, spread over all documents.

    Every source has as many windows as the others, as far as it goes. Less text than that gives
    fewer batches, the last one filled up with padding windows.
    """
    sources = _heldout_packings(corpus, cfg)
    chosen = _chosen_windows(sources, num_batches * cfg.batch_size)

    def window(number: int) -> Batch:
        if number >= len(chosen):
            return Batch(*(np.zeros_like(column) for column in window(0)))
        source, place = chosen[number]
        return sources[source].window_of(0, place)

    used = range(cfg.batch_size) if rows is None else rows
    begins = range(0, len(chosen), cfg.batch_size)
    return [_stack([window(begin + row) for row in used]) for begin in begins]


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


def _train_dataset(
    corpus: Corpus, cfg: DataConfig, rows: Sequence[int] | None
) -> grain.MapDataset[Batch]:
    sources = [
        packing.Packing(
            array=array,
            order=packing.shuffled(array, "documents", cfg.seed, index),
            token_bytes_V=corpus.tokenizer.token_bytes_V,
            seq_len=cfg.seq_len,
        )
        for index, array in enumerate(corpus.train)
    ]
    datasets = [_windows(source, cfg.seed, index) for index, source in enumerate(sources)]
    # Without weights each source lasts one epoch as long as the others.
    weights = list(cfg.weights) or [float(source.num_windows) for source in sources]
    mixed = datasets[0] if len(datasets) == 1 else grain.MapDataset.mix(datasets, weights)
    size = cfg.batch_size
    used = range(size) if rows is None else rows

    def window(number: int) -> Batch:
        found = mixed[number]
        assert found is not None  # grain's type allows for filters; there are none
        return found

    steps = grain.MapDataset.range(sys.maxsize // size)
    return steps.map(lambda step: _stack([window(int(step) * size + row) for row in used]))


def _stack(windows: Sequence[Batch]) -> Batch:
    return Batch(*map(np.stack, zip(*windows, strict=True)))


def _windows(source: packing.Packing, seed: int, index: int) -> grain.MapDataset[Batch]:
    # map_with_index hands on the index as counted over epochs; range alone would wrap it.
    windows = grain.MapDataset.range(source.num_windows).map_with_index(
        lambda place, _: source.window(place)
    )
    return windows.shuffle(packing.seed_of("windows", seed, index, bits=32)).repeat()
