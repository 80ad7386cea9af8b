"""Every leaf is claimed by exactly one rule."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kanana_jax import optim

PARAMS = {"embed": jnp.ones(3), "layers": [{"w": jnp.ones((2, 2))}, {"w": jnp.ones((2, 2))}]}


def test_assign_gives_each_leaf_its_rules_value():
    got = optim.assign([("embed", "a"), (r"layers/\d/w", "b")], PARAMS)
    assert got == {"embed": "a", "layers": [{"w": "b"}, {"w": "b"}]}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([("embed", "a")], "'layers/0/w' is claimed by no rule"),
        ([(".*", "a"), ("embed", "b")], r"'embed' is claimed by \['\.\*', 'embed'\]"),
        ([("embed", "a"), ("layers.*", "b"), ("head", "c")], "'head' matches no leaf"),
        # A rule must match the whole path, or "w" would also claim "wq".
        ([("embed", "a"), ("w", "b")], "'w' matches no leaf"),
    ],
)
def test_unclaimed_twice_claimed_and_idle_rules_raise_with_paths(rules, message):
    with pytest.raises(ValueError, match=message):
        optim.assign(rules, PARAMS)


@pytest.mark.parametrize(
    "labels",
    [
        [("embed", "keep"), ("layers.*", "move")],
        {"embed": "keep", "layers": [{"w": "move"}, {"w": "move"}]},
        lambda params: {"embed": "keep", "layers": [{"w": "move"}, {"w": "move"}]},
    ],
)
def test_partition_takes_rules_trees_and_functions(labels):
    optimizer = optim.partition({"keep": optax.set_to_zero(), "move": optax.sgd(0.5)}, labels)
    updates, _ = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_array_equal(updates["embed"], np.zeros(3))
    np.testing.assert_array_equal(updates["layers"][1]["w"], np.full((2, 2), -0.5))


def test_labels_without_transform_or_of_another_structure_raise():
    with pytest.raises(ValueError, match=r"among \['move'\], got 'embed': 'keep'"):
        optim.partition({"move": optax.sgd(0.1)}, [("embed", "keep"), ("l.*", "move")]).init(PARAMS)
    with pytest.raises(ValueError, match=r"missing: \['layers/0/w'"):
        optim.partition({"move": optax.sgd(0.1)}, {"embed": "move"}).init(PARAMS)
