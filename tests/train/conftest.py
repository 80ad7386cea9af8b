"""A very small experiment and a corpus made here, so that tests of training take seconds."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from kanana_jax import config, data
from kanana_jax.model import presets
from kanana_jax.report import progress


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    """About 60 kB of words drawn from a small vocabulary: quick to learn something from."""
    rng = np.random.default_rng(0)
    words = ["muon", "clip", "polar", "express", "latent", "expert", "router", "logit", "\n"]
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(" ".join(rng.choice(words, size=10_000)))
    return path


@pytest.fixture
def exp(text_file) -> config.Experiment:
    model = dataclasses.replace(
        presets.tiny(0),
        hidden_size=32,
        num_layers=1,
        num_dense_layers=0,
        kv_lora_rank=16,
        num_experts=4,
    )
    return config.Experiment(
        name="test",
        question="?",
        model=model,
        data=config.DataConfig(paths=(str(text_file),), seq_len=32, batch_size=8),
        # Two Newton-Schulz steps: these tests are about the wiring, and compile faster so.
        optimizer=config.OptimizerConfig(
            polar="newton_schulz",
            polar_steps=2,
            lr=0.01,
            tau=0.5,
            polar_dtype="float32",
        ),
        train=config.TrainConfig(
            num_steps=12,
            eval_interval_steps=4,
            eval_batches=1,
            diagnostics_interval_steps=6,
            checkpoint_interval_steps=4,
        ),
        mesh=config.MeshConfig(data=1, fsdp=1),
    )


@pytest.fixture
def corpus(exp, tmp_path):
    return data.open_corpus(exp.data, tmp_path / "cache")


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


@pytest.fixture
def killed_at_step(monkeypatch):
    """`with killed_at_step(7):` the run inside ends when step 7 is reported, as if killed there."""

    class Killed(BaseException):
        pass

    @contextlib.contextmanager
    def killed(last_step):
        class Bar(progress.Progress):
            def update(self, step, **shown):
                super().update(step, **shown)
                if step == last_step:
                    raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(progress, "Progress", Bar)
            yield

    return killed
