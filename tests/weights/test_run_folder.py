"""The newest checkpoint of a run becomes a model folder, whatever the layout of its state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_models
from small_models import CFG, random_weights, run_of

from kanana_jax import convert, optim
from kanana_jax.checkpoint import CheckpointError
from kanana_jax.weights import native, run_folder


def state(weights):
    return {"step": jnp.int32(3), "weights": weights}


def former_state(weights):
    """Before weights were a group: parameters and bias beside each other."""
    return {"step": jnp.int32(3), "params": weights.params, **weights.buffers}


@pytest.mark.parametrize("layout", [state, former_state])
def test_the_newest_weights_are_those_of_the_folder(layout, tmp_path):
    weights = random_weights()
    older = jax.tree.map(jnp.zeros_like, weights)
    run = run_of(tmp_path / "work", {3: layout(older), 5: layout(weights)})
    run_folder.import_run(run, tmp_path / "native")
    assert native.read_description(tmp_path / "native") == native.Description(CFG, {}, "float32")
    jax.tree.map(np.testing.assert_array_equal, small_models.restored(tmp_path / "native"), weights)


def test_the_average_is_that_of_the_optimizer_with_the_newest_bias(tmp_path):
    weights, average = random_weights(0), random_weights(1).params
    optimizer = optim.skip_bad_steps(optax.chain(optax.sgd(0.1), optim.weight_average()))
    run = run_of(tmp_path / "work", {3: state(weights) | {"opt_state": optimizer.init(average)}})
    convert.main([f"--from-run={run}", "--average", f"--to={tmp_path / 'native'}"])
    wanted = weights._replace(params=average)
    jax.tree.map(np.testing.assert_array_equal, small_models.restored(tmp_path / "native"), wanted)


def test_a_run_that_keeps_no_average_is_told(tmp_path):
    run = run_of(tmp_path / "work", {3: state(random_weights())})
    with pytest.raises(CheckpointError, match=r"3 holds no average .*train\.average\.every_tokens"):
        run_folder.import_run(run, tmp_path / "native", is_average=True)
    assert not (tmp_path / "native").exists()


def test_a_checkpoint_without_the_weights_is_one_line(tmp_path):
    run = run_of(tmp_path / "work", {3: {"step": jnp.int32(3)}})
    with pytest.raises(CheckpointError, match="cannot be used") as caught:
        run_folder.import_run(run, tmp_path / "native")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["work"]
