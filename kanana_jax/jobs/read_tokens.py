"""The evaluator of how much of each source a run has read, which laws of data need.

    epochs_S           how often source S was read up to this step, by its label
    unique_tokens_S    tokens of S that there are to be read

For runs of one stage. Tokens read are the product.
"""

from collections.abc import Mapping
from typing import Any

from kanana_jax import config, data
from kanana_jax.jobs import heldout
from kanana_jax.jobs.job import Built
from kanana_jax.train import fit


def evaluator(
    corpus: data.Corpus, cfg: config.DataConfig, train: config.TrainConfig, built: Built
) -> fit.Evaluator:
    """For `job.measuring`."""
    labels = heldout.labels(corpus.names)
    unique = {
        f"unique_tokens_{label}": float(array.num_tokens)
        for label, array in zip(labels, corpus.train, strict=True)
    }

    def of_batch(number: int) -> Mapping[str, Any]:
        epochs = data.num_epochs(corpus, cfg, [data.Stage(number, cfg)])
        return {f"epochs_{label}": one for label, one in zip(labels, epochs, strict=True)} | unique

    return fit.Evaluator("read_tokens", train.eval_interval_steps, of_batch=of_batch)
