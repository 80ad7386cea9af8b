"""From text to batches: corpora, tokenizers, the token store, packing, and grain pipelines."""

from kanana_jax import extras

with extras.needed("train"):
    from kanana_jax.data.batches import (
        heldout_batches,
        heldout_sources,
        num_epochs,
        train_batch,
        train_batches,
    )
    from kanana_jax.data.corpus import Corpus, Text, open_corpus, read_text
    from kanana_jax.data.errors import DataError, StoreError
    from kanana_jax.data.stages import Stage
    from kanana_jax.data.tokenizer import Tokenizer

__all__ = [
    "Corpus",
    "DataError",
    "Stage",
    "StoreError",
    "Text",
    "Tokenizer",
    "heldout_batches",
    "heldout_sources",
    "num_epochs",
    "open_corpus",
    "read_text",
    "train_batch",
    "train_batches",
]
