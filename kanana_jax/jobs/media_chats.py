"""Fine-tuning on conversations with images or sounds: loss on the assistant's tokens only."""

import pathlib
from collections.abc import Callable, Sequence

from kanana_jax import config, data
from kanana_jax.data.media_chats import MediaChats
from kanana_jax.data.whole_documents import WholeDocuments
from kanana_jax.jobs import buckets, training
from kanana_jax.jobs.chats import keep_template
from kanana_jax.jobs.packed import PackedSource
from kanana_jax.train import fit

Documents = Callable[[MediaChats, config.ModelConfig, config.DataConfig], WholeDocuments]


def job(
    read: Callable[[config.DataConfig, pathlib.Path, Callable[[str], None]], MediaChats],
    documents: Documents,
) -> training.Job:
    """A job that reads conversations by `read`; `documents` makes them into batches for a model."""

    def source(
        corpus: MediaChats,
        cfg: config.DataConfig,
        stages: Sequence[data.Stage],
        built: training.Built,
    ) -> fit.Source:
        return PackedSource(documents(corpus, built.steps.cfg.model, cfg), cfg, stages)

    def evaluators(
        corpus: MediaChats,
        cfg: config.DataConfig,
        train: config.TrainConfig,
        built: training.Built,
    ) -> tuple[fit.Evaluator, ...]:
        found = documents(corpus, built.steps.cfg.model, cfg)
        return buckets.evaluators(found, cfg, train, built)

    return training.Job(
        objective=training.next_token,
        read=read,
        source=source,
        evaluators=evaluators,
        begin=keep_template,
    )
