"""Several processes on one machine, with real collectives between them."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import test_meshes

from kanana_jax import config, parallel


def test_a_process_beyond_the_last_is_refused():
    with pytest.raises(config.ConfigError, match=r"--process_id must lie in \[0, .*= 2\), got 2"):
        parallel.join("localhost:1", 2, 2)


@pytest.mark.long
def test_two_processes_give_the_losses_of_one():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    script = Path(__file__).with_name("two_processes.py")
    started = [
        subprocess.Popen(
            [sys.executable, str(script), port, str(process)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""},
        )
        for process in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=540)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    first, second = (json.loads(output.splitlines()[-1]) for output in outputs)
    assert first == second
    records, _ = test_meshes.run(test_meshes.experiment(), 1)
    np.testing.assert_allclose(first, [record["loss"] for record in records], rtol=1e-5)
