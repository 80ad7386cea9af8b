"""A very small job and a corpus made here, so that tests of training take seconds.

Test folders import the fixtures into their conftest.py.
"""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from kanana_jax import config, data, parallel
from kanana_jax.jobs import outcome, pretrain, training
from kanana_jax.model import presets
from kanana_jax.report import metrics, progress
from kanana_jax.rollouts.environments import drawing, families
from kanana_jax.train import fit, state, step_functions
from kanana_jax.train.step_config import StepConfig
from kanana_jax.weights import native
from kanana_jax.workdir import Run, StopRequest, Work, opened

_WORDS = ("muon", "clip", "polar", "express", "latent", "expert", "router", "logit", "\n")


def write_text(path: Path) -> Path:
    """About 60 kB of words drawn from a small vocabulary: quick to learn something from."""
    path.write_text(" ".join(np.random.default_rng(0).choice(_WORDS, size=10_000)))
    return path


def pretraining(text: Path, **blocks: Any) -> pretrain.Config:
    """A model of one layer with experts, on one device."""
    model = dataclasses.replace(
        presets.tiny(),
        hidden_size=32,
        num_layers=1,
        num_dense_layers=0,
        kv_lora_rank=16,
        num_experts=4,
    )
    # Two Newton-Schulz steps compile faster. tau is low so that QK-Clip acts.
    optimizer = config.OptimizerConfig(
        polar="newton_schulz", polar_steps=2, polar_dtype="float32", lr=0.01, tau=0.5
    )
    train = config.TrainConfig(
        num_steps=12,
        eval_interval_steps=4,
        eval_batches=1,
        diagnostics_interval_steps=6,
        checkpoint_interval_steps=4,
    )
    blocks = {
        "name": "test",
        "question": "?",
        "model": model,
        "execution": config.ExecutionConfig(compute_dtype="float32"),
        "data": config.DataConfig(paths=(str(text),), seq_len=32, batch_size=8),
        "optimizer": optimizer,
        "train": train,
        "mesh": config.MeshConfig(data=1, fsdp=1),
    } | blocks
    return pretrain.Config(**blocks)


def write_solved(path: Path, family: str) -> Path:
    """Conversations in which 40 tasks of a family are solved."""
    drawn = drawing.tasks_of([families.of(family)], ["en"], seed=0, count=40, heldout=False)
    lines = ({"messages": [*one.messages, *one.oracle]} for one in drawn)
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


def write_model(path: Path, shape: config.ModelConfig, tokenizer: str = "", seed: int = 0) -> Path:
    """A model folder of random numbers, with the content of a tokenizer.json."""
    rng = np.random.default_rng(seed)

    def of_leaf(x):
        return native.streamed(rng.normal(0, 0.3, x.shape).astype(x.dtype))

    weights = jax.tree.map(of_leaf, native.stored(native.abstract(shape, jax.numpy.float32)))
    with native.new_directory(path) as folder:
        native.write(folder, native.Description(shape, {}), weights)
        if tokenizer:
            (folder / "tokenizer.json").write_text(tokenizer)
    return path


@pytest.fixture(scope="session")
def text_file(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "words.txt")


@pytest.fixture
def cfg(text_file) -> pretrain.Config:
    return pretraining(text_file)


@pytest.fixture
def corpus(cfg, tmp_path) -> data.Corpus:
    return data.open_corpus(cfg.data, tmp_path / "cache")


@pytest.fixture
def restored_cache():
    """Afterwards compiled functions are kept where they were before, as a rule nowhere."""
    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    )
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # JAX decides once whether it has one


def step_config(
    cfg: config.TrainingConfig, vocab_size: int = 258, job: training.Job = pretrain.JOB
) -> StepConfig:
    """What the step of a job depends on; the vocabulary is that of bytes."""
    cfg = cfg.with_vocab(vocab_size)
    return StepConfig.of(cfg, job.objective(cfg))


def build(cfg: config.TrainingConfig) -> training.Built:
    """The compiled functions on one device."""
    mesh = parallel.make_mesh(cfg.mesh, jax.devices()[:1])
    step = step_config(cfg)
    return training.Built(mesh, step_functions.build(step, mesh), step.objective)


def train(
    cfg: config.TrainingConfig,
    corpus: data.Corpus,
    directory: Path,
    built: training.Built,
    *,
    source: fit.Source | None = None,
    update: Any = None,
    bar: progress.Progress | None = None,
) -> dict[str, metrics.Series]:
    """One run from the corpus to its result, and what it recorded.

    `update` stands in for the compiled train step, and `bar` is told of every record.
    """
    cfg = cfg.with_vocab(corpus.vocab_size)
    train_fn = built.steps.train if update is None else update
    one = Run({"arm": "arm"}, cfg, directory)
    bar = bar or progress.Progress("", num_steps=cfg.train.num_steps, file=io.StringIO())

    def start() -> state.TrainState:
        return built.steps.init(cfg.train.seed)

    with opened(one, StopRequest(), bar, [Work(tokens=256)]) as folder:
        ended = fit.fit(
            folder,
            fit.Run(
                stages=[
                    fit.Stage(
                        last_batch=cfg.train.num_steps,
                        batch_size=cfg.data.batch_size,
                        steps=built.steps._replace(train=train_fn),
                        evaluators=pretrain.JOB.evaluators(corpus, cfg.data, cfg.train, built),
                    )
                ],
                mesh=built.mesh,
                source=source
                or pretrain.JOB.source(
                    corpus, cfg.data, training.data_stages(cfg, built.rows), built
                ),
                start=start,
                train=cfg.train,
                guard=cfg.guard,
                lr=cfg.optimizer.lr,
                frozen={},
            ),
        )
    outcome.write(folder, ended, one, corpus.fingerprint)
    return metrics.read_metrics(directory / metrics.METRICS_NAME)


def untimed(record: dict[str, Any]) -> dict[str, Any]:
    """What a run that is repeated records again to the bit."""
    return {name: value for name, value in record.items() if not metrics.is_timing(name)}


class Killed(BaseException):
    """As if the process had been killed: nothing catches it."""


class KillingBar(progress.Progress):
    """Ends the run when a step is reported."""

    def __init__(self, at_step: int):
        super().__init__("", num_steps=at_step, file=io.StringIO())
        self._at_step = at_step

    def update(self, step: int, **shown: float) -> None:
        if step == self._at_step:
            raise Killed
