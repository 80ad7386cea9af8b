"""The folder of a run counts the time of the processes that worked on it."""

import io
import time

import pytest
import tiny_jobs

from kanana_jax.report import progress
from kanana_jax.workdir import Run, StopRequest, Work, opened


def _opened(cfg, directory):
    bar = progress.Progress("", num_steps=12, file=io.StringIO())
    return opened(Run({}, cfg, directory), StopRequest(), bar, [Work(tokens=1)])


def test_only_what_an_earlier_process_did_in_vain_is_lost(cfg, tmp_path):
    with pytest.raises(tiny_jobs.Killed), _opened(cfg, tmp_path) as first:
        time.sleep(0.6)  # longer than the file that says so waits
        first.begin(0)
        assert first.clock.metrics()["seconds_lost"] == 0.0
        assert first.clock.metrics()["seconds_starting"] >= 0.6
        time.sleep(0.6)
        raise tiny_jobs.Killed
    with _opened(cfg, tmp_path) as second:
        second.begin(0)
        told = second.clock.metrics()
    assert 1.0 < told["seconds_lost"] <= told["seconds"]
