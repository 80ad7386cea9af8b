"""The train step: accumulation, devices, the clip's wire."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kanana_jax import config, data, model, optim, parallel
from kanana_jax.train import loss, optimizers
from kanana_jax.train import state as train_state
from kanana_jax.train import step as step_lib


def _take_steps(exp, corpus, num_steps):
    exp = record.with_vocab(exp, corpus.vocab_size)
    mesh = parallel.make_mesh(exp.mesh, jax.devices()[:1])
    steps = step_lib.build(exp, mesh)
    state = steps.init(exp.train.seed)
    records = []
    for number in range(num_steps):
        batch = parallel.shard_batch(mesh, data.train_batch(corpus, exp.data, number))
        state, metrics = steps.train(state, batch, exp.optimizer.lr)
        records.append(jax.device_get(metrics))
    return jax.device_get(state), records


def _edit(exp, *edits):
    return config.edit(exp, edits)


def _assert_same_run(found, wanted, rtol):
    for one, other in zip(found[1], wanted[1], strict=True):
        for name in ("loss", "grad_rms", "update_rms", "max_logits", "balance_loss"):
            np.testing.assert_allclose(one[name], other[name], rtol=rtol, err_msg=name)


@pytest.mark.slow
def test_micro_batches_add_up_to_the_batch(exp, corpus):
    whole = _take_steps(exp, corpus, 3)
    parts = _take_steps(_edit(exp, "train.accumulation_steps=4"), corpus, 3)
    _assert_same_run(parts, whole, rtol=2e-4)


@pytest.mark.slow
def test_max_logits_of_micro_batches_are_maximised(exp, corpus):
    """A sum or a mean over micro-batches would be off by far more than rounding."""
    exp = record.with_vocab(exp, corpus.vocab_size)
    mesh = parallel.make_mesh(exp.mesh, jax.devices()[:1])
    state = step_lib.build(exp, mesh).init(0)
    batch = jax.tree.map(jnp.asarray, data.train_batch(corpus, exp.data, 0))
    parts = _edit(exp, "train.accumulation_steps=4")
    _, _, found = step_lib.gradients(state.params, state.router_bias, batch, parts)
    args = (exp.model, state.params, state.router_bias)
    rows = [jax.tree.map(lambda x, k=k: x[k : k + 1], batch) for k in range(8)]
    each = [
        model.apply(*args, row.tokens, row.positions, row.segment_ids)[1].max_logits for row in rows
    ]
    np.testing.assert_allclose(found, np.max(each, axis=0), rtol=1e-5)


def test_a_clipped_head_is_bounded_by_the_next_forward_pass(exp, corpus):
    """With tau far below the first logits every head clips, and logits fall towards tau."""
    exp = _edit(exp, "optimizer.tau=0.001", "optimizer.lr=1e-6", "optimizer.weight_decay=0")
    state, records = _take_steps(exp, corpus, 2)
    first, second = (np.asarray(r["max_logits"]) for r in records)
    assert records[0]["clip_count"] == first.size
    np.testing.assert_allclose(records[0]["min_gamma"], 0.001 / first.max(), rtol=1e-5)
    assert second.max() < first.max() / 5  # other tokens, so only about tau
    assert np.all(optim.clip_report(state.opt_state)["num_clips"] == 2)


@pytest.mark.slow
def test_muonclip_with_a_high_tau_is_muon(exp, corpus):
    """To rounding: two programs, compiled apart. tests/optim has the bit-for-bit claim."""
    clipped, _ = _take_steps(_edit(exp, "optimizer.tau=1e6"), corpus, 3)
    plain, _ = _take_steps(_edit(exp, "optimizer.name=muon"), corpus, 3)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6),
        clipped.params,
        plain.params,
    )


def test_rates_and_seeds_share_one_compilation(exp, corpus):
    exp = record.with_vocab(exp, corpus.vocab_size)
    mesh = parallel.make_mesh(exp.mesh, jax.devices()[:1])
    one = step_lib.build(exp, mesh)
    other = step_lib.build(_edit(exp, "optimizer.lr=0.5", "train.seed=3"), mesh)
    assert one is other


@pytest.mark.slow
def test_what_was_compiled_ahead_is_not_compiled_again(exp, corpus, caplog):
    exp = record.with_vocab(exp, corpus.vocab_size)
    mesh = parallel.make_mesh(exp.mesh, jax.devices()[:1])
    steps = step_lib.build(_edit(exp, "optimizer.momentum=0.9"), mesh)  # no other test's
    steps.compile()
    state = steps.init(0)
    batch = parallel.shard_batch(mesh, data.train_batch(corpus, exp.data, 0))
    with jax.log_compiles(), caplog.at_level("WARNING"):
        state, _ = steps.train(state, loss.DeviceBatch(*batch), exp.optimizer.lr)
        steps.diagnose(state.params, state.opt_state)
    messages = [record.getMessage() for record in caplog.records]
    compiled = [message[:40] for message in messages if message.startswith("Compiling")]
    assert not [name for name in compiled if "train_step" in name or "diagnose" in name]


def test_64_bits_change_no_dtype_of_the_state(exp):
    exp = _edit(exp, "model.vocab_size=64", "train.accumulation_steps=2")

    def trained():
        mesh = parallel.make_mesh(exp.mesh, jax.devices()[:1])
        before = train_state.abstract(exp.model, optimizers.make(exp, lr=1.0), mesh)
        batch = loss.abstract_batch(exp.data.batch_size, exp.data.seq_len, mesh)
        step = functools.partial(step_lib.train_step, exp=exp)
        with jax.set_mesh(mesh):
            after, metrics = jax.eval_shape(step, before, batch, jnp.float32(0.1))
        found = before, after, metrics["loss"], metrics["max_logits"]
        return jax.tree.map(lambda x: (x.shape, x.dtype), found)

    plain = trained()
    with jax.enable_x64(True):
        assert trained() == plain


def test_every_parameter_has_exactly_one_optimizer(exp):
    specs = optimizers.matrix_specs(_edit(exp, "model.vocab_size=64"))
    by_muon = [spec is not None for spec in jax.tree.leaves(specs, is_leaf=lambda x: x is None)]
    assert 0 < sum(by_muon) < len(by_muon)
    with_router = optimizers.matrix_specs(
        _edit(exp, "model.vocab_size=64", "optimizer.router=muon")
    )
    also = [s is not None for s in jax.tree.leaves(with_router, is_leaf=lambda x: x is None)]
    assert sum(also) == sum(by_muon) + 1


def test_the_router_bias_moves_against_the_load(exp, corpus):
    state, records = _take_steps(exp, corpus, 1)
    bias, load = state.router_bias, records[0]
    assert np.max(np.abs(bias)) <= 2 * exp.train.router_bias_rate
    assert np.any(bias != 0.0)
    assert load["max_vio"] > 0.0


def test_a_vocabulary_smaller_than_the_tokenizers_is_refused(exp):
    small = dataclasses.replace(exp.model, vocab_size=10)
    with pytest.raises(config.ConfigError, match="smaller than the tokenizer's 258"):
        record.with_vocab(dataclasses.replace(exp, model=small), 258)
