"""Names of weights tell any two apart, but not by where they are placed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from kanana_jax import config, parallel
from kanana_jax.train import digest

MESH = parallel.make_mesh(config.MeshConfig(data=1), jax.devices()[:1])


def tree(**changed):
    rng = np.random.default_rng(0)
    made = {
        "a": jnp.asarray(rng.standard_normal((3, 8, 2)), jnp.float32),
        "b": jnp.asarray(rng.standard_normal(16), jnp.bfloat16),
        "c": jnp.zeros((4,), jnp.float32),
    }
    return made | changed


def name(weights, mesh=MESH):
    return digest.of_weights(weights, mesh)


def test_equal_weights_have_one_name():
    assert name(tree()) == name(tree())
    assert len(name(tree())) == 32


@pytest.mark.parametrize("leaf", ["a", "b"])
def test_any_number_counts_and_its_place_too(leaf):
    x = tree()[leaf]
    flat = np.array(x).reshape(-1)
    nudged, swapped = flat.copy(), flat.copy()
    nudged[5] = np.nextafter(flat[5], flat[5] + 1, dtype=flat.dtype) if leaf == "a" else flat[5] * 2
    swapped[[2, 7]] = flat[[7, 2]]
    changed = [tree(**{leaf: jnp.asarray(one).reshape(x.shape)}) for one in (nudged, swapped)]
    names = [name(tree()), *map(name, changed)]
    assert len(set(names)) == 3


def test_shape_type_and_path_count():
    base = tree()
    others = [
        tree(c=jnp.zeros((2, 2))),
        tree(c=jnp.zeros((4,), jnp.bfloat16)),
        {key.replace("c", "d"): leaf for key, leaf in base.items()},
        tree(c=-jnp.zeros((4,))),  # another sign of zero is another bit
    ]
    assert len({name(base), *map(name, others)}) == 5


def test_devices_that_share_weights_find_the_same_name():
    mesh = parallel.make_mesh(config.MeshConfig(data=1, fsdp=8))
    weights = tree()
    spread = weights | {"a": jax.device_put(weights["a"], NamedSharding(mesh, P(None, "fsdp")))}
    spread |= {key: jax.device_put(spread[key], NamedSharding(mesh, P())) for key in ("b", "c")}
    assert name(spread, mesh) == name(weights)
