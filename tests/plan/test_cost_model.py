"""The cost model against the collectives of compiled programs: no more travels, and no less."""

import dataclasses

import jax
import pytest

from kanana_jax import config, parallel
from kanana_jax.model import exchange, presets
from kanana_jax.plan import collectives, cost_model
from kanana_jax.train import step as step_lib
from kanana_jax.train import step_functions
from kanana_jax.train.step_config import StepConfig

BATCH, SEQ_LEN = 8, 32


def step_config(**execution) -> StepConfig:
    """Two layers of each kind, so that no loop is short enough to be unrolled and shared."""
    model = dataclasses.replace(
        presets.tiny(64),
        hidden_size=32,
        num_layers=4,
        num_dense_layers=2,
        num_heads=8,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=4,
        v_head_dim=8,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_experts=8,
        num_experts_per_token=3,
    )
    execution = {"compute_dtype": "float32", "remat": "full", "loss_chunk_tokens": 16} | execution
    return StepConfig(
        model=model,
        execution=config.ExecutionConfig(**execution),
        optimizer=config.OptimizerConfig(),
        guard=config.GuardConfig(),
        num_steps=1000,
        batch_size=BATCH,
        seq_len=SEQ_LEN,
        balance_loss_weight=1e-4,
        router_bias_rate=1e-3,
    )


def grouped(cfg: StepConfig) -> StepConfig:
    """The same with grouped-query attention, two query heads for each key head."""
    model = dataclasses.replace(
        cfg.model,
        num_heads=16,
        num_kv_heads=8,
        q_lora_rank=None,
        kv_lora_rank=None,
        qk_nope_head_dim=0,
        qk_rope_head_dim=8,
    )
    return dataclasses.replace(cfg, model=model)


def mesh_of(**axes) -> jax.sharding.Mesh:
    return parallel.make_mesh(config.MeshConfig(**({"data": 1} | axes)))


def compiled_gradients(cfg: StepConfig, mesh: jax.sharding.Mesh):
    weights = step_functions.build(cfg, mesh).like.weights
    rows = step_functions.abstract_batch(BATCH, SEQ_LEN, mesh)
    of_params = jax.tree.map(lambda x: x.sharding, weights.params)
    gradients = jax.jit(step_lib.gradients, static_argnums=3, out_shardings=(of_params, None, None))
    with jax.set_mesh(mesh):
        compiled = gradients.lower(weights, rows, {}, cfg).compile()
    return collectives.traffic(compiled.as_text(), mesh.shape)


def gathered_and_added(traffic) -> tuple[float, float]:
    """Bytes of all-gathers, and of sums: an all-reduce is two of a reduce-scatter's halves.

    CPUs sum all of a gradient where others scatter it, so only what sums have in common counts.
    """
    of_kind = {kind: 0.0 for kind in collectives.KINDS}
    for (kind, _), item in traffic.items():
        of_kind[kind] += item.num_bytes
    return of_kind["all-gather"], of_kind["reduce-scatter"] + of_kind["all-reduce"] / 2


@pytest.mark.long
@pytest.mark.parametrize("kind", [lambda cfg: cfg, grouped], ids=["latent", "grouped"])
@pytest.mark.parametrize("axis", ["data", "fsdp", "expert", "context", "tensor"])
def test_gradients_move_the_bytes_of_the_cost_model(axis, kind):
    cfg, mesh = kind(step_config(expert_exchange="gather")), mesh_of(**{axis: 8})
    found = compiled_gradients(cfg, mesh)
    assert {axes for _, axes in found} == {axis}
    gathered, added = gathered_and_added(found)
    wanted_gathered, wanted_added = gathered_and_added(cost_model.traffic(cfg, mesh.shape))
    # Segment ids over context; losses, loads and maxima over every axis.
    assert gathered == pytest.approx(wanted_gathered, rel=0.03, abs=1e-9)
    assert added == pytest.approx(wanted_added, rel=0.03)


@pytest.mark.long
def test_exchanged_tokens_take_the_collectives_of_the_cost_model():
    """On CPUs blocks are filled up: as many bytes more as the model's share is below one."""
    cfg, mesh = step_config(expert_exchange="ragged"), mesh_of(expert=8)
    found = compiled_gradients(cfg, mesh)["all-to-all", "expert"]
    wanted = cost_model.traffic(cfg, mesh.shape)["ragged-all-to-all", "expert"]
    share = exchange.share_sent(cfg.model.num_experts, cfg.model.num_experts_per_token, 8)
    assert found.count == wanted.count
    assert found.num_bytes * share == pytest.approx(wanted.num_bytes)


@pytest.mark.long
def test_muon_moves_the_bytes_of_the_cost_model():
    cfg, mesh = step_config(), mesh_of(fsdp=4, tensor=2)
    compiled = step_functions.build(cfg, mesh).lower().compile()
    found = collectives.traffic(compiled.as_text(), mesh.shape)
    wanted = cost_model.traffic(cfg, mesh.shape)

    def exchanges(traffic):
        return {axes: item for (kind, axes), item in traffic.items() if kind == "all-to-all"}

    assert exchanges(found) == exchanges(wanted)


def test_more_devices_on_fsdp_need_less_memory_and_more_traffic():
    small, large = (
        {"data": 8 // n, "fsdp": n, "expert": 1, "context": 1, "tensor": 1} for n in (2, 8)
    )
    cfg = step_config()
    assert cost_model.temporary_bytes(cfg, large) < cost_model.temporary_bytes(cfg, small)
    of_small, of_large = (
        cost_model.traffic(cfg, sizes)["all-gather", "fsdp"].num_bytes for sizes in (small, large)
    )
    assert of_large / of_small == pytest.approx((7 / 8) / (1 / 2))


def test_experts_of_fp8_are_counted_in_both_orientations():
    def bytes_of(precision, tensor):
        sizes = {"data": 1, "fsdp": 2, "expert": 2, "context": 1, "tensor": tensor}
        # So many tokens that the backward pass needs more than the optimizer.
        cfg = dataclasses.replace(step_config(precision=precision), batch_size=4096)
        return cost_model.temporary_bytes(cfg, sizes)

    num_layers, num_experts, hidden, width = 2, 8, 32, 16
    numbers = 3 * num_layers * num_experts * hidden * width
    for tensor in (1, 2):
        more = bytes_of("fp8", tensor) - bytes_of("full", tensor)
        assert more == 2 * numbers / (4 * tensor)
        assert bytes_of("fp8_store", tensor) == bytes_of("full", tensor)
