"""Disks that are full or not writable, under real processes: the run goes on, nothing is lost."""

import re
import time

import processes
import pytest

pytestmark = pytest.mark.long

SLOW_STEPS = {"STEP_S": "0.1"}  # so that the disk can be filled and freed within the run
METRICS_ONLY_BYTES = 100_000  # enough for lines of metrics, not for a checkpoint


@pytest.fixture
def start(lab, unbroken, small_disk):
    """start() -> a slow process that works on the small disk, and where it works."""

    started = []

    def fn():
        cache = f"data.cache_dir={unbroken / 'cache'}"
        started.append(lab.start(small_disk / "work", cache, **SLOW_STEPS))
        return started[-1], small_disk / "work"

    yield fn
    for process in started:
        with process:
            process.kill()


def assert_equal_to(unbroken, workdir):
    assert processes.losses(workdir) == processes.losses(unbroken)
    assert processes.hashes(workdir, 60) == processes.hashes(unbroken, 60)
    assert processes.leftovers(workdir) == []


def test_a_disk_too_full_for_the_first_checkpoint(start, unbroken, small_disk):
    """Full from step 3 to step 23 of 60: the saves at 10 and 20 fail, the one at 30 succeeds."""
    process, workdir = start()
    processes.wait_for_step(process, workdir, 3)
    processes.fill(small_disk / "filler", METRICS_ONLY_BYTES)
    processes.wait_for_step(process, workdir, 23)
    assert process.poll() is None
    assert processes.saved_steps(workdir) == processes.leftovers(workdir) == []
    (small_disk / "filler").unlink()
    processes.wait_for_step(process, workdir, 39)
    assert processes.saved_steps(workdir) == [30]
    _, shown = process.communicate(timeout=300)
    assert process.returncode == 0, shown
    assert (shown.count("save_failed"), shown.count("save_succeeded")) == (1, 1)
    assert_equal_to(unbroken, workdir)


def test_a_full_disk_stops_neither_the_run_nor_its_records(start, unbroken, small_disk):
    """The disk is full from step 12 to about step 42 of 60, metrics and checkpoints alike."""
    (process, workdir), filler = start(), small_disk / "filler"
    processes.wait_for_step(process, workdir, 12)
    for _ in range(10):  # a save that fails meanwhile gives its place back
        processes.fill(filler)
        time.sleep(0.1)
    stuck = processes.last_step(workdir)
    time.sleep(2)
    assert process.poll() is None
    assert processes.last_step(workdir) <= stuck + 8, "what fits into the last block"
    filler.unlink()
    _, shown = process.communicate(timeout=300)
    assert process.returncode == 0, shown
    assert shown.count("storage_failed") == 1
    assert_equal_to(unbroken, workdir)


@pytest.mark.parametrize("leave_bytes", [METRICS_ONLY_BYTES, 0])
def test_a_disk_full_at_the_end_ends_the_run_unfinished(start, unbroken, small_disk, leave_bytes):
    """The last checkpoint, or metrics and result too, cannot be written; a second run does it."""
    (process, workdir), filler = start(), small_disk / "filler"
    processes.wait_for_step(process, workdir, 52)
    processes.fill(filler, leave_bytes)
    _, shown = process.communicate(timeout=300)
    assert process.returncode == 4, shown
    assert re.match("kanana_jax: .*free space", shown.splitlines()[-1]), shown
    assert processes.saved_steps(workdir)[-1] == 50
    assert processes.leftovers(workdir) == []
    assert not (workdir / "run" / "result.json").exists()
    filler.unlink()
    process, _ = start()
    _, shown = process.communicate(timeout=300)
    assert process.returncode == 0, shown
    assert_equal_to(unbroken, workdir)


def test_a_directory_read_only_for_a_while_costs_no_step(start, unbroken):
    """From step 12 to step 32 of 60: the saves at 20 and 30 fail, the one at 40 succeeds."""
    process, workdir = start()
    processes.wait_for_step(process, workdir, 12)
    with processes.read_only(workdir):
        processes.wait_for_step(process, workdir, 32)
        assert process.poll() is None
        assert processes.saved_steps(workdir) == [10]
    _, shown = process.communicate(timeout=300)
    assert process.returncode == 0, shown
    assert (shown.count("save_failed"), shown.count("save_succeeded")) == (1, 1)
    assert "Read-only file system" in shown
    assert_equal_to(unbroken, workdir)


def test_a_directory_that_is_read_only_from_the_start_is_one_line(lab, unbroken, small_disk):
    folder = small_disk / "work"
    folder.mkdir()
    with processes.read_only(folder):
        code, shown = lab.run(folder, f"data.cache_dir={unbroken / 'cache'}")
    assert code == 4, shown
    assert "Read-only file system" in shown and "Traceback" not in shown
    assert list(folder.iterdir()) == []
