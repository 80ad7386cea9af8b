"""Real processes and real signals: nothing is lost, nothing differs."""

import re
import shutil
import signal
import time

import numpy as np
import processes
import pytest

from kanana_jax.report import metrics

pytestmark = pytest.mark.long

SLOW_STEPS = {"STEP_S": "0.05"}  # so that a signal lands within the run


def test_a_run_that_was_stopped_and_killed_equals_an_unbroken_one_bit_for_bit(
    lab, unbroken, tmp_path
):
    """Also: a second process is refused meanwhile, and SIGTERM saves the step it came in."""
    process = lab.start(tmp_path, **SLOW_STEPS)
    processes.wait_for_step(process, tmp_path, 3)
    process.send_signal(signal.SIGSTOP)
    code, shown = lab.run(tmp_path)
    assert code == 2
    assert re.search(rf"in use by process {process.pid};", shown)

    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    code, shown = processes.send(process, signal.SIGCONT)
    assert code == 0, shown
    assert time.monotonic() - began < 30
    stopped = processes.last_step(tmp_path)
    assert 3 <= stopped < 40
    assert processes.saved_steps(tmp_path)[-1] == stopped

    process = lab.start(tmp_path, **SLOW_STEPS)
    processes.wait_for_step(process, tmp_path, stopped + 9)
    assert processes.send(process, signal.SIGKILL)[0] == -signal.SIGKILL
    code, shown = lab.run(tmp_path)
    assert code == 0, shown
    assert processes.losses(tmp_path) == processes.losses(unbroken)
    assert processes.hashes(tmp_path, 60) == processes.hashes(unbroken, 60)


def test_a_damaged_token_store_is_built_anew_and_the_run_says_so(lab, unbroken, tmp_path):
    """The run goes on from its last checkpoint but one, on the same tokens."""
    shutil.copytree(unbroken, tmp_path / "work")
    (tmp_path / "work" / "run" / "result.json").unlink()
    shutil.rmtree(tmp_path / "work" / "run" / "checkpoints" / "60")
    (store,) = (tmp_path / "work" / "cache").glob("tokens-*/0-train-tokens/c/0")
    store.write_bytes(store.read_bytes()[:-1])
    code, shown = lab.run(tmp_path / "work")
    assert code == 0, shown
    assert re.search("token store .* is damaged: .*; it is built anew from the text", shown)
    assert processes.losses(tmp_path / "work") == processes.losses(unbroken)
    assert processes.hashes(tmp_path / "work", 60) == processes.hashes(unbroken, 60)


def test_exit_code_3_when_no_checkpoint_is_left(lab, unbroken, tmp_path):
    shutil.copytree(unbroken, tmp_path / "work")
    run = tmp_path / "work" / "run"
    (run / "result.json").unlink()
    for path in run.glob("checkpoints/*/manifest.json"):
        path.unlink()
    code, shown = lab.run(tmp_path / "work")
    assert code == 3, shown
    assert shown.count("checkpoint_unusable") == 2
    assert "Traceback" not in shown


def test_nan_at_steps_50_51_and_150_costs_these_steps_and_no_other(lab, tmp_path):
    code, shown = lab.run(tmp_path, "train.num_steps=200", POISON="50,51,150")
    assert code == 0, shown
    assert processes.events(tmp_path) == ["step_skipped"] * 3
    columns = metrics.read_metrics(tmp_path / "run" / "metrics.jsonl")
    steps_N, loss_N = columns["loss"]
    np.testing.assert_array_equal(steps_N, np.arange(1, 201))
    assert steps_N[~np.isfinite(loss_N)].tolist() == [50, 51, 150]
    assert np.all(np.isfinite(columns["heldout_bpb"].values_N))
    assert np.nanmean(loss_N[-20:]) < 0.5 * loss_N[0]


def test_eight_devices_continue_what_one_began(lab, unbroken, tmp_path):
    """The mesh is a setting: changing it must be allowed by name. Losses equal to rounding."""
    process = lab.start(tmp_path, STEP_S="0.05")
    processes.wait_for_step(process, tmp_path, 25)
    assert processes.send(process, signal.SIGTERM)[0] == 0
    began = processes.last_step(tmp_path)
    code, shown = lab.run(tmp_path, "mesh.data=2", DEVICES="8")
    assert code == 2
    assert "mesh.data: 1 -> 2" in shown
    code, shown = lab.run(tmp_path, "mesh.data=2", "resume.allow=mesh", DEVICES="8")
    assert code == 0, shown
    assert "resharded" in processes.events(tmp_path)
    found, wanted = (
        metrics.read_metrics(one / "run" / "metrics.jsonl")["loss"].values_N
        for one in (tmp_path, unbroken)
    )
    np.testing.assert_array_equal(found[:began], wanted[:began])
    # A few steps only: top-k routing turns rounding into other experts before long.
    np.testing.assert_allclose(found[began : began + 3], wanted[began : began + 3], rtol=1e-3)
