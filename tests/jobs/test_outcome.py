"""How a run ended, and bits per byte of held-out text."""

import io
import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from kanana_jax.jobs import heldout, outcome
from kanana_jax.report import metrics, progress, results
from kanana_jax.train import fit
from kanana_jax.workdir import Run, StopRequest, StorageError, Work, opened

_FLAT = np.full(60, 2.0)


@pytest.mark.parametrize(
    ("losses", "is_diverged"),
    [
        ([5.5], False),
        ([5.5, 6.5], False),
        (_FLAT, False),
        ([0.1, *_FLAT], False),  # an easy first batch
        ([*_FLAT, 40.0], False),  # a hard last one
        (np.linspace(2.0, 2.2, 60), False),
        (np.linspace(2.0, 3.0, 60), True),
        (np.linspace(5.5, 2.0, 60), False),
        ([5.5, *np.full(59, 90.0)], True),  # broke at the second step
        ([5.5, *np.full(11, 90.0)], True),
        ([5.5, *np.full(59, np.nan)], True),
        ([], False),
    ],
)
def test_diverged_is_an_end_well_above_the_start(losses, is_diverged):
    assert outcome.is_diverged(np.array(losses, float), 258) == is_diverged


@hypothesis.given(st.lists(st.floats(0.5, 20.0), min_size=3, max_size=8), st.integers(1, 90))
def test_a_flat_loss_is_not_diverged_whichever_batches_it_is_of(kinds, num_steps):
    """Batches of a few kinds, in any order: what comes first says nothing about training."""
    order = np.random.default_rng(num_steps).integers(len(kinds), size=num_steps)
    losses = np.array(kinds)[order]
    apart = losses[-10:].min() > losses[:10].max() and num_steps >= 20
    assert apart or not outcome.is_diverged(losses, 2**15)


@pytest.fixture
def written(cfg, tmp_path):
    """written(outcome, records) -> the result of a run that recorded these steps."""

    def write(ended, records, saved=(12,)):
        for step in saved:
            folder = tmp_path / "checkpoints" / str(step)
            folder.mkdir(parents=True)
            (folder / "manifest.json").write_text("{}")
        with metrics.MetricsWriter(tmp_path) as writer:
            for step, record in enumerate(records, start=1):
                writer.write(step, record)
        run = Run({"arm": "arm", "seed": 3}, cfg.with_vocab(258), tmp_path)
        bar = progress.Progress("", num_steps=12, file=io.StringIO())
        with opened(run, StopRequest(), bar, [Work(tokens=256)]) as folder:
            outcome.write(folder, ended, run, "text-1")
        return results.load(tmp_path)

    return write


def test_a_finished_run_that_was_taken_over_has_a_result(written):
    """All its metrics are on the machine that is gone."""
    found = written(fit.Outcome("ok", 12), [])
    assert found.status == "ok" and math.isnan(found.value("final_loss"))
    assert found.axes == {"arm": "arm", "seed": 3}


def test_values_are_the_last_of_a_measurement_and_the_middle_of_a_speed(written):
    records = [
        {
            "loss": 4.0 - 0.25 * step,
            "heldout_bpb": 9.0 - step,
            "heldout_nats": np.full(2, float(step)),
            "seconds": 2.0 * step,
            "goodput": 0.5 + 0.01 * step,
            "seconds_saving": 0.1 * step,
            "tokens_per_second": [1.0, 50.0, 3.0][step % 3],
        }
        for step in range(12)
    ]
    found = written(fit.Outcome("ok", 12), records)
    assert found.value("initial_loss") == 4.0
    assert found.value("final_loss") == pytest.approx(np.mean([r["loss"] for r in records[-10:]]))
    assert found.value("heldout_bpb") == -2.0
    assert "heldout_nats" not in found.values
    assert found.value("goodput") == pytest.approx(0.61)
    assert found.value("seconds_saving") == pytest.approx(1.1)
    assert found.value("tokens_per_second") == 3.0
    assert found.values["heldout_text"] == "text-1, 8 sequences of 32"
    assert (found.seconds, found.steps, found.diverged) == (22.0, 12, False)


def test_a_run_without_its_last_checkpoint_has_no_result(written, tmp_path):
    with pytest.raises(StorageError, match="of step 12, could not be written"):
        written(fit.Outcome("ok", 12), [{"loss": 1.0}], saved=(8,))
    assert not (tmp_path / results.RESULT_NAME).exists()


def test_a_run_that_diverged_says_at_which_step(written):
    found = written(fit.Outcome("diverged", 5), [{"loss": 1.0}] * 5, saved=())
    assert (found.status, found.diverged_step) == ("diverged", 5)


def test_losses_of_skipped_steps_are_no_divergence(written, cfg):
    assert cfg.guard.enabled
    found = written(fit.Outcome("ok", 12), [{"loss": 2.0}] * 11 + [{"loss": math.nan}])
    assert not found.diverged and found.value("final_loss") == 2.0


@pytest.mark.parametrize(
    ("beside", "status"), [({}, "diverged"), ({"round_reward": 0.5}, "ok")], ids=["text", "rounds"]
)
def test_losses_of_rounds_are_of_other_data_each(written, beside, status):
    losses = np.linspace(0.1, 2.0, 24)
    found = written(fit.Outcome("ok", 12), [{"loss": float(x), **beside} for x in losses])
    assert found.status == status


def test_held_out_bits_per_byte_are_nats_over_bytes():
    nats, num_bytes = np.array([2.0, 4.0, 6.0]), np.array([2.0, 2.0, 4.0])
    found = heldout.summarize([(nats[:2], num_bytes[:2]), (nats[2:], num_bytes[2:])])
    assert found["heldout_bpb"] == pytest.approx(12.0 / 8.0 / math.log(2))
    residual = nats - 1.5 * num_bytes
    stderr = math.sqrt(3 * np.var(residual, ddof=1)) / 8.0 / math.log(2)
    assert found["heldout_bpb_stderr"] == pytest.approx(stderr)
    padded = heldout.summarize([(nats, num_bytes), (np.zeros(2), np.zeros(2))])
    assert padded["heldout_bpb_stderr"] == found["heldout_bpb_stderr"]
    np.testing.assert_array_equal(padded["heldout_nats"], nats)
