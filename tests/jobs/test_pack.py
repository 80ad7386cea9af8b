"""Runs that share their step are what they are by themselves."""

import concurrent.futures
import json
import shutil
import threading

import jax
import numpy as np
import pytest
import tiny_jobs

from kanana_jax import config, parallel
from kanana_jax.batch import Batch
from kanana_jax.jobs import pack, pretrain, runs, sweep
from kanana_jax.objectives import NextToken
from kanana_jax.objectives.dpo import dpo
from kanana_jax.report import metrics, results
from kanana_jax.train import several, step_functions

pytestmark = pytest.mark.slow

RATES = (0.01, 0.02, 1000.0)  # the last one diverges on the way


def made(text, **own):
    cfg = tiny_jobs.pretraining(text, guard=config.GuardConfig(enabled=False))
    return sweep.Sweep(base=cfg, axes=(sweep.Axis("optimizer.lr", RATES),), **own)


@pytest.fixture(scope="module")
def one_device():
    """A pack needs one device, and these tests have eight."""
    with pytest.MonkeyPatch.context() as patch:
        first = jax.devices()[:1]
        patch.setattr(jax, "devices", lambda *args: first)
        patch.setattr(jax, "device_count", lambda *args: 1)
        yield


@pytest.fixture(scope="module")
def trained(text_file, tmp_path_factory, one_device):
    """The working directories of three runs: one after the other, and in a pack of four."""
    run, folders = sweep.of(pretrain.JOB), []
    for size in (1, 4):
        folder = tmp_path_factory.mktemp(f"pack{size}")
        run(made(text_file, pack=size), folder)
        folders.append(folder)
    return folders


def found(workdir):
    return {path.name: results.load(path) for path in sorted((workdir / "runs").iterdir())}


@pytest.mark.long
def test_results_are_those_of_runs_one_by_one(trained):
    alone, together = map(found, trained)
    assert alone.keys() == together.keys() and len(alone) == 3
    for name, one in alone.items():
        other = together[name]
        assert (one.status, one.diverged_step) == (other.status, other.diverged_step)
        assert one.metrics.keys() - {"tokens_per_second"} <= other.metrics.keys()
        for key in ("loss", "heldout_bpb", "max_logits", "grad_rms", "orthogonality_error"):
            steps_N, values_N = one.series(key)
            np.testing.assert_array_equal(steps_N, other.series(key).steps_N)
            # Products of several runs are summed in another order. The first step shows none of it
            # (next test), and over 12 steps it grows.
            np.testing.assert_allclose(other.series(key).values_N, values_N, rtol=2e-3, atol=1e-4)
    losses = [one.value("final_loss") for one in together.values() if not one.diverged]
    assert len(set(losses)) == 2


@pytest.mark.long
def test_the_first_step_is_that_of_single_runs(one_device, text_file, tmp_path):
    """Also its gradient: the momentum of the first step is nothing else."""
    one, *_ = sweep.plan(made(text_file), tmp_path)
    (step,) = runs.step_configs(pretrain.JOB, one._replace(config=one.config.with_vocab(258)))
    mesh = parallel.make_mesh(one.config.mesh)
    alone, together = step_functions.build(step, mesh), several.build(step, mesh, 2)
    rates, random = (0.01, 0.02), np.random.default_rng(0)
    batches = [Batch.of_tokens(random.integers(0, 256, (8, 33))) for _ in rates]
    taken = together([alone.init(0), alone.init(1)], batches, rates)
    for seed, (after, record) in enumerate(taken):
        want, expected = alone.train(alone.init(seed), batches[seed], rates[seed], {})
        for key in ("loss", "grad_rms", "max_logits"):
            np.testing.assert_allclose(record[key], expected[key], rtol=1e-6)
        _expect_close(after.opt_state, want.opt_state, 1e-6)
        _expect_close(after.weights, want.weights, 1e-5)  # polynomials make more of a difference


def _expect_close(found, want, share):
    """Each array within a share of its largest number."""
    for one, leaf in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, leaf, rtol=0, atol=share * np.abs(leaf).max())


@pytest.mark.long
def test_a_run_that_is_resumed_alone_ends_with_the_same_numbers(trained, text_file, tmp_path):
    workdir = tmp_path / "work"
    shutil.copytree(trained[1], workdir)
    folder = workdir / "runs" / "test-lr0.01-seed0"
    before = metrics.read_metrics(folder / metrics.METRICS_NAME)["loss"].values_N
    (folder / "result.json").unlink()
    saved = sorted((folder / "checkpoints").iterdir(), key=lambda path: path.name)
    shutil.rmtree(saved[-1])
    record = folder / "saved.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"step": 8}))
    sweep.of(pretrain.JOB)(made(text_file, pack=4), workdir)
    after = metrics.read_metrics(folder / metrics.METRICS_NAME)["loss"].values_N
    np.testing.assert_array_equal(after, before)


def asked(one_pack, slot, number):
    """What a run gets when it asks in its own thread, for which no failure waits."""
    future = concurrent.futures.Future()

    def ask():
        try:
            future.set_result(one_pack.take(slot, pack.Request(number, number, 0.1 * number)))
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    return future


def test_a_step_waits_for_all_and_goes_on_without_those_that_left():
    seen = []

    def step(states, batches, rates):
        seen.append(states)
        return [(10 * one, {"lr": rate}) for one, rate in zip(states, rates, strict=True)]

    one_pack = pack.Pack(step, 3)
    one_pack.leave(2)
    first = asked(one_pack, 0, 1)
    with pytest.raises(TimeoutError):
        first.result(0.05)
    second = asked(one_pack, 1, 2)
    assert (first.result(9), second.result(9)) == ((10, {"lr": 0.1}), (20, {"lr": 0.2}))
    last = asked(one_pack, 1, 3)
    with pytest.raises(TimeoutError):
        last.result(0.05)
    one_pack.leave(0)
    assert last.result(9)[0] == 30
    assert seen == [(1, 2, 1), (3, 3, 3)]  # empty slots compute what another does


def test_a_step_that_fails_fails_in_every_run():
    def step(states, batches, rates):
        raise FloatingPointError("no more")

    one_pack = pack.Pack(step, 2)
    for one in [asked(one_pack, slot, slot) for slot in range(2)]:
        with pytest.raises(FloatingPointError, match="no more"):
            one.result(9)


STAGES = 'stages=[{"name": "a", "tokens": 256}, {"name": "b", "tokens": 256}]'


@pytest.mark.parametrize(
    ("edits", "objective", "num_devices", "message"),
    [
        ((), NextToken(), 2, "one device, got 2"),
        (("lora.rank=2", "train.router_bias_rate=0"), NextToken(), 1, "whole models"),
        (("train.num_steps=0",), NextToken(), 1, "steps"),
        ((STAGES,), NextToken(), 1, "one stage, got 2"),
        ((), dpo(0.1), 1, "an objective that reads no other"),
    ],
)
def test_what_cannot_share_a_step_is_refused(cfg, edits, objective, num_devices, message):
    cfg = cfg.edited(edits)
    given = len(cfg.in_stages()), cfg.train.num_steps, cfg.lora, objective, num_devices
    with pytest.raises(config.ConfigError, match=f"a pack of runs needs {message}"):
        pack.check(*given)


def test_a_sweep_refuses_before_it_writes(text_file, tmp_path, one_device):
    cfg = made(text_file, pack=2).edited(["train.num_steps=0"])
    with pytest.raises(config.ConfigError, match="a pack of runs needs steps"):
        sweep.of(pretrain.JOB)(cfg, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
