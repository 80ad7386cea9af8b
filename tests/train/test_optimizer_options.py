"""Every option of optimizer, schedule, guard and execution reaches the program that is built."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
import tiny_jobs

from kanana_jax import config, model
from kanana_jax.batch import Batch
from kanana_jax.train import step

pytestmark = pytest.mark.slow

# The loop reads these; tests/faults checks that it does.
OF_THE_LOOP = {"guard.max_rewinds", "guard.max_logit_alarm"}
# The optimizer's own scale: `make` is given the rate, which rates of a comparison share.
OF_THE_CALL = {"optimizer.lr"}
# Of models with an image encoder: tests/train/test_freezing.py.
OF_PARTS = {"optimizer.frozen"}
COSINE, WSD = "optimizer.schedule.name=cosine", "optimizer.schedule.decay_steps=5"
HALF = ("optimizer.transfer=half", "optimizer.transfer_base_width=16")
# (field, another value, settings under which it must count)
CHANGES = [
    ("optimizer.name", "muon"),
    ("optimizer.weight_decay", "0.2"),
    ("optimizer.weight_decay", "0.2", "optimizer.name=adamw"),
    ("optimizer.norm_decay", "none"),
    ("optimizer.norm_decay", "input"),
    ("optimizer.norm_decay", "input", "optimizer.norm_decay=none"),
    ("optimizer.norm_decay", "none", "optimizer.name=adamw"),
    ("optimizer.norm_decay", "none", "optimizer.name=normuon"),
    ("optimizer.norm_decay", "none", "optimizer.name=adamuon"),
    ("optimizer.norm_decay", "none", "optimizer.name=muon_hyperball"),
    ("optimizer.embedding_decay", "false"),
    ("optimizer.embedding_decay", "false", "optimizer.name=adamw"),
    ("optimizer.embedding_decay", "false", "optimizer.name=muon_hyperball"),
    ("optimizer.adamw_lr_ratio", "2", "optimizer.name=muon_hyperball"),
    ("optimizer.name", "normuon"),
    ("optimizer.name", "adamuon", "optimizer.name=normuon"),
    ("optimizer.name", "muon_hyperball"),
    ("optimizer.momentum", "0.9"),
    ("optimizer.momentum", "0.9", "optimizer.name=normuon"),
    ("optimizer.momentum", "0.9", "optimizer.name=adamuon"),
    ("optimizer.momentum", "0.9", "optimizer.name=muon_hyperball"),
    ("optimizer.nesterov", "false", "optimizer.name=muon_hyperball"),
    ("optimizer.nesterov", "false"),
    ("optimizer.polar", "polar_express"),
    ("optimizer.polar_steps", "4"),
    ("optimizer.polar_dtype", "bfloat16"),
    ("optimizer.polar_implementation", "reference"),
    ("optimizer.shape_scale", "spectral"),
    ("optimizer.split", "heads"),
    ("optimizer.router", "muon"),
    ("optimizer.transfer", "kakao", *HALF),
    ("optimizer.transfer", "spectral", *HALF),
    ("optimizer.transfer", "kakao", *HALF, "optimizer.name=adamw"),
    ("optimizer.transfer_base_width", "32", *HALF),
    ("optimizer.tau", "50"),
    ("optimizer.clip_by", "layer"),
    ("optimizer.b1", "0.8"),
    ("optimizer.b1", "0.8", "optimizer.name=adamw"),
    ("optimizer.b2", "0.9"),
    ("optimizer.b2", "0.9", "optimizer.name=adamw"),
    ("optimizer.eps", "1e-6"),
    ("optimizer.eps", "1e-6", "optimizer.name=adamw"),
    ("optimizer.schedule.name", "cosine"),
    ("optimizer.schedule.warmup_steps", "3", "optimizer.schedule.name=constant"),
    ("optimizer.schedule.warmup_steps", "3", COSINE),
    ("optimizer.schedule.warmup_steps", "3", WSD),
    ("optimizer.schedule.decay_steps", "3", WSD),
    ("optimizer.schedule.final_ratio", "0.5", COSINE),
    ("optimizer.schedule.final_ratio", "0.5", WSD),
    ("guard.enabled", "false"),
    ("guard.window_steps", "7"),
    ("guard.num_sigmas", "3"),
    ("guard.max_skips", "2"),
]


def fields(section, name):
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        path = f"{name}.{field.name}"
        if dataclasses.is_dataclass(value):
            yield from fields(value, path)
        else:
            yield path


@functools.cache
def update_of(cfg) -> str:
    """The operations of one update, with every number in them."""
    optimizer = tiny_jobs.step_config(cfg).make_optimizer(0.1)
    params = jax.eval_shape(lambda: model.init_params(cfg.model, jax.random.key(0)))
    state = jax.eval_shape(optimizer.init, params)
    max_logits = jax.ShapeDtypeStruct((cfg.model.num_layers, cfg.model.num_heads), jnp.float32)

    def update(grads, state, params, max_logits):
        return optimizer.update(grads, state, params, max_logits=max_logits, loss=1.0)

    return str(jax.make_jaxpr(update)(params, state, params, max_logits))


@pytest.fixture
def with_vocab(cfg):
    return cfg.edited(["model.vocab_size=258", "train.num_steps=20", "optimizer.tau=0.7"])


def test_each_field_is_among_the_changes():
    optimizer, guard = config.OptimizerConfig(), config.GuardConfig()
    found = {*fields(optimizer, "optimizer"), *fields(guard, "guard")}
    assert found - OF_THE_LOOP - OF_THE_CALL - OF_PARTS == {change[0] for change in CHANGES}


@pytest.mark.parametrize("change", CHANGES, ids=" ".join)
def test_each_field_changes_the_update(with_vocab, change):
    field, value, *settings = change
    plain = with_vocab.edited(settings)
    assert update_of(plain.edited([f"{field}={value}"])) != update_of(plain)


# (field, another value, settings under which it must count). The kernels that are not here, and
# the exchange on one device, are other programs where they can run: tests/parallel lowers them.
COMPUTING = [
    ("execution.compute_dtype", "bfloat16"),
    ("execution.remat", "dots"),
    ("execution.remat", "full"),
    ("execution.scan_layers", "false"),
    ("execution.loss_chunk_tokens", "16"),
    ("execution.accumulation_steps", "2"),
    ("execution.attention_implementation", "reference"),
    ("execution.grouped_matmul_implementation", "reference"),
    ("execution.precision", "fp8_store"),
]
ELSEWHERE = {"execution.expert_exchange", "execution.deterministic"}


@functools.cache
def gradient_of(cfg) -> str:
    """The operations of the gradient of a step."""
    made = tiny_jobs.step_config(cfg)
    weights = jax.eval_shape(lambda: model.init(made.model, jax.random.key(0)))
    columns = [
        jax.ShapeDtypeStruct((8, 32), dtype) for dtype in [jnp.int32] * 4 + [jnp.float32] * 2
    ]
    gradients = functools.partial(step.gradients, cfg=made)
    return str(jax.make_jaxpr(gradients)(weights, Batch(*columns), {}))


def test_each_field_of_execution_is_among_the_changes():
    """expert_exchange: tests/parallel/test_meshes.py; deterministic: test_determinism.py."""
    found = {*fields(config.ExecutionConfig(), "execution")}
    assert found - ELSEWHERE == {change[0] for change in COMPUTING}


@pytest.mark.parametrize("change", COMPUTING, ids=" ".join)
def test_each_field_of_execution_changes_the_gradients_program(cfg, change):
    field, value = change
    assert gradient_of(cfg.edited([f"{field}={value}"])) != gradient_of(cfg)
