"""What FP8 does to gradients and to Muon's updates: the figures of kanana_jax.fp8_check."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import fp8_parity
from kanana_jax import config, fp8_check, optim, parallel
from kanana_jax.batch import Batch
from kanana_jax.jobs import training
from kanana_jax.model import presets
from kanana_jax.train import step_functions
from kanana_jax.train.step_config import StepConfig

MATRIX = optim.MatrixSpec(rows=(-2,), cols=(-1,))


def test_errors_and_cosines_are_those_of_each_layer():
    """Of matrices in layers; embeddings and norms are left out."""
    specs = {"embed": None, "moe_layers": {"gain": None, "w": MATRIX}}

    def tree(*layers):
        return {
            "embed": np.ones((3, 2)),
            "moe_layers": {"gain": np.ones((2, 2)), "w": np.array(layers, np.float32)},
        }

    grads, steps = tree([[3.0, 4.0]], [[1.0, 0.0]]), tree([[1.0, 0.0]], [[1.0, 1.0]])
    other = tree([[3.0, 4.5]], [[0.0, 0.0]]), tree([[0.0, 2.0]], [[1.0, 0.0]])
    found = list(fp8_check._compared("fp8", specs, (grads, steps), other))
    assert [one[:3] for one in found] == [("fp8", "moe_layers/w", 0), ("fp8", "moe_layers/w", 1)]
    np.testing.assert_allclose([one.error for one in found], [0.1, 1.0], rtol=1e-6)
    np.testing.assert_allclose([one.cosine for one in found], [0.0, 0.5**0.5], atol=1e-6)
    assert "55.00% 0.354" in fp8_check.text(found)


@pytest.mark.long
def test_fp8_moves_what_it_rounds_and_the_control_moves_all(monkeypatch):
    monkeypatch.setattr(fp8_check, "PRECISIONS", ("fp8_experts", "fp8"))
    cfg = fp8_parity.experiment().base
    cfg = dataclasses.replace(
        cfg.with_vocab(64),
        model=dataclasses.replace(presets.tiny(64), num_layers=2),
        data=config.DataConfig(seq_len=32, batch_size=2),
        mesh=config.MeshConfig(data=1, fsdp=1),
    )
    random = np.random.default_rng(0)

    def batch():
        return Batch.of_tokens(random.integers(0, 64, (2, 33), dtype=np.int32))

    mesh = parallel.make_mesh(cfg.mesh, jax.devices()[:1])
    step = StepConfig.of(cfg, training.next_token(cfg))
    weights = step_functions.build(step, mesh).weights(0)
    with jax.set_mesh(mesh):
        found = list(fp8_check.measure(step, weights, (batch(), batch())))
    errors = {(one.arm, one.weight): one.error for one in found}
    weights = {one.weight for one in found}
    assert {"dense_layers/attention/wo", "moe_layers/mlp/w_down"} <= weights
    for weight in weights:
        assert errors[fp8_check.OTHER_BATCH, weight] > 0.5
        assert 0 < errors["fp8", weight] < 0.5
    # Rounded experts reach the gradients of attention only through the stream.
    apart = "dense_layers/attention/wo"
    assert errors["fp8_experts", apart] < 0.3 * errors["fp8", apart]


def test_a_folder_that_is_no_run_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        fp8_check.main(["--run", str(tmp_path)])
    assert ended.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("kanana_jax.fp8_check: ") and line.count("\n") == 1
    assert str(tmp_path) in line
