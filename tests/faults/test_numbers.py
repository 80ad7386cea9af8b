"""NaN in data, loss, gradient and optimizer: no weight sees it; the run goes on, or goes back."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_jobs
import tiny_run

from kanana_jax import data, optim, parallel
from kanana_jax.jobs import pretrain, training
from kanana_jax.objectives import NextToken
from kanana_jax.report import results
from kanana_jax.train import optimizers, step_functions
from kanana_jax.train.step_config import StepConfig

pytestmark = pytest.mark.slow

# Bytes per target that no text has: the batches whose loss or gradient becomes NaN in the step.
BAD_LOSS, BAD_GRADIENT = 1e6, 2e6
BAD_UPDATE_COUNT = 25  # updates that the optimizer made before the one that becomes NaN


@dataclasses.dataclass(frozen=True)
class FaultyLoss(NextToken):
    """NaN in what is reported, or in the gradient alone, of batches that are marked."""

    def coefficients(self, logp_BS, batch, totals, frozen):
        w_BS = super().coefficients(logp_BS, batch, totals, frozen)
        return jnp.where(jnp.max(batch.target_bytes) == BAD_GRADIENT, jnp.nan, w_BS)

    def seen(self, logp_BS, logz_BS, batch, totals, frozen):
        found = super().seen(logp_BS, logz_BS, batch, totals, frozen)
        is_bad = jnp.max(batch.target_bytes) == BAD_LOSS
        loss = jnp.where(is_bad, jnp.nan, found.sums["loss"])
        return found._replace(sums=found.sums | {"loss": loss})


class SpoiledStep(StepConfig):
    """One update of the optimizer is NaN."""

    def make_optimizer(self, lr):
        def update(updates, count, params=None):
            bad = jnp.where(count == BAD_UPDATE_COUNT, jnp.nan, 0.0)
            return jax.tree.map(lambda u: u + bad, updates), count + 1

        spoil = optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)
        made = optimizers.make(self.optimizer, self.model, self.schedule(lr))
        spoiled = optax.with_extra_args_support(optax.chain(made, spoil))
        return optimizers.guarded(spoiled, self.guard)


class MarkedSource:
    """Hurts the batches with these numbers, from 1."""

    def __init__(self, source, bad):
        self._source, self._bad = source, bad
        self.fingerprint = source.fingerprint

    def batch(self, number, weights):
        batch, kind = self._source.batch(number, weights), self._bad.get(number + 1)
        if kind == "data":
            return batch._replace(loss_mask=batch.loss_mask * np.float32(np.nan))
        if kind:
            mark = BAD_LOSS if kind == "loss" else BAD_GRADIENT
            return batch._replace(target_bytes=np.full_like(batch.target_bytes, mark))
        return batch


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Settings, corpus and steps: compiled once, with the faults built in but asleep."""
    folder = tmp_path_factory.mktemp("numbers")
    schedule = ["optimizer.schedule.warmup_steps=3", "optimizer.schedule.decay_steps=20"]
    steps = ["train.num_steps=40", "train.checkpoint_interval_steps=8"]
    text = tiny_jobs.write_text(folder / "words.txt")
    cfg = tiny_run.configuration(text).edited([*steps, *schedule])
    corpus = data.open_corpus(cfg.data, folder / "cache")
    cfg = cfg.with_vocab(corpus.vocab_size)
    plain = StepConfig.of(cfg, FaultyLoss(cfg.train.z_loss_weight))
    blocks = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
    mesh = parallel.make_mesh(cfg.mesh, jax.devices()[:1])
    steps = step_functions.build(SpoiledStep(**blocks), mesh)
    steps.compile()
    return cfg, corpus, training.Built(mesh, steps, parallel.local_rows(mesh, 8))


@pytest.fixture
def train(lab, tmp_path):
    """train({number: kind}, name) -> metrics, final state, kinds of events."""
    cfg, corpus, built = lab

    def run(bad, name="run", guarded=cfg, stop_at=None):
        states = {}

        def watched(state, batch, lr, frozen):
            states["last"], entry = built.steps.train(state, batch, lr, frozen)
            if int(states["last"].step) == stop_at:
                raise KeyboardInterrupt
            states["host"] = jax.device_get(states["last"])
            return states["last"], entry

        source = MarkedSource(
            pretrain.JOB.source(
                corpus, guarded.data, training.data_stages(guarded, built.rows), built
            ),
            bad,
        )
        directory = tmp_path / name
        columns = tiny_jobs.train(guarded, corpus, directory, built, source=source, update=watched)
        path = directory / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return columns, states["host"], [json.loads(line)["kind"] for line in lines]

    return run


def _assert_finite(tree):
    for leaf in jax.tree.leaves(tree):
        assert np.all(np.isfinite(np.asarray(leaf, np.float32)))


@pytest.mark.long
def test_each_kind_of_nan_costs_one_step_and_leaves_no_trace(train, lab):
    """The optimizer's own NaN comes at the first update after BAD_UPDATE_COUNT accepted ones."""
    columns, state, kinds = train({5: "data", 10: "loss", 15: "gradient"})
    skipped = columns["consecutive_skips"].values_N
    assert (np.flatnonzero(skipped) + 1).tolist() == [5, 10, 15, 29]
    assert skipped.max() == 1
    assert kinds == ["step_skipped"] * 4
    # The rate recorded is the one applied: data that are skipped do not move the schedule.
    behind = np.cumsum(np.isin(np.arange(40), (5, 10, 15)))
    cfg, num_steps = lab[0].optimizer, lab[0].train.num_steps
    schedule = optimizers.schedule(cfg.schedule, num_steps, cfg.lr)
    applied = np.array([schedule(count) for count in np.arange(40) - behind])
    np.testing.assert_allclose(columns["lr"].values_N, applied, rtol=1e-6)
    _assert_finite(state.weights)
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


def test_a_skipped_step_is_as_if_it_had_not_been(train, lab):
    """Parameters and router bias before and after it, to the bit."""
    cfg, corpus, built = lab
    place = functools.partial(built.place, batch_size=8)
    state, clip_count = built.steps.init(0), 0
    while not clip_count:  # the step before clips heads, which must not be told again
        batch = data.train_batch(corpus, cfg.data, int(state.step))
        state, entry = built.steps.train(state, place(batch), 0.03, {})
        clip_count = int(entry["clip_count"])
        assert state.step < BAD_UPDATE_COUNT
    before = jax.device_get(state)
    hurt = batch._replace(loss_mask=batch.loss_mask * np.nan)
    after, entry = built.steps.train(state, place(hurt), 0.01, {})
    assert int(entry["consecutive_skips"]) == 1
    assert (int(entry["clip_count"]), float(entry["min_gamma"])) == (0, 1.0)
    jax.tree.map(np.testing.assert_array_equal, before.weights, jax.device_get(after.weights))
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
    _assert_finite(state.weights)
    assert np.all(np.isfinite(columns["loss"].values_N))


def test_a_run_killed_after_going_back_continues_to_the_bit(train):
    wanted, state, _ = train(STREAK, "unbroken")
    with pytest.raises(KeyboardInterrupt):
        train(STREAK, "broken", stop_at=30)
    found, resumed, _ = train(STREAK, "broken")
    jax.tree.map(np.testing.assert_array_equal, resumed, state)
    for name in tiny_jobs.untimed(wanted):
        np.testing.assert_array_equal(found[name].values_N, wanted[name].values_N, err_msg=name)


def test_going_back_is_bounded_and_then_the_run_counts_as_diverged(train, tmp_path):
    _, state, kinds = train(dict.fromkeys(range(11, 100), "gradient"))
    assert kinds.count("rewind") == 3
    assert results.load(tmp_path / "run").diverged
    _assert_finite(state.weights)


def test_an_exploding_logit_is_an_event(train, lab):
    alarmed = lab[0].edited(["guard.max_logit_alarm=1e-9"])
    _, _, kinds = train({}, guarded=alarmed)
    assert kinds.count("max_logit_alarm") == 1
