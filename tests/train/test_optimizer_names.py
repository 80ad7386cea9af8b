"""Every optimizer that a setting can name: it trains, and decays what it says."""

import dataclasses
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_jobs

from kanana_jax import config, data, model, parallel
from kanana_jax.train import optimizers, step_functions

RELATIVES = ("normuon", "adamuon", "muon_hyperball")


def test_the_table_has_the_names_that_the_setting_takes():
    kinds = typing.get_type_hints(config.OptimizerConfig)
    assert {*typing.get_args(kinds["name"])} == optimizers.TABLE.keys()


def test_every_metric_of_an_optimizer_has_an_idle_value(cfg):
    """A step that was skipped reports those."""
    for name in optimizers.TABLE:
        made = tiny_jobs.step_config(cfg.edited([f"optimizer.name={name}"]))
        params = jax.eval_shape(lambda: model.init_params(made.model, jax.random.key(0)))  # noqa: B023
        state = jax.eval_shape(made.make_optimizer(1.0).init, params)
        found = jax.eval_shape(lambda s: optimizers.report(name, s, False), state)  # noqa: B023
        assert found.keys() == optimizers.TABLE[name].idle.keys(), name


def _losses(cfg, corpus, num_devices, num_steps):
    cfg = cfg.edited([f"mesh.fsdp={num_devices}"])
    mesh = parallel.make_mesh(cfg.mesh, jax.devices()[:num_devices])
    steps = step_functions.build(tiny_jobs.step_config(cfg), mesh)
    state, losses = steps.init(0), []
    batch = parallel.shard_batch(mesh, data.train_batch(corpus, cfg.data, 0), 8)
    for _ in range(num_steps):
        state, metrics = steps.train(state, batch, cfg.optimizer.lr, {})
        losses.append(float(metrics["loss"]))
    return losses, jax.device_get(state.weights.params)


@pytest.mark.long
@pytest.mark.parametrize("name", RELATIVES)
def test_a_relative_of_muon_trains_and_two_devices_train_as_one(cfg, corpus, name):
    """On one batch, which it learns."""
    cfg = cfg.edited([f"optimizer.name={name}", "optimizer.lr=0.02", "guard.enabled=false"])
    losses, params = _losses(cfg, corpus, 1, 6)
    assert np.all(np.diff(losses) < 0)
    assert losses[-1] < losses[0] - 0.3
    on_two, params_of_two = _losses(cfg, corpus, 2, 6)
    np.testing.assert_allclose(on_two, losses, rtol=1e-4)

    def close(one, other):
        np.testing.assert_allclose(one, other, atol=2e-3 * np.max(np.abs(other), initial=1e-3))

    jax.tree.map(close, params_of_two, params)


def _weights_and_update(cfg):
    """Random weights, and the update of one step of random gradients, by path."""
    made = tiny_jobs.step_config(cfg)
    shapes = jax.eval_shape(lambda: model.init_params(made.model, jax.random.key(0)))
    rng = np.random.default_rng(0)

    def random(x):
        return jnp.asarray(rng.uniform(0.5, 1.0, x.shape), x.dtype)

    params, grads = jax.tree.map(random, shapes), jax.tree.map(random, shapes)
    optimizer = optimizers.make(made.optimizer, made.model, lambda step: 0.1)
    max_logits = jnp.zeros((made.model.num_layers, made.model.num_heads))

    @jax.jit
    def update(grads, params):
        return optimizer.update(grads, optimizer.init(params), params, max_logits=max_logits)[0]

    updates = update(grads, params)
    return _by_path(params), _by_path(updates)


def _by_path(tree):
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(x) for path, x in flat
    }


EMBEDDING = {"embed"}
INPUT = {"moe_layers/attention_norm", "moe_layers/mlp_norm"}


def _norms(cfg):
    specs = model.describe(cfg.model)
    flat, _ = jax.tree_util.tree_flatten_with_path(
        specs, is_leaf=lambda x: isinstance(x, model.ParamSpec)
    )
    return {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, spec in flat
        if spec.role == "norm"
    }


LEFT_ALONE = {
    "norm_decay=all": lambda norms: set(),
    "norm_decay=none": lambda norms: norms,
    "norm_decay=input": lambda norms: norms - INPUT,
    "embedding_decay=false": lambda norms: EMBEDDING,
}


@pytest.mark.parametrize("edit", LEFT_ALONE)
def test_what_decay_leaves_alone_is_named(cfg, edit):
    norms = _norms(cfg)
    assert norms > INPUT and "final_norm" in norms
    masked = cfg.edited(["model.vocab_size=258", f"optimizer.{edit}"])
    found = optimizers.undecayed(masked.optimizer, masked.model)
    assert len(found) == len({*found})
    assert {*found} == LEFT_ALONE[edit](norms)


@pytest.mark.parametrize(
    ("name", "edits"),
    [
        ("adamw", ("norm_decay=none",)),
        ("adamw", ("norm_decay=input", "embedding_decay=false")),
        ("muonclip", ("norm_decay=none", "embedding_decay=false")),
        ("muon_hyperball", ("norm_decay=input", "embedding_decay=false")),
    ],
    ids=str,
)
@pytest.mark.long
def test_decay_is_left_out_of_the_leaves_that_are_named_and_of_no_other(cfg, name, edits):
    cfg = cfg.edited(["model.vocab_size=258", f"optimizer.name={name}"])
    edits = [f"optimizer.{edit}" for edit in edits]
    masked = cfg.edited(edits)
    wanted = {*optimizers.undecayed(masked.optimizer, masked.model)}
    wanted -= {*optimizers.undecayed(cfg.optimizer, cfg.model)}  # matrices whose norm is kept
    params, plain = _weights_and_update(cfg)
    _, found = _weights_and_update(masked)
    assert {path for path in plain if not np.array_equal(plain[path], found[path])} == wanted
    # What is left out is rate x weight_decay x the weights, to rounding.
    for path in wanted:
        left_out = 0.1 * 0.1 * params[path]
        np.testing.assert_allclose(found[path] - plain[path], left_out, rtol=1e-3, err_msg=path)


def test_a_dense_layers_input_norms_are_inputs_too(cfg):
    shape = dataclasses.replace(cfg.model, num_layers=2, num_dense_layers=1, vocab_size=64)
    by_input = dataclasses.replace(cfg.optimizer, norm_decay="input")
    left = optimizers.undecayed(by_input, shape)
    assert not [path for path in left if path.endswith(("/attention_norm", "/mlp_norm"))]
    assert "final_norm" in left
