"""Several processes on one machine, with real collectives between them."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import test_meshes

from kanana_jax import config, parallel

ROOT = Path(__file__).parents[2]
ALL = {"JAX_COORDINATOR_ADDRESS": "localhost:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}


@pytest.fixture
def initialized(monkeypatch):
    """The arguments with which JAX was asked to join."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args: calls.append(args))
    monkeypatch.setattr(jax.config, "update", lambda *args: None)
    return calls


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (ALL | {"JAX_PROCESS_ID": "2"}, r"JAX_PROCESS_ID must lie in \[0, .*= 2\), got 2"),
        (ALL | {"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES must be a whole number, got 'two'"),
        ({"JAX_COORDINATOR_ADDRESS": "localhost:1"}, "got None and None; give every process"),
        ({"JAX_NUM_PROCESSES": "2"}, "need JAX_COORDINATOR_ADDRESS=host:port"),
    ],
)
def test_variables_that_do_not_fit_are_refused(environ, message, initialized):
    with pytest.raises(config.ConfigError, match=message):
        parallel.join(environ)
    assert initialized == []


SLURM = {"SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "2", "SLURM_PROCID": "1"}


@pytest.mark.parametrize(
    ("environ", "arguments"),
    [
        ({}, []),
        (ALL, [("localhost:1", 2, 1)]),
        (ALL | {"JAX_NUM_PROCESSES": "1"}, []),
        (SLURM, [(None, None, None)]),
        (SLURM | {"JAX_COORDINATOR_ADDRESS": "node9:1"}, [("node9:1", None, None)]),
        (SLURM | {"JAX_NUM_PROCESSES": "1"}, []),
        (SLURM | {"SLURM_NTASKS": "1"}, []),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, []),  # the batch script, outside of srun
        ({"OMPI_COMM_WORLD_SIZE": "4"}, [(None, None, None)]),
    ],
)
def test_who_is_started_as_one_of_several_joins(environ, arguments, initialized):
    parallel.join({"JAX_PLATFORMS": "cpu"} | environ)
    assert initialized == arguments


def test_a_tpu_slice_is_joined_and_libtpu_without_a_tpu_is_not(initialized, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    parallel.join({"JAX_PLATFORMS": "cpu"})
    assert initialized == []
    parallel.join({})
    assert initialized == [(None, None, None)]

    def find_nothing(*_):  # what jax says where it detects no cluster
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", find_nothing)
    parallel.join({})
    with pytest.raises(config.ConfigError, match="do not find each other"):
        parallel.join(SLURM)


def test_jax_says_the_same_where_it_detects_no_cluster():
    """On a machine of its own; `join` tells it from a failure by these words."""
    code = "import jax; jax.distributed.initialize()"
    environ = {"PATH": "", "TPU_SKIP_MDS_QUERY": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=120
    )
    assert "ValueError: coordinator_address should be defined" in answer.stderr


def _run_two(script: str, *arguments: str) -> list[dict]:
    """What two processes of a script beside this file print last."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    started = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name(script)), *arguments],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={
                "PYTHONPATH": str(ROOT),
                "PATH": "",
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(process),
            },
        )
        for process in range(2)
    ]
    until = time.monotonic() + 300
    try:
        while any(process.poll() is None for process in started):
            assert not any(process.poll() for process in started), "one failed, the other waits"
            assert time.monotonic() < until, "they wait for each other"
            time.sleep(0.1)
        outputs = [process.communicate()[0] for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
            process.stdout.close()
    assert [process.returncode for process in started] == [0, 0]
    return [json.loads(output.splitlines()[-1]) for output in outputs]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return _run_two("agreeing_processes.py", str(tmp_path_factory.mktemp("two")))


def test_everyone_learns_what_everyone_has(two):
    for one in two:
        assert one["everyones"] == [[0, ""], [1, "x" * 100]]
        # Process 1 asked at the third call; the fourth tells everyone.
        assert one["asked"] == [False, False, False, True, False]


def test_what_one_process_finds_wrong_all_raise(two):
    assert [one["raised"] for one in two] == ["process 1 of 2: it is mine", "it is mine"]
    for one in two:
        assert "elsewhere must be one folder for all processes" in one["lock"]


def test_a_process_has_the_rows_of_its_devices(two):
    assert [one["rows"] for one in two] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert all(one["is_whole_batch"] for one in two)


def test_each_process_writes_its_own_shards_and_copies_are_written_once(two):
    assert [one["written"] for one in two] == [
        {"copied": 1, "spread": 2},
        {"copied": 0, "spread": 2},
    ]


def test_a_save_that_failed_on_one_process_is_no_checkpoint(two):
    for one in two:
        assert one["on_disk"] == [1, 3]
    kinds = [kind for kind, _ in two[0]["events"]]
    assert kinds == ["save_failed", "save_succeeded", "checkpoint_unusable"]
    assert "process 1: [Errno 28] No space left" in two[0]["events"][0][1]
    assert two[1]["events"] == []


def test_damage_that_one_process_finds_makes_all_go_back(two):
    for one in two:
        assert (one["step"], one["notes"], one["is_same"]) == (1, {"step": 1}, True)


@pytest.mark.long
def test_two_processes_give_the_losses_of_one():
    first, second = _run_two("two_processes.py")
    assert first == second
    records, _ = test_meshes.run(test_meshes.configuration(), 1)
    np.testing.assert_allclose(first, [record["loss"] for record in records], rtol=1e-5)
