"""The train step: accumulation, devices, the wiring of the clip."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_jobs

from kanana_jax import config, data, model, optim, parallel
from kanana_jax.train import optimizers, step_functions
from kanana_jax.train import state as train_state
from kanana_jax.train import step as step_lib


def _take_steps(cfg, corpus, num_steps):
    built = tiny_jobs.build(cfg)
    state = built.steps.init(cfg.train.seed)
    records = []
    for number in range(num_steps):
        batch = built.place(data.train_batch(corpus, cfg.data, number), cfg.data.batch_size)
        state, metrics = built.steps.train(state, batch, cfg.optimizer.lr, {})
        records.append(jax.device_get(metrics))
    return jax.device_get(state), records


def _assert_same_run(found, wanted, rtol):
    for one, other in zip(found[1], wanted[1], strict=True):
        for name in ("loss", "grad_rms", "update_rms", "max_logits", "balance_loss"):
            np.testing.assert_allclose(one[name], other[name], rtol=rtol, err_msg=name)


@pytest.mark.long
def test_micro_batches_add_up_to_the_batch(cfg, corpus):
    whole = _take_steps(cfg, corpus, 3)
    parts = _take_steps(cfg.edited(["execution.accumulation_steps=4"]), corpus, 3)
    _assert_same_run(parts, whole, rtol=2e-4)


@pytest.mark.long
def test_max_logits_of_micro_batches_are_maximised(cfg, corpus):
    """A sum or a mean over micro-batches would be off by far more than rounding."""
    made = tiny_jobs.step_config(cfg.edited(["execution.accumulation_steps=4"]))
    weights = tiny_jobs.build(cfg).steps.init(0).weights
    batch = jax.tree.map(jnp.asarray, data.train_batch(corpus, cfg.data, 0))
    _, seen, _ = jax.jit(functools.partial(step_lib.gradients, cfg=made))(weights, batch, {})

    @jax.jit
    def max_logits(row):
        return model.apply(made.model, weights, row.inputs, made.execution)[1].max_logits

    each = [max_logits(jax.tree.map(lambda x, k=k: x[k : k + 1], batch)) for k in range(8)]
    np.testing.assert_allclose(seen.maxima["max_logits"], np.max(each, axis=0), rtol=1e-5)


def test_a_clipped_head_is_bounded_by_the_next_forward_pass(cfg, corpus):
    """With tau far below the first logits every head clips, and logits fall towards tau."""
    cfg = cfg.edited(["optimizer.tau=0.001", "optimizer.lr=1e-6", "optimizer.weight_decay=0"])
    state, records = _take_steps(cfg, corpus, 2)
    first, second = (np.asarray(r["max_logits"]) for r in records)
    assert records[0]["clip_count"] == first.size
    np.testing.assert_allclose(records[0]["min_gamma"], 0.001 / first.max(), rtol=1e-5)
    assert second.max() < first.max() / 5  # other tokens, so only about tau
    assert np.all(optim.clip_report(state.opt_state)["num_clips"] == 2)


@pytest.mark.long
def test_muonclip_with_a_high_tau_is_muon(cfg, corpus):
    """To rounding: two programs, compiled apart. tests/optim has the bit-for-bit claim."""
    clipped, _ = _take_steps(cfg.edited(["optimizer.tau=1e6"]), corpus, 3)
    plain, _ = _take_steps(cfg.edited(["optimizer.name=muon"]), corpus, 3)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6),
        clipped.weights.params,
        plain.weights.params,
    )


def test_without_an_average_the_optimizer_is_what_it_was(cfg):
    made = optax.with_extra_args_support(optax.sgd(0.1))
    assert optimizers.averaged(made, config.AverageConfig(decay=0.9), 256) is made
    assert tiny_jobs.step_config(cfg).average == config.AverageConfig(every_tokens=0)
    edited = tiny_jobs.step_config(cfg.edited(["train.average.every_tokens=256"]))
    assert edited.average.every_tokens == 256


def test_rates_and_seeds_share_one_compilation(cfg):
    one = tiny_jobs.build(cfg).steps
    other = tiny_jobs.build(cfg.edited(["optimizer.lr=0.5", "train.seed=3"])).steps
    assert one is other


@pytest.mark.long
def test_what_was_compiled_ahead_is_not_compiled_again(cfg, corpus, caplog):
    built = tiny_jobs.build(cfg.edited(["optimizer.momentum=0.9"]))  # no other test's
    steps = built.steps
    steps.compile()
    state = steps.init(0)
    batch = built.place(data.train_batch(corpus, cfg.data, 0), 8)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        state, _ = steps.train(state, batch, cfg.optimizer.lr, {})
        steps.diagnose(state.weights, state.opt_state)
    messages = [record.getMessage() for record in caplog.records]
    compiled = [message[:40] for message in messages if message.startswith("Compiling")]
    assert not [name for name in compiled if "train_step" in name or "diagnose" in name]


@pytest.mark.long
def test_64_bits_change_no_dtype_of_the_state(cfg):
    made = tiny_jobs.step_config(cfg.edited(["execution.accumulation_steps=2"]))

    def trained():
        mesh = parallel.make_mesh(cfg.mesh, jax.devices()[:1])
        before = train_state.abstract(made.model, made.make_optimizer(1.0), mesh)
        batch = step_functions.abstract_batch(made.batch_size, made.seq_len, mesh)
        step = functools.partial(step_lib.train_step, cfg=made)
        with jax.set_mesh(mesh):
            after, metrics = jax.eval_shape(step, before, batch, jnp.float32(0.1), {})
        found = before, after, metrics["loss"], metrics["max_logits"]
        return jax.tree.map(lambda x: (x.shape, x.dtype), found)

    plain = trained()
    with jax.enable_x64(True):
        assert trained() == plain


def test_every_parameter_has_exactly_one_optimizer(cfg):
    def by_muon(*edits):
        made = cfg.edited(["model.vocab_size=64", *edits])
        specs = optimizers.polar_specs(made.optimizer, made.model)
        return [spec is not None for spec in jax.tree.leaves(specs, is_leaf=optimizers.is_spec)]

    plain = by_muon()
    assert 0 < sum(plain) < len(plain)
    assert sum(by_muon("optimizer.router=muon")) == sum(plain) + 1
    assert sum(by_muon("optimizer.name=adamw")) == 0


@pytest.mark.long
def test_the_router_bias_moves_against_the_load(cfg, corpus):
    state, records = _take_steps(cfg, corpus, 1)
    bias = state.weights.buffers["router_bias"]
    assert np.max(np.abs(bias)) <= 2 * cfg.train.router_bias_rate
    assert np.any(bias != 0.0)
    assert records[0]["max_vio"] > 0.0


QUANTILE = ("train.router_balance=quantile", "train.router_bias_rate=0")


@pytest.mark.long
def test_quantile_balancing_sends_the_bias_where_the_batch_is_even(cfg, corpus):
    """One step from a skewed router, seen by its next pass over the same batch."""
    cfg = cfg.edited([*QUANTILE, "optimizer.lr=1e-9"])
    built = tiny_jobs.build(cfg)
    state = built.steps.init(0)
    skewed = {"router_bias": np.float32([[0.3, 0.1, -0.1, -0.3]])}
    state = state._replace(weights=state.weights._replace(buffers=skewed))
    batch = built.place(data.train_batch(corpus, cfg.data, 0), 8)
    seen = []
    for _ in range(3):
        state, metrics = built.steps.train(state, batch, cfg.optimizer.lr, {})
        seen.append(float(metrics["max_vio"]))
    bias = np.asarray(state.weights.buffers["router_bias"])
    assert seen[0] == 1.0  # two experts have every token
    assert seen[-1] < 0.2
    np.testing.assert_allclose(bias.mean(), 0.0, atol=1e-6)

    lost = batch._replace(loss_mask=batch.loss_mask * np.nan)
    after, metrics = built.steps.train(state, lost, cfg.optimizer.lr, {})
    assert metrics["consecutive_skips"] == 1
    np.testing.assert_array_equal(after.weights.buffers["router_bias"], bias)


@pytest.mark.long
def test_histograms_of_micro_batches_are_those_of_the_batch(cfg, corpus):
    cfg = cfg.edited(QUANTILE)
    weights = tiny_jobs.build(cfg).steps.init(0).weights
    batch = jax.tree.map(jnp.asarray, data.train_batch(corpus, cfg.data, 0))

    def routing(*edits):
        made = tiny_jobs.step_config(cfg.edited(edits))
        return jax.jit(functools.partial(step_lib.gradients, cfg=made))(weights, batch, {})[2]

    whole, parts = routing(), routing("execution.accumulation_steps=4")
    np.testing.assert_array_equal(parts.load_LE, whole.load_LE)
    assert whole.needed_LXEN.sum() == 8 * 32 * cfg.model.num_experts
    # Rounding may move a score over the edge of a bin, out of one and into the next.
    assert np.abs(parts.needed_LXEN - whole.needed_LXEN).sum() <= 4


def test_a_vocabulary_smaller_than_the_tokenizers_is_refused(cfg):
    small = dataclasses.replace(cfg.model, vocab_size=10)
    with pytest.raises(config.ConfigError, match="smaller than the tokenizer's 258"):
        dataclasses.replace(cfg, model=small).with_vocab(258)


@pytest.mark.parametrize(
    ("schedule", "is_shared"),
    [
        ({"name": "constant"}, True),
        ({"name": "wsd"}, True),
        ({"name": "wsd", "decay_steps": 2}, False),
        ({"name": "cosine"}, False),
    ],
)
def test_runs_of_other_lengths_share_a_step_whose_schedule_does_not_read_them(
    cfg, schedule, is_shared
):
    edits = [f"optimizer.schedule.{name}={value}" for name, value in schedule.items()]
    steps = {tiny_jobs.step_config(cfg.edited([*edits, f"train.num_steps={n}"])) for n in (8, 9)}
    assert (len(steps) == 1) == is_shared
