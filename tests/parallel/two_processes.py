"""One of two processes that train together, started by test_hosts.py with (port, process)."""

import json
import sys
from pathlib import Path

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_cpu_collectives_implementation", "gloo")

sys.path.insert(0, str(Path(__file__).parent))
import test_meshes

from kanana_jax import parallel
from kanana_jax.train import loss, step

if __name__ == "__main__":
    parallel.join(f"localhost:{sys.argv[1]}", 2, int(sys.argv[2]))
    exp = test_meshes.experiment(fsdp=2, expert=2)
    mesh = parallel.make_mesh(exp.mesh)
    assert jax.process_count() == 2 and mesh.size == 4
    steps = step.build(exp, mesh)
    state, losses = steps.init(0), []
    rows = loss.DeviceBatch(*parallel.shard_batch(mesh, test_meshes.batch()))
    for _ in range(2):
        state, metrics = steps.train(state, rows, exp.optimizer.lr)
        losses.append(float(metrics["loss"]))
    print(json.dumps(losses))
