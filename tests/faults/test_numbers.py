"""NaN in data, loss, gradient and optimizer: no weight sees it; the run goes on, or goes back."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_run

from kanana_jax import config, data, optim, parallel
from kanana_jax.report import metrics, progress, results
from kanana_jax.train import loop, optimizers, resume
from kanana_jax.train import step as step_lib

# Bytes per target that no text has: the batches whose loss or gradient becomes NaN in the step.
BAD_LOSS, BAD_GRADIENT = 1e6, 2e6
BAD_UPDATE_COUNT = 25  # updates that the optimizer made before the one that becomes NaN


def _bad_gradients(gradients):
    def fn(params, router_bias, batch, exp):
        grads, sums, max_logits = gradients(params, router_bias, batch, exp)
        mark = jnp.max(batch.target_bytes)
        sums["loss"] = jnp.where(mark == BAD_LOSS, jnp.nan, sums["loss"])
        grads = jax.tree.map(lambda g: jnp.where(mark == BAD_GRADIENT, jnp.nan, g), grads)
        return grads, sums, max_logits

    return fn


def _bad_update(unguarded):
    def update(updates, count, params=None):
        bad = jnp.where(count == BAD_UPDATE_COUNT, jnp.nan, 0.0)
        return jax.tree.map(lambda u: u + bad, updates), count + 1

    spoil = optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)
    return lambda exp, lr: optax.chain(unguarded(exp, lr), spoil)


def _marked(train_batches, bad):
    """Hurts the batches with these numbers, from 1."""

    def fn(corpus, cfg, *, start_step=0, rows=None):
        given = train_batches(corpus, cfg, start_step=start_step, rows=rows)
        for number, batch in enumerate(given, start_step + 1):
            kind = bad.get(number)
            if kind == "data":
                batch = batch._replace(loss_mask=batch.loss_mask * np.float32(np.nan))
            elif kind:
                mark = BAD_LOSS if kind == "loss" else BAD_GRADIENT
                batch = batch._replace(target_bytes=np.full_like(batch.target_bytes, mark))
            yield batch

    return fn


@pytest.fixture(scope="module")
def steps_and_corpus(tmp_path_factory):
    """Compiled once, with the faults built in but asleep."""
    folder = tmp_path_factory.mktemp("numbers")
    exp = tiny_run.experiment(tiny_run.write_text(folder / "words.txt"))
    schedule = ["optimizer.schedule.warmup_steps=3", "optimizer.schedule.decay_steps=20"]
    steps = ["train.num_steps=40", "train.checkpoint_interval_steps=8"]
    exp = config.edit(exp, [*steps, *schedule])
    corpus = data.open_corpus(exp.data, folder / "cache")
    exp = record.with_vocab(exp, corpus.vocab_size)
    mesh = parallel.make_mesh(exp.mesh, jax.devices()[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_lib, "gradients", _bad_gradients(step_lib.gradients))
        patch.setattr(optimizers, "_unguarded", _bad_update(optimizers._unguarded))
        step_lib._build.cache_clear()
        steps = step_lib.build(exp, mesh)
        steps.compile()
        yield exp, corpus, mesh, steps
    step_lib._build.cache_clear()


@pytest.fixture
def train(steps_and_corpus, tmp_path, monkeypatch):
    """train({number: kind}, name) -> metrics, final state, kinds of events."""
    exp, corpus, mesh, steps = steps_and_corpus
    states, batches = {}, data.train_batches

    def run(bad, name="run", guarded=exp, stop_at=None):
        def watched(state, batch, lr):
            states["last"], entry = steps.train(state, batch, lr)
            if int(states["last"].step) == stop_at:
                raise KeyboardInterrupt
            states["host"] = jax.device_get(states["last"])
            return states["last"], entry

        monkeypatch.setattr(data, "train_batches", _marked(batches, bad))
        sweep = progress.Sweep(file=io.StringIO())
        loop.run(
            guarded,
            corpus,
            tmp_path / name,
            mesh,
            steps._replace(train=watched),
            arm="",
            sweep=sweep,
        )
        path = tmp_path / name / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        kinds = [json.loads(line)["kind"] for line in lines]
        return metrics.read_metrics(tmp_path / name / "metrics.jsonl"), states["host"], kinds

    return run


def _assert_finite(tree):
    for leaf in jax.tree.leaves(tree):
        assert np.all(np.isfinite(np.asarray(leaf, np.float32)))


def test_each_kind_of_nan_costs_one_step_and_leaves_no_trace(train, steps_and_corpus):
    """The optimizer's own NaN comes at the first update after BAD_UPDATE_COUNT accepted ones."""
    columns, state, kinds = train({5: "data", 10: "loss", 15: "gradient"})
    skipped = columns["consecutive_skips"].values_N
    assert (np.flatnonzero(skipped) + 1).tolist() == [5, 10, 15, 29]
    assert skipped.max() == 1
    assert kinds == ["step_skipped"] * 4
    # The rate recorded is the one applied: data that are skipped do not move the schedule.
    behind = np.cumsum(np.isin(np.arange(40), (5, 10, 15)))
    schedule = optimizers.schedule(steps_and_corpus[0], steps_and_corpus[0].optimizer.lr)
    applied = np.array([schedule(count) for count in np.arange(40) - behind])
    np.testing.assert_allclose(columns["lr"].values_N, applied, rtol=1e-6)
    _assert_finite(state.params)
    _assert_finite(state.router_bias)
    report = optim.skip_report(state.opt_state)
    assert (report["num_skipped"], report["num_accepted"]) == (4, 36)
    norms = state.opt_state.accepted_norms
    assert np.all(np.isfinite(norms)) and np.all(norms > 0)


def test_a_run_whose_last_step_is_skipped_keeps_its_last_state(train, tmp_path):
    _, state, kinds = train({40: "data"})
    assert kinds == ["step_skipped"] * 2  # the optimizer's own NaN, and this
    assert int(state.step) == 40
    assert (tmp_path / "run" / "checkpoints" / "40" / "manifest.json").exists()


def test_no_checkpoint_is_made_of_a_skipped_step(train, tmp_path):
    """Going back to it would be going back into the trouble."""
    with pytest.raises(KeyboardInterrupt):
        train({16: "data"}, stop_at=20)
    folders = (tmp_path / "run" / "checkpoints").glob("*/manifest.json")
    assert sorted(int(path.parent.name) for path in folders) == [8]


def test_a_skipped_step_is_as_if_it_had_not_been(train, steps_and_corpus):
    """Parameters and router bias before and after it, to the bit."""
    exp, corpus, mesh, steps = steps_and_corpus
    state, clip_count = steps.init(0), 0
    while not clip_count:  # the step before clips heads, which must not be told again
        batch = data.train_batch(corpus, exp.data, int(state.step))
        state, entry = steps.train(state, loop._to_devices(mesh, batch, 8), 0.03)
        clip_count = int(entry["clip_count"])
        assert state.step < BAD_UPDATE_COUNT
    before = jax.device_get(state)
    hurt = batch._replace(loss_mask=batch.loss_mask * np.nan)
    after, entry = steps.train(state, loop._to_devices(mesh, hurt, 8), 0.01)
    assert int(entry["consecutive_skips"]) == 1
    assert (int(entry["clip_count"]), float(entry["min_gamma"])) == (0, 1.0)
    for part in ("params", "router_bias"):
        jax.tree.map(
            np.testing.assert_array_equal,
            getattr(before, part),
            jax.device_get(getattr(after, part)),
        )
    jax.tree.map(np.testing.assert_array_equal, before.opt_state.inner, after.opt_state.inner)


STREAK = {11: "data", 12: "loss", 13: "gradient"}


def test_after_three_skips_the_run_goes_back_and_leaves_that_data_out(train):
    columns, state, kinds = train(STREAK)
    assert kinds[:4] == ["step_skipped"] * 3 + ["rewind"]
    steps_N, left_out = columns["skipped_batches"]
    np.testing.assert_array_equal(steps_N, np.arange(1, 41))
    # Back to the checkpoint at step 8: step 9 reads batch 14, behind the last bad one.
    np.testing.assert_array_equal(left_out, np.where(steps_N > 8, 5, 0))
    np.testing.assert_array_equal(columns["rewinds"].values_N, np.where(steps_N > 8, 1, 0))
    _assert_finite(state.params)
    assert np.all(np.isfinite(columns["loss"].values_N))


def test_a_run_killed_after_going_back_continues_to_the_bit(train):
    wanted, state, _ = train(STREAK, "unbroken")
    with pytest.raises(KeyboardInterrupt):
        train(STREAK, "broken", stop_at=30)
    found, resumed, _ = train(STREAK, "broken")
    jax.tree.map(np.testing.assert_array_equal, resumed, state)
    for name in wanted.keys() - {"seconds"}:
        np.testing.assert_array_equal(found[name].values_N, wanted[name].values_N, err_msg=name)


def test_going_back_is_bounded_and_then_the_run_counts_as_diverged(train, tmp_path):
    _, state, kinds = train(dict.fromkeys(range(11, 100), "gradient"))
    assert kinds.count("rewind") == 3
    assert results.load(tmp_path / "run").diverged
    _assert_finite(state.params)


def test_an_exploding_logit_is_an_event(train, steps_and_corpus):
    exp = config.edit(steps_and_corpus[0], ["guard.max_logit_alarm=1e-9"])
    _, _, kinds = train({}, guarded=exp)
    assert kinds.count("max_logit_alarm") == 1


def test_going_back_twice_to_one_checkpoint_leaves_more_data_out():
    good = resume.Position(state=None, step=8)
    once = resume.rewind(good, good, trouble_step=13)
    twice = resume.rewind(once, good, trouble_step=12)
    assert once == good._replace(skipped_batches=5, rewinds=1)
    # Step 12 of the second try read batch 17: step 9 of the third reads batch 18.
    assert twice == good._replace(skipped_batches=9, rewinds=2)
