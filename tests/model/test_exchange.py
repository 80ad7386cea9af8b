"""Tokens that travel to their experts give what one device computes, however they are routed."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from numpy_model import SMALL, init, jit

from kanana_jax import config, model, parallel
from kanana_jax.model import exchange, presets

RAGGED = dataclasses.replace(presets.LAPTOP, expert_exchange="ragged")
# Biases that send tokens as they come, all to the first device and all to the last ones.
BIASES = {
    "as it comes": np.zeros(8, np.float32),
    "to the first experts": np.where(np.arange(8) < 3, 10, 0).astype(np.float32),
    "to the last experts": np.where(np.arange(8) > 4, 10, 0).astype(np.float32),
}


def mesh_of(**sizes):
    devices = jax.devices()[: math.prod(sizes.values())]
    return parallel.make_mesh(config.MeshConfig(**({"data": 1} | sizes)), devices)


def layer_and_gradients(layer, x, bias):
    """Output, load, and the gradients of everything that has one: x, router and experts."""

    def objective(layer, x):
        out, stats = layer(x, bias, jnp.ones(x.shape[:2], bool))
        return (out * jnp.cos(3 * x)).sum(), (out, stats.load_E)

    (_, found), gradients = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)(layer, x)
    return *found, gradients


@pytest.mark.parametrize(
    ("mesh", "seq_len"),
    [
        pytest.param({"expert": 2}, 4, marks=pytest.mark.long),
        pytest.param({"expert": 4}, 4, marks=pytest.mark.long),
        ({"expert": 8}, 1),  # a single token on every device
        pytest.param({"expert": 2, "fsdp": 2, "tensor": 2}, 4, marks=pytest.mark.long),
        pytest.param({"data": 2, "expert": 2, "context": 2}, 4, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_layer_and_gradients_equal_those_of_one_device(mesh, seq_len):
    stack = model.bind(SMALL, init(SMALL), RAGGED).moe_layers.mlp
    layer = jax.tree.map(lambda leaf: leaf[0], stack)
    x = np.random.default_rng(1).standard_normal((8, seq_len, 32), np.float32)
    wanted_of, found_of = jit(layer_and_gradients), jit(layer_and_gradients)
    for name, bias in BIASES.items():
        wanted = wanted_of(layer, x, bias)
        with jax.set_mesh(mesh_of(**mesh)):
            found = found_of(layer, x, bias)

        def close(path, one, other, name=name):
            # Sums of some hundred float32 terms in another order.
            scale = np.abs(other).max()
            where = name + jax.tree_util.keystr(path)
            np.testing.assert_allclose(one, other, rtol=0, atol=2e-6 * scale, err_msg=where)

        jax.tree_util.tree_map_with_path(close, found, wanted)


@pytest.mark.parametrize("skewed", [False, True])
def test_each_token_visits_each_device_of_its_experts_once(skewed):
    devices, tokens, top_k = 4, 6, 5  # more choices than devices: some share a device
    rng = np.random.default_rng(2)
    device = np.zeros((devices * tokens, top_k), np.int32)
    if not skewed:
        device = rng.integers(0, devices, device.shape, dtype=np.int32)
    token = np.arange(1, 1 + devices * tokens, dtype=np.float32)[:, None]

    def there_and_back(device_TK, x_TD):
        routes = exchange.route(device_TK)
        x_RD = exchange.send(routes, x_TD)
        return x_RD, exchange.num_received(routes)[None], exchange.send_back(routes, x_RD)

    with jax.set_mesh(mesh_of(expert=devices)):
        mapped = jax.shard_map(there_and_back, in_specs=P("expert"), out_specs=P("expert"))
        received, counts, returned = jax.jit(mapped)(device, token)
    for here, rows in enumerate(np.split(np.asarray(received)[:, 0], devices)):
        visits = token[(device == here).any(axis=1), 0]
        assert counts[here] == len(visits)
        np.testing.assert_array_equal(rows, np.pad(visits, (0, len(rows) - len(visits))))
    num_visited = [len(set(row)) for row in device]
    np.testing.assert_array_equal(returned[:, 0], token[:, 0] * num_visited)


@pytest.mark.parametrize("shape", [(8, 3, 2), (8, 3, 4), (8, 3, 8), (6, 2, 3)])
def test_share_sent_is_the_mean_over_all_choices(shape):
    num_experts, num_chosen, num_devices = shape
    here = num_experts // num_devices
    remote = [
        len({expert // here for expert in chosen} - {0})
        for chosen in itertools.combinations(range(num_experts), num_chosen)
    ]
    share = exchange.share_sent(*shape)
    assert share * (num_devices - 1) == pytest.approx(np.mean(remote))


def test_auto_exchanges_where_it_saves_half_the_bytes_and_can():
    cfg = dataclasses.replace(SMALL, num_experts=128, num_experts_per_token=6)
    auto = config.ExecutionConfig()
    forms = {n: exchange.form(cfg, auto, n, "tpu") for n in (1, 8, 16, 32)}
    # 56 % at 8 devices, 32 % at 16.
    assert forms == {1: "gather", 8: "gather", 16: "ragged", 32: "ragged"}
    assert {exchange.form(cfg, auto, 32, platform) for platform in ("cpu", "gpu")} == {"gather"}
    assert exchange.form(cfg, RAGGED, 8, "cpu") == "ragged"
