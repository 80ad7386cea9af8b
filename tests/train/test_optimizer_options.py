"""Every option of the optimizer, its schedule and its guard reaches the update that is built."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from kanana_jax import config, model
from kanana_jax.train import optimizers

# Read by the loop, which tests/faults holds to them.
OF_THE_LOOP = {"guard.max_rewinds", "guard.max_logit_alarm"}
# The optimizer's own scale: `make` is given the rate, which rates of a comparison share.
OF_THE_CALL = {"optimizer.lr"}
COSINE, WSD = "optimizer.schedule.name=cosine", "optimizer.schedule.decay_steps=5"
# (field, another value, settings under which it must count)
CHANGES = [
    ("optimizer.name", "muon"),
    ("optimizer.weight_decay", "0.2"),
    ("optimizer.weight_decay", "0.2", "optimizer.name=adamw"),
    ("optimizer.momentum", "0.9"),
    ("optimizer.nesterov", "false"),
    ("optimizer.polar", "polar_express"),
    ("optimizer.polar_steps", "4"),
    ("optimizer.polar_dtype", "bfloat16"),
    ("optimizer.polar_implementation", "reference"),
    ("optimizer.shape_scale", "spectral"),
    ("optimizer.split", "heads"),
    ("optimizer.router", "muon"),
    ("optimizer.tau", "50"),
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


def update_of(exp) -> str:
    """The operations of one update, with every number in them."""
    optimizer = optimizers.make(exp, lr=0.1)
    params = jax.eval_shape(lambda: model.init(exp.model, jax.random.key(0)))
    state = jax.eval_shape(optimizer.init, params)
    max_logits = jax.ShapeDtypeStruct((exp.model.num_layers, exp.model.num_heads), jnp.float32)

    def update(grads, state, params, max_logits):
        return optimizer.update(grads, state, params, max_logits=max_logits, loss=1.0)

    return str(jax.make_jaxpr(update)(params, state, params, max_logits))


@pytest.fixture
def with_vocab(exp):
    return config.edit(exp, ["model.vocab_size=64", "train.num_steps=20", "optimizer.tau=0.7"])


def test_each_field_is_among_the_changes():
    optimizer, guard = config.OptimizerConfig(), config.GuardConfig()
    found = {*fields(optimizer, "optimizer"), *fields(guard, "guard")}
    assert found - OF_THE_LOOP - OF_THE_CALL == {change[0] for change in CHANGES}


@pytest.mark.parametrize("change", CHANGES, ids=" ".join)
def test_each_field_changes_the_update(with_vocab, change):
    field, value, *settings = change
    plain = config.edit(with_vocab, settings)
    assert update_of(config.edit(plain, [f"{field}={value}"])) != update_of(plain)
