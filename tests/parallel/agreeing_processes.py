"""One of two processes that agree without training, started by test_hosts.py with a folder.

Prints, as JSON, what this process saw.
"""

import json
import os
import sys
import traceback
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from kanana_jax import checkpoint, config, parallel
from kanana_jax.checkpoint import shards
from kanana_jax.workdir import lock


def _message(fn) -> str:
    try:
        fn()
    except config.ConfigError as error:
        return str(error)
    return ""


def _raise_on(process: int):
    def fn():
        if jax.process_index() == process:
            raise config.ConfigError("it is mine")

    return fn


def agreement(folder: Path) -> dict:
    mine = jax.process_index()
    is_set = parallel.AnyProcess()
    asked = [is_set(mine == 1 and number == 2) for number in range(5)]
    made = folder / "made"
    parallel.first_then_others(lambda: made.write_text("1") if mine == 0 else made.read_text())
    lock_folder = folder if mine == 0 else folder / "elsewhere"
    lock._NETWORK_DELAY_S = 0.3
    return {
        "everyones": parallel.everyones([mine, "x" * 100 * mine]),
        "asked": asked,
        "raised": _message(lambda: parallel.together(_raise_on(1))),
        "lock": _message(lambda: lock.held(lock_folder).__enter__()),
    }


def batch(mesh) -> dict:
    whole = np.arange(8 * 3).reshape(8, 3)
    rows = parallel.local_rows(mesh, 8)
    placed = parallel.shard_batch(mesh, whole[rows], 8)
    equal = jax.jit(lambda x: (x == whole).all(), out_shardings=NamedSharding(mesh, P()))
    return {"rows": rows, "is_whole_batch": bool(equal(placed))}


def checkpoints(mesh, folder: Path) -> dict:
    spread, copied = (NamedSharding(mesh, P(*axes)) for axes in (["data"], []))
    shape = (jax.ShapeDtypeStruct((8, 4), np.float32, sharding=spread),)
    like = {"spread": shape[0], "copied": jax.ShapeDtypeStruct((), np.int32, sharding=copied)}

    def state(step):
        numbers = {"spread": np.arange(32, dtype=np.float32).reshape(8, 4) * step, "copied": step}
        return jax.tree.map(
            lambda x, y: jax.make_array_from_callback(
                x.shape, x.sharding, lambda index: np.asarray(y, x.dtype)[index]
            ),
            like,
            numbers,
        )

    events, write = [], shards.write
    report = lambda kind, message: events.append([kind, message])  # noqa: E731
    with checkpoint.Checkpoints(folder / "checkpoints", keep=3, report=report) as saved:
        written = {path: len(share.chunks) for path, share in shards.copy(state(1)).items()}
        saved.save(1, state(1), {"step": 1})
        saved.wait()
        if jax.process_index() == 1:
            shards.write = _full
        saved.save(2, state(2), {"step": 2})
        saved.wait()
        shards.write = write
        saved.save(3, state(3), {"step": 3})
        saved.wait()
        parallel.everyones("process 0 has committed")
        on_disk = saved.steps()
        if jax.process_index() == 1:  # a chunk that process 1 alone reads
            (folder / "checkpoints/3/state/spread/3.0").write_bytes(bytes(32))
        parallel.everyones("process 1 has damaged")
        found = saved.restore_latest(like)
    assert found is not None
    same = jax.tree.map(
        lambda x, y: [np.array_equal(a.data, b.data) for a, b in _pairs(x, y)],
        found.state,
        state(found.step),
    )
    return {
        "written": written,
        "on_disk": on_disk,
        "step": found.step,
        "notes": found.notes,
        "is_same": all(jax.tree.leaves(same)),
        "events": events,
    }


def _full(*_):
    raise OSError(28, "No space left on device")


def _pairs(x, y):
    return zip(x.addressable_shards, y.addressable_shards, strict=True)


def main(folder: Path) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    parallel.join(os.environ)
    mesh = parallel.make_mesh(config.MeshConfig())
    print(json.dumps(agreement(folder) | batch(mesh) | checkpoints(mesh, folder)))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except Exception:
        traceback.print_exc()
        os._exit(1)  # at its exit JAX would wait for the other, which waits for this process
