"""The mesh and the sharding table."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from kanana_jax import config, parallel
from kanana_jax.model import presets
from kanana_jax.objectives import NextToken
from kanana_jax.parallel import rules
from kanana_jax.train import choices, state
from kanana_jax.train.step_config import StepConfig

GROUPED = {
    "model.kv_lora_rank": "none",
    "model.num_kv_heads": 2,
    "model.qk_nope_head_dim": 0,
    "model.v_head_dim": 16,
}


def configuration(*edits: str) -> config.TrainingConfig:
    return config.TrainingConfig(name="test", question="", model=presets.tiny(64)).edited(edits)


def check(cfg: config.TrainingConfig, sizes) -> None:
    num_micro = choices.num_micro(cfg.execution)
    parallel.check(cfg.model, cfg.data.batch_size, cfg.data.seq_len, num_micro, sizes)


def test_minus_one_takes_the_devices_left():
    mesh = parallel.make_mesh(config.MeshConfig(data=-1, fsdp=2))
    assert dict(mesh.shape) == {"data": 4, "fsdp": 2, "expert": 1, "context": 1, "tensor": 1}


@pytest.mark.parametrize(("data", "fsdp"), [(3, 1), (-1, 3), (-1, -1), (0, 8), (-2, 1), (16, 1)])
def test_a_mesh_that_does_not_use_up_the_devices_is_refused(data, fsdp):
    with pytest.raises(config.ConfigError, match=r"mesh axes|mesh axis|mesh\.\w+ must lie"):
        parallel.make_mesh(config.MeshConfig(data=data, fsdp=fsdp))


@pytest.mark.parametrize(
    ("edits", "clash"),
    [
        ({"mesh.tensor": 8}, "model.num_heads = 4 does not divide over mesh tensor=8 = 8 devices"),
        (
            {"mesh.expert": 8, "model.num_experts": 12},
            "model.num_experts = 12 .* expert=8 x fsdp=1",
        ),
        ({"mesh.fsdp": 8, "model.num_experts": 12}, "model.num_experts = 12 .* expert=1 x fsdp=8"),
        ({"mesh.fsdp": 8, "model.hidden_size": 100}, "model.hidden_size = 100 .* fsdp=8"),
        ({"mesh.data": 8, "data.batch_size": 12}, "data.batch_size = 12 .* data=8 x fsdp=1"),
        ({"mesh.context": 8, "data.seq_len": 100}, "data.seq_len = 100 .* context=8 x tensor=1"),
        (
            {"mesh.data": 8, "execution.accumulation_steps": 2},
            "data.batch_size = 8 does not divide in 2 micro-batches",
        ),
        ({"mesh.expert": 8, "data.batch_size": 12}, "data.batch_size = 12 .* expert=8"),
        (
            {"mesh.data": 2, "mesh.tensor": 4, "data.seq_len": 6},
            "data.seq_len = 6 .* context=1 x tensor=4",
        ),
        ({"mesh.fsdp": 8, "model.kv_lora_rank": 12}, "model.kv_lora_rank = 12 .* fsdp=8"),
        ({"mesh.fsdp": 8, "model.q_lora_rank": 12}, "model.q_lora_rank = 12 .* fsdp=8"),
        ({"mesh.data": 2, "mesh.tensor": 4, **GROUPED}, "model.num_kv_heads = 2 .* tensor=4"),
        (
            {"mesh.data": 2, "mesh.tensor": 4, "model.intermediate_size": 6},
            "model.intermediate_size = 6 .* tensor",
        ),
        (
            {"mesh.data": 2, "mesh.tensor": 4, "model.moe_intermediate_size": 6},
            "model.moe_intermediate_size = 6 .* tensor=4",
        ),
    ],
)
def test_numbers_that_clash_with_the_mesh_are_named(edits, clash):
    cfg = configuration("mesh.data=1", *(f"{name}={value}" for name, value in edits.items()))
    with pytest.raises(config.ConfigError, match=clash):
        check(cfg, parallel.axis_sizes(cfg.mesh, 8))


@pytest.mark.parametrize(
    "name",
    [
        "q_lora_rank",
        "kv_lora_rank",
        *(
            name
            for name, kind in typing.get_type_hints(config.ModelConfig).items()
            if kind is int and "groups" not in name
        ),
    ],
)
def test_what_passes_the_check_can_be_sharded(name):
    """Every size in turn is one that no mesh axis divides: a check, or no sharded array has it."""
    mesh = parallel.make_mesh(config.MeshConfig(data=1, fsdp=2, expert=2, tensor=2))
    odd = {"qk_rope_head_dim": 18, "num_experts_per_token": 3, "num_dense_layers": 3}.get(name, 63)
    cfg = configuration(f"model.{name}={odd}")
    try:
        check(cfg, mesh.shape)
    except config.ConfigError as error:
        assert f"model.{name} = {odd} does not divide" in str(error)
    else:
        state.weight_shardings(cfg.model, mesh)


def test_slices_that_the_devices_do_not_have_are_refused():
    with pytest.raises(config.ConfigError, match=r"data = 3 does not divide over mesh.num_slices"):
        parallel.axis_sizes(config.MeshConfig(data=3, num_slices=2), 3)
    with pytest.raises(config.ConfigError, match=r"mesh.num_slices = 2 is not how these"):
        parallel.make_mesh(config.MeshConfig(data=8, num_slices=2))


def test_unknown_axis_is_refused():
    with pytest.raises(ValueError, match="no sharding rule for axes \\['colour'\\]"):
        rules.partition_spec(("embed", "colour"))


def test_two_axes_on_one_mesh_axis_are_refused():
    with pytest.raises(ValueError, match="map twice"):
        rules.partition_spec(("embed", "embed"))


def test_an_axis_that_does_not_divide_is_refused_by_name():
    mesh = parallel.make_mesh(config.MeshConfig(data=1, fsdp=8))
    shapes = {"w": jax.ShapeDtypeStruct((12, 4), jnp.float32)}
    with pytest.raises(config.ConfigError, match=r"'w'.*axis embed of size 12"):
        parallel.param_shardings(mesh, shapes, {"w": ("embed", "heads")})


def test_optimizer_state_follows_its_parameter():
    mesh = parallel.make_mesh(config.MeshConfig(data=1, fsdp=8))
    params = {"w": jax.ShapeDtypeStruct((16, 4), jnp.float32)}
    shardings = parallel.param_shardings(mesh, params, {"w": ("embed", "heads")})
    state = {
        "mu": {"w": jax.ShapeDtypeStruct((16, 4), jnp.float32)},
        "row_norms": {"w": jax.ShapeDtypeStruct((16,), jnp.float32)},
        "count": jax.ShapeDtypeStruct((), jnp.int32),
    }
    found = parallel.state_shardings(mesh, state, params, shardings)
    assert found["mu"]["w"] == NamedSharding(mesh, P(("fsdp",), ("tensor",)))
    assert found["row_norms"]["w"].is_fully_replicated
    assert found["count"].is_fully_replicated


def test_the_average_of_the_weights_lies_as_they_do_below_the_guard():
    cfg = configuration("mesh.data=1", "mesh.fsdp=8", "train.average.every_tokens=4096")
    made = StepConfig.of(cfg, NextToken())
    mesh = parallel.make_mesh(cfg.mesh)
    like = state.abstract(made.model, made.make_optimizer(1.0), mesh)
    (average,) = (part.average for part in like.opt_state.inner if hasattr(part, "average"))
    params = like.weights.params
    jax.tree.map(lambda x, p: np.testing.assert_equal(x.sharding, p.sharding), average, params)
    assert any(x.sharding.spec != P() for x in jax.tree.leaves(average))
    assert {x.dtype for x in jax.tree.leaves(average)} == {jnp.dtype("float32")}


def test_a_batch_is_spread_over_both_batch_axes():
    mesh = parallel.make_mesh(config.MeshConfig(data=4, fsdp=2))
    (batch,) = parallel.shard_batch(mesh, (np.arange(16).reshape(16, 1),))
    assert {shard.data.shape for shard in batch.addressable_shards} == {(2, 1)}
    np.testing.assert_array_equal(np.asarray(batch)[:, 0], np.arange(16))


def test_rows_that_are_not_those_of_the_devices_are_refused():
    mesh = parallel.make_mesh(config.MeshConfig(data=2, fsdp=2, context=2))
    assert parallel.local_rows(mesh, 16) == list(range(16))
    with pytest.raises(ValueError, match="16 of 16 rows are on this process's devices, got 8"):
        parallel.shard_batch(mesh, (np.zeros((8, 4)),), 16)


def test_the_largest_of_several_devices_is_nan_where_one_is():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    largest = jax.shard_map(
        lambda x: parallel.local.largest(x, "data"), mesh=mesh, in_specs=P("data"), out_specs=P()
    )
    x = np.zeros((8, 3), np.float32)
    x[2], x[5, 1] = 1.0, np.nan
    np.testing.assert_array_equal(jax.jit(largest)(x), [[1.0, np.nan, 1.0]])
