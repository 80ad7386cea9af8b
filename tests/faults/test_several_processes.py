"""Several processes as one program: killed, stopped and continued by another number of them."""

import json
import re
import signal
import time

import numpy as np
import object_store
import processes
import pytest

from kanana_jax.report import metrics

pytestmark = pytest.mark.long

SLOW_STEPS = {"STEP_S": "0.2"}  # so that a signal lands within the run
SHORT = ("train.num_steps=16", "train.checkpoint_interval_steps=4", "train.eval_interval_steps=8")


def _losses(workdir):
    return metrics.read_metrics(workdir / "run" / "metrics.jsonl")["loss"].values_N


def _rows(folder):
    """(batch, row) -> the hashes under which it was loaded, and the processes that loaded it."""
    found = {}
    for path in folder.iterdir():
        for line in path.read_text().splitlines():
            batch, row, tokens = line.split()
            hashes, loaders = found.setdefault((int(batch), int(row)), (set(), []))
            hashes.add(tokens)
            loaders.append(path.name)
    return found


def test_two_processes_are_killed_four_go_on_and_one_ends_what_one_alone_does(lab, tmp_path):
    """2 x 2 devices, 4 x 2, 1 x 2, against one process with one device and no interruption."""
    alone, workdir = tmp_path / "alone", tmp_path / "work"
    rows = [tmp_path / name for name in ("rows_alone", "rows")]
    for folder in rows:
        folder.mkdir()
    code, shown = lab.run(alone, *SHORT, "mesh.fsdp=1", ROWS=str(rows[0]))
    assert code == 0, shown
    edits = (*SHORT, "mesh.data=-1", "mesh.fsdp=2")
    slow = SLOW_STEPS | {"DEVICES": "2", "ROWS": str(rows[1])}

    for num_processes, step in ((2, 4), (4, 8)):
        started = lab.start_several(num_processes, workdir, *edits, **slow)
        processes.wait_for_checkpoint(started[0], workdir, step)
        for process in started:
            process.send_signal(signal.SIGKILL)
        ended = processes.ends(started)
        assert [code for code, _ in ended] == [-signal.SIGKILL] * num_processes, ended
    assert processes.saved_steps(workdir)[-1] < 16

    code, shown = lab.run(workdir, *edits, DEVICES="2", ROWS=str(rows[1]))
    assert code == 0, shown
    assert processes.events(workdir) == ["resharded"] * 2

    differences = np.abs(_losses(workdir) / _losses(alone) - 1)
    print("largest relative difference of a loss:", differences.max())
    assert len(differences) == 16
    np.testing.assert_array_less(differences, 1e-5)
    wanted, found = map(_rows, rows)
    assert {place: hashes for place, (hashes, _) in found.items() if place in wanted} == {
        place: hashes for place, (hashes, _) in wanted.items()
    }
    for loaders in (loaders for (batch, _), (_, loaders) in found.items() if batch <= 4):
        assert len([name for name in loaders if name.startswith("2-")]) == 1
    sessions = (workdir / "sessions.jsonl").read_text().splitlines()
    devices = [json.loads(line)["device"] for line in sessions]
    assert [device.partition(" x ")[0] for device in devices] == ["4", "8", "2"]
    assert "4 processes" in devices[1]


STORE = f"s3://{object_store.BUCKET}/a"


def _finished(server):
    """Steps whose checkpoint exists in the store."""
    names = [key.partition("/marks/finished/")[2] for key in tuple(server.objects)]
    return sorted(int(name.partition("-")[0]) for name in names if name)


def test_two_processes_that_save_into_a_store_are_killed_and_one_goes_on(lab, tmp_path):
    alone, workdir = tmp_path / "alone", tmp_path / "work"
    code, shown = lab.run(alone, *SHORT, "mesh.fsdp=1")
    assert code == 0, shown
    edits = (*SHORT, "mesh.data=-1", "mesh.fsdp=2", f"train.checkpoint_dir={STORE}")
    with object_store.served() as server:
        several = server.environment() | {"DEVICES": "2"}
        started = lab.start_several(2, workdir, *edits, **several, **SLOW_STEPS)
        processes.wait_until(started[0], lambda: bool(_finished(server)))
        for process in started:
            process.send_signal(signal.SIGKILL)
        processes.ends(started)
        assert _finished(server)[-1] < 16
        code, shown = lab.run(workdir, *edits, **several)
        assert code == 0, shown
        assert _finished(server)[-1] == 16
    assert processes.events(workdir) == ["resharded"]
    np.testing.assert_allclose(_losses(workdir), _losses(alone), rtol=1e-5)


def test_a_store_that_refuses_what_one_process_saves_stops_none_of_them(lab, tmp_path):
    """The last quarter of a weight, which process 1 writes at step 4."""
    refused = re.compile(r"/run/4-.*/params/.*/wq/0\.3\.0\.0")
    with object_store.served() as server:
        server.before = lambda method, key: 403 if refused.search(key) else None
        started = lab.start_several(
            2,
            tmp_path,
            *SHORT,
            f"train.checkpoint_dir={STORE}",
            DEVICES="2",
            **server.environment(),
            **SLOW_STEPS,
        )
        ended = processes.ends(started)
        assert [code for code, _ in ended] == [0, 0], ended
        assert _finished(server) == [12, 16]  # train.keep_checkpoints of those that succeeded
    assert processes.events(tmp_path) == ["save_failed", "save_succeeded"]
    assert processes.last_step(tmp_path) == 16


def test_a_signal_to_one_process_stops_all_at_one_step(lab, tmp_path):
    started = lab.start_several(2, tmp_path, DEVICES="2", **SLOW_STEPS)
    processes.wait_for_step(started[0], tmp_path, 2)
    started[1].send_signal(signal.SIGTERM)
    ended = processes.ends(started)
    assert [code for code, _ in ended] == [0, 0], ended
    stopped = processes.last_step(tmp_path)
    assert 2 <= stopped < 50
    assert processes.saved_steps(tmp_path)[-1] == stopped
    assert processes.events(tmp_path) == ["stopped"]
    assert processes.num_sessions(tmp_path) == 1


def test_a_signal_before_the_first_step_stops_all(lab, tmp_path):
    started = lab.start_several(2, tmp_path, DEVICES="2")
    processes.wait_for_session(started[0], tmp_path, 1)
    started[1].send_signal(signal.SIGTERM)
    ended = processes.ends(started)
    assert [code for code, _ in ended] == [0, 0], ended
    assert processes.last_step(tmp_path) < 60


def test_bad_data_of_one_process_makes_all_skip_and_go_back(lab, tmp_path):
    """Batches 23, 24 and 25 are NaN in the rows of process 1; process 0 sees good ones."""
    poison = ({}, {"POISON": "23,24,25"})
    started = [
        lab.start(tmp_path, "train.num_steps=40", DEVICES="2", **place, **bad)
        for place, bad in zip(processes.joined(2), poison, strict=True)
    ]
    ended = processes.ends(started)
    assert [code for code, _ in ended] == [0, 0], ended
    assert processes.events(tmp_path) == ["step_skipped"] * 3 + ["rewind"]
    columns = metrics.read_metrics(tmp_path / "run" / "metrics.jsonl")
    steps_N, left_out = columns["skipped_batches"]
    np.testing.assert_array_equal(steps_N, np.arange(1, 41))
    # Back to the checkpoint at step 20: step 21 reads batch 26, behind the last bad one.
    np.testing.assert_array_equal(left_out, np.where(steps_N > 20, 5, 0))
    assert np.all(np.isfinite(columns["loss"].values_N))


def test_when_one_process_dies_the_others_do_not_wait_for_ever(lab, tmp_path):
    """And what they had saved is there to continue from."""
    started = lab.start_several(2, tmp_path, DEVICES="2", **SLOW_STEPS)
    processes.wait_for_checkpoint(started[0], tmp_path, 10)
    began = time.monotonic()
    started[1].send_signal(signal.SIGKILL)
    ended = processes.ends(started)
    print(f"the other ended after {time.monotonic() - began:.0f} s with code {ended[0][0]}")
    assert ended[0][0] != 0
    assert processes.saved_steps(tmp_path)[-1] >= 10
    assert not (tmp_path / "run" / "result.json").exists()


def test_processes_that_were_started_differently_are_all_refused(lab, tmp_path):
    started = [
        lab.start(tmp_path / "a", f"train.num_steps={number}", **environment)
        for number, environment in zip((7, 8), processes.joined(2), strict=True)
    ]
    ended = processes.ends(started)
    assert [code for code, _ in ended] == [2, 2], ended
    for _, shown in ended:
        assert "settings of process 0, got train.num_steps: 7 -> 8" in shown
    assert not (tmp_path / "a").exists()
