"""Real processes and real signals: nothing is lost, nothing differs."""

import re
import signal
import time

import processes

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
