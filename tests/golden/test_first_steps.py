"""The first steps of the tiny model do not change unless a commit says why.

To renew after an intended change: python tests/golden/test_first_steps.py > tests/golden/tiny.json
"""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np

from kanana_jax import config, parallel
from kanana_jax.batch import Batch
from kanana_jax.model import presets
from kanana_jax.objectives import NextToken
from kanana_jax.train import step_functions
from kanana_jax.train.step_config import StepConfig

GOLDEN = Path(__file__).with_name("tiny.json")
# Between the supported jax versions the losses differ by a few float32 roundings per step; a
# wrong sign or a lost factor is off by orders of magnitude more.
RTOL = 2e-5


def first_steps(num_steps: int = 5) -> dict[str, list[float]]:
    """Five MuonClip steps of the tiny preset on fixed tokens, one device, every head clipping."""
    cfg = StepConfig(
        model=dataclasses.replace(presets.tiny(256), num_layers=2),
        execution=config.ExecutionConfig(compute_dtype="float32"),
        optimizer=config.OptimizerConfig(tau=0.02, polar_dtype="float32"),
        guard=config.GuardConfig(),
        objective=NextToken(z_weight=5e-6),
        num_steps=num_steps,
        batch_size=4,
        seq_len=64,
        balance_loss_weight=1e-4,
        router_bias_rate=1e-3,
    )
    mesh = parallel.make_mesh(config.MeshConfig(), jax.devices()[:1])
    steps = step_functions.build(cfg, mesh)
    state = steps.init(0)
    tokens = np.random.default_rng(0).integers(0, 256, (4, 65), dtype=np.int32)
    batch = parallel.shard_batch(mesh, Batch.of_tokens(tokens))
    records = []
    for _ in range(num_steps):
        state, record = steps.train(state, batch, 0.01, {})
        records.append(jax.device_get(record))
    names = ("loss", "max_logit", "update_rms", "clip_count")
    return {name: [float(record[name]) for record in records] for name in names}


def test_first_steps_are_those_recorded():
    golden = json.loads(GOLDEN.read_text())
    found = first_steps()
    assert min(golden["clip_count"]) > 0
    for name, values in golden.items():
        np.testing.assert_allclose(found[name], values, rtol=RTOL, err_msg=name)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    print(json.dumps(first_steps(), indent=1))
