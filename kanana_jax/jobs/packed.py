"""The source of jobs whose rows hold whole examples."""

from collections.abc import Sequence

from kanana_jax import config, data, model
from kanana_jax.batch import Batch
from kanana_jax.data.whole_documents import WholeDocuments


class PackedSource:
    """Batches as a pure function of the seed and their number."""

    def __init__(
        self, corpus: WholeDocuments, cfg: config.DataConfig, stages: Sequence[data.Stage]
    ):
        (only,) = stages
        self._corpus, self._cfg, self._rows = corpus, cfg, only.rows
        self.fingerprint = corpus.fingerprint

    def batch(self, number: int, weights: model.Weights) -> Batch:
        return self._corpus.train_batch(self._cfg, number, self._rows)
