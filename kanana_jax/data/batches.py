"""Batches as a pure function of (seed, step), by index alone.

    document order per epoch -> windows -> shuffle -> repeat -> mix of sources -> batch

Every stage maps an index to an index, so step n costs the same whether or not the steps before
it were read, and resuming needs no state but n. The seed decides the order of documents, the
order of windows and nothing else; the held-out batches are the same for every seed.
"""

from collections.abc import Iterator

import grain
import numpy as np

from kanana_jax.config import DataConfig
from kanana_jax.data import packing
from kanana_jax.data.corpus import Corpus
from kanana_jax.data.packing import Batch

_READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)  # in batches


def train_batch(corpus: Corpus, cfg: DataConfig, step: int) -> Batch:
    """The batch of one step."""
    batch = _train_dataset(corpus, cfg)[step]
    assert batch is not None  # grain's type allows for filters; there are none
    return batch


def train_batches(corpus: Corpus, cfg: DataConfig, *, start_step: int = 0) -> Iterator[Batch]:
    """Batches of start_step, start_step + 1, ... without end, prefetched by two threads."""
    return iter(_train_dataset(corpus, cfg)[start_step:].to_iter_dataset(_READ))


def heldout_batches(corpus: Corpus, cfg: DataConfig, num_batches: int) -> list[Batch]:
    """At most `num_batches` batches of held-out windows, spread over all sources and documents.

    Less text than that gives fewer batches, the last one filled up with padding windows.
    """
    sources = [
        packing.Packing(
            array=array,
            order=packing.stored(array),
            token_bytes_V=corpus.tokenizer.token_bytes_V,
            seq_len=cfg.seq_len,
        )
        for array in corpus.heldout
    ]
    # The padded window at the end counts too: evaluation leaves no token out.
    places = [(s, w) for s, source in enumerate(sources) for w in range(source.num_padded_windows)]
    chosen = packing.random_permutation(len(places), "heldout")[: num_batches * cfg.batch_size]
    windows = [sources[s].window_of(0, w) for s, w in (places[i] for i in chosen)]
    empty = Batch(*(np.zeros_like(column) for column in windows[0]))
    windows += [empty] * (-len(windows) % cfg.batch_size)
    rows = range(0, len(windows), cfg.batch_size)
    return [Batch(*map(np.stack, zip(*windows[i : i + cfg.batch_size], strict=True))) for i in rows]


def _train_dataset(corpus: Corpus, cfg: DataConfig) -> grain.MapDataset[Batch]:
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
    return mixed.batch(cfg.batch_size)


def _windows(source: packing.Packing, seed: int, index: int) -> grain.MapDataset[Batch]:
    # map_with_index hands on the index as counted over epochs; range alone would wrap it.
    windows = grain.MapDataset.range(source.num_windows).map_with_index(
        lambda place, _: source.window(place)
    )
    return windows.shuffle(packing.seed_of("windows", seed, index, bits=32)).repeat()
