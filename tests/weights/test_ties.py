"""TIES: what is kept of each change, which sign wins, and which models are in the mean."""

import numpy as np
import pytest
from small_models import folder, random_weights, restored

from kanana_jax import convert
from kanana_jax.checkpoint import CheckpointError
from kanana_jax.weights import merge
from kanana_jax.weights.ties import ties, trimmed


def test_a_change_keeps_the_share_that_is_largest():
    change = np.array([[3.0, -5.0, 1.0], [-2.0, 4.0, 0.5]], np.float32)
    np.testing.assert_array_equal(trimmed(change, 0.5), [[3, -5, 0], [0, 4, 0]])
    np.testing.assert_array_equal(trimmed(change, 1.0), change)


@pytest.mark.parametrize(
    ("changes", "weights", "wanted"),
    [
        pytest.param(((2.0,), (4.0,)), (1, 1), 3.0, id="agree"),
        pytest.param(((2.0,), (-5.0,)), (1, 1), -5.0, id="larger sign wins"),
        pytest.param(((2.0,), (-5.0,)), (3, 1), 2.0, id="weights decide the sign"),
        pytest.param(((2.0,), (0.0,)), (1, 1), 2.0, id="unchanged is in no mean"),
        pytest.param(((2.0,), (-2.0,)), (1, 1), 0.0, id="a draw changes nothing"),
        pytest.param(((2.0,), (6.0,)), (3, 1), 3.0, id="weighted mean"),
    ],
)
def test_the_sign_is_elected_and_those_that_have_it_are_averaged(changes, weights, wanted):
    base = np.array([10.0])
    found = ties(base, [base + np.array(one) for one in changes], weights, 1.0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, base + wanted, rtol=1e-6)


def test_folders_are_merged_into_their_base(tmp_path):
    models = [random_weights(seed) for seed in range(3)]
    base, *trained = (str(folder(tmp_path / f"{i}", one)) for i, one in enumerate(models))
    to = tmp_path / "to"
    convert.main(["--merge", *trained, f"--base={base}", "--density=0.3", f"--to={to}"])
    start, *ended = (np.asarray(one.params["moe_layers"]["mlp"]["w_down"]) for one in models)
    wanted = np.stack(
        [
            ties(start[layer], [one[layer] for one in ended], (1, 1), 0.3)
            for layer in range(len(start))
        ]
    )
    found = restored(to).params["moe_layers"]["mlp"]["w_down"]
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("density", (0.0, 1.5))
def test_a_density_that_is_no_share_is_refused(tmp_path, density):
    one = folder(tmp_path / "one", random_weights())
    with pytest.raises(CheckpointError, match="density of a merge must be over 0 and at most 1"):
        merge.merge_folders([one, one], tmp_path / "to", base=one, density=density)
    assert not (tmp_path / "to").exists()
