"""One program per working directory."""

import os

import pytest

from kanana_jax import config
from kanana_jax.workdir import lock


def test_a_directory_in_use_is_refused_until_its_process_is_gone(tmp_path):
    with lock.held(tmp_path), pytest.raises(config.ConfigError, match=f"process {os.getpid()};"):
        lock.held(tmp_path).__enter__()
    with lock.held(tmp_path):
        lock.check(tmp_path.with_name("none"))
        with pytest.raises(config.ConfigError, match=f"in use by process {os.getpid()};"):
            lock.check(tmp_path)
    lock.check(tmp_path)
