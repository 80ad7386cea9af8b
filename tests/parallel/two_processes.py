"""One of two processes that train together, started by test_hosts.py."""

import json
import os

import jax
import test_meshes

from kanana_jax import parallel


def losses() -> list[float]:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    parallel.join(os.environ)
    cfg = test_meshes.configuration(fsdp=2, expert=2)
    mesh = parallel.make_mesh(cfg.mesh)
    assert jax.process_count() == 2 and mesh.size == 4
    steps = test_meshes.build(cfg, mesh)
    state, found = steps.init(0), []
    mine = parallel.local_rows(mesh, test_meshes.BATCH)
    batch = jax.tree.map(lambda x: x[mine], test_meshes.batch())
    rows = parallel.shard_batch(mesh, batch, test_meshes.BATCH)
    for _ in range(2):
        state, metrics = steps.train(state, rows, cfg.optimizer.lr, {})
        found.append(float(metrics["loss"]))
    return found


if __name__ == "__main__":
    print(json.dumps(losses()))
