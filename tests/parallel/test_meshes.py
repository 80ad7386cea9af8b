"""Every mesh axis, alone and together: the training of one device."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from kanana_jax import config, parallel
from kanana_jax.batch import Batch
from kanana_jax.model import presets
from kanana_jax.objectives import NextToken
from kanana_jax.plan import collectives
from kanana_jax.train import step as step_lib
from kanana_jax.train import step_functions, trained
from kanana_jax.train.step_config import StepConfig
from pallas_kernels import hopper, selection
from pallas_kernels.symmetric_matmul.gpu import dispatch as symmetric_on_gpu

# Padding, documents that cross the parts of the context axis, and fewer experts than devices' sum.
BATCH, SEQ_LEN, VOCAB = 8, 32, 64


GROUPED = {
    "num_kv_heads": 4,
    "q_lora_rank": None,
    "kv_lora_rank": None,
    "qk_nope_head_dim": 0,
    "qk_rope_head_dim": 8,
}


def configuration(**mesh) -> config.TrainingConfig:
    model = dataclasses.replace(
        presets.tiny(VOCAB),
        hidden_size=32,
        num_layers=2,
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
    execution = config.ExecutionConfig(compute_dtype="float32", loss_chunk_tokens=16)
    return config.TrainingConfig(
        name="meshes",
        question="",
        model=model,
        execution=execution,
        data=config.DataConfig(batch_size=BATCH, seq_len=SEQ_LEN),
        # tau below the first logits: every head clips, so a wrong max logit changes the weights.
        optimizer=config.OptimizerConfig(lr=0.01, tau=0.02, polar_steps=2, polar_dtype="float32"),
        train=config.TrainConfig(balance_loss_weight=0.01),
        mesh=config.MeshConfig(**({"data": 1} | mesh)),
    )


def batch() -> Batch:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, VOCAB, (BATCH, SEQ_LEN + 1), dtype=np.int32)
    ends = np.sort(rng.integers(1, SEQ_LEN, (BATCH, 3)), axis=1)
    place = np.arange(SEQ_LEN, dtype=np.int32)
    segment_ids = 1 + (place[None, :, None] >= ends[:, None, :]).sum(axis=-1, dtype=np.int32)
    segment_ids[::2, -5:] = 0
    mask = (segment_ids > 0).astype(np.float32)
    return Batch(
        tokens=tokens[:, :-1],
        targets=tokens[:, 1:],
        positions=np.broadcast_to(place, (BATCH, SEQ_LEN)),
        segment_ids=segment_ids,
        loss_mask=mask,
        target_bytes=mask,
    )


def build(cfg: config.TrainingConfig, mesh: jax.sharding.Mesh) -> step_functions.Steps:
    return step_functions.build(StepConfig.of(cfg, NextToken(cfg.train.z_loss_weight)), mesh)


def run(cfg: config.TrainingConfig, num_devices: int, num_steps: int = 2):
    """The records of the first steps and the state after them.

    Muon's momentum and AdamW's first moment in the state are sums of the gradients.
    """
    mesh = parallel.make_mesh(cfg.mesh, jax.devices()[:num_devices])
    parallel.check(cfg.model, BATCH, SEQ_LEN, 1, mesh.shape)
    steps = build(cfg, mesh)
    weights = steps.weights(0)
    frozen = {trained.NAME: weights} if cfg.lora.rank else {}
    state = steps.start(weights, 0)
    rows = parallel.shard_batch(mesh, batch(), BATCH)
    records = []
    for _ in range(num_steps):
        state, metrics = steps.train(state, rows, cfg.optimizer.lr, frozen)
        records.append(metrics)
    return jax.device_get((records, state))


@pytest.fixture(scope="module")
def on_one_device():
    return run(configuration(), 1)


def assert_same(found, wanted):
    # Sums in another order: some hundred float32 terms, through two updates of the weights.
    def close(path, one, other):
        scale = np.max(np.abs(other), initial=1e-6)
        np.testing.assert_allclose(
            one, other, rtol=1e-4, atol=2e-5 * scale, err_msg=jax.tree_util.keystr(path)
        )

    jax.tree_util.tree_map_with_path(close, found, wanted)


long = pytest.mark.long
MESHES = [
    pytest.param({"data": 8}, marks=long),
    pytest.param({"fsdp": 8}, marks=long),
    pytest.param({"expert": 8}, marks=long),
    pytest.param({"context": 8}, marks=long),
    pytest.param({"tensor": 8}, marks=long),
    pytest.param({"data": 2, "fsdp": 2, "expert": 2}, marks=long),
    pytest.param({"expert": 2, "context": 2, "tensor": 2}, marks=long),
    {"fsdp": 2, "expert": 2, "tensor": 2},
]
ADAPTED = ["lora.rank=2", "optimizer.name=muon", "train.router_bias_rate=0"]


@pytest.mark.long
def test_adapters_are_trained_on_a_mesh_as_on_one_device():
    wanted = run(configuration().edited(ADAPTED), 1)
    mesh = {"fsdp": 2, "expert": 2, "tensor": 2}
    found = run(configuration(**mesh).edited(ADAPTED), 8)
    assert_same(found, wanted)
    moved = jax.tree.leaves(found[1].weights.params["moe_layers"]["mlp"]["w_down"])
    assert all(np.any(x) for x in moved)


def test_adapters_are_spread_as_what_they_are_added_to():
    mesh = parallel.make_mesh(config.MeshConfig(data=1, fsdp=2, expert=2, tensor=2))
    like = build(configuration().edited(ADAPTED), mesh).like
    moe = like.weights.params["moe_layers"]
    experts, fsdp, tensor = ("expert", "fsdp"), "fsdp", "tensor"
    wanted = {
        ("attention", "wq_b"): ((None, fsdp, None), (None, None, tensor, None)),
        ("attention", "wo"): ((None, tensor, None, None), (None, None, fsdp)),
        ("mlp", "w_gate_up"): (
            (None, experts, None, None, None),
            (None, experts, None, tensor, None),
        ),
        ("mlp", "w_down"): ((None, experts, tensor, None), (None, experts, None, None)),
    }
    for (group, name), specs in wanted.items():
        for factor, spec in zip("ab", specs, strict=True):
            found = moe[group][name][factor].sharding
            assert found.is_equivalent_to(NamedSharding(mesh, P(*spec)), len(spec)), (name, factor)
    # As its moments are.
    of_state = [
        x for x in jax.tree.leaves(like.opt_state) if x.shape == moe["mlp"]["w_down"]["a"].shape
    ]
    assert of_state and all(x.sharding == moe["mlp"]["w_down"]["a"].sharding for x in of_state)


EXCHANGED = [
    pytest.param({"expert": 8}, marks=long),
    pytest.param({"data": 2, "expert": 4}, marks=long),
    pytest.param({"expert": 2, "context": 2, "tensor": 2}, marks=long),
    pytest.param({"fsdp": 2, "expert": 2, "tensor": 2}, marks=long),
]


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_eight_devices_train_as_one(mesh, on_one_device):
    assert_same(run(configuration(**mesh), 8), on_one_device)


def grouped(*, qk_norm: bool, **mesh) -> config.TrainingConfig:
    """Dense layers with two query heads for each key head."""
    cfg = configuration(**mesh)
    edits = GROUPED | {"qk_norm": qk_norm, "num_dense_layers": 2, "tie_embeddings": True}
    return dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, **edits))


@pytest.mark.parametrize(
    ("mesh", "qk_norm"),
    [
        ({"fsdp": 2, "context": 2, "tensor": 2}, True),
        ({"data": 2, "tensor": 4}, True),
        ({"fsdp": 8}, False),
        ({"context": 8}, True),
    ],
    ids=str,
)
@pytest.mark.long
def test_grouped_queries_train_on_eight_devices_as_on_one(mesh, qk_norm):
    one = run(grouped(qk_norm=qk_norm), 1)
    assert one[0][0]["clip_count"] > 0
    assert_same(run(grouped(qk_norm=qk_norm, **mesh), 8), one)


@pytest.mark.parametrize("mesh", EXCHANGED, ids=str)
def test_tokens_that_are_exchanged_train_as_on_one_device(mesh, on_one_device):
    cfg = configuration(**mesh).edited(["execution.expert_exchange=ragged"])
    assert_same(run(cfg, 8), on_one_device)


@pytest.mark.long
def test_quantile_balancing_moves_the_bias_as_on_one_device():
    """Histograms of all devices: those of one would move it by some hundredths elsewhere."""

    def biases(num_devices, **mesh):
        cfg = configuration(**mesh).edited(["train.router_balance=quantile"])
        return run(cfg, num_devices)[1].weights.buffers["router_bias"]

    one, eight = biases(1), biases(8, expert=2, context=2, tensor=2)
    assert np.ptp(one) > 0.01
    np.testing.assert_allclose(eight, one, atol=1e-3)  # rounding may move a score to the next bin


@pytest.mark.long
@pytest.mark.parametrize(
    ("axis", "form", "expected"),
    [
        # One MoE layer: tokens, experts and weights out, outputs back, and the gradients of both.
        ("expert", "gather", {"all-gather": 3 + 1, "reduce-scatter": 1 + 2}),
        # The numbers of tokens; tokens with their choices out, outputs back, and the gradients.
        ("expert", "ragged", {"all-gather": 1, "all-to-all": 2 + 1 + 1 + 2}),
        # Latent and rotary key of two stacks, and the segment ids of both at once.
        ("context", "auto", {"all-gather": 2 * 2 + 1, "reduce-scatter": 2 * 2}),
    ],
)
def test_gradients_take_the_collectives_of_the_cost_model(axis, form, expected):
    cfg = configuration(**{axis: 8}).edited([f"execution.expert_exchange={form}"])
    mesh = parallel.make_mesh(cfg.mesh)
    made = StepConfig.of(cfg, NextToken(cfg.train.z_loss_weight))
    weights = step_functions.build(made, mesh).like.weights
    rows = step_functions.abstract_batch(BATCH, SEQ_LEN, mesh)
    with jax.set_mesh(mesh):
        gradients = jax.jit(step_lib.gradients, static_argnums=3)
        compiled = gradients.lower(weights, rows, {}, made).compile()
    found = collectives.traffic(compiled.as_text(), mesh.shape)
    counts = {kind: item.count for (kind, _), item in found.items()}
    assert counts.pop("all-reduce") <= 4  # gradients of what is replicated, and the statistics
    assert counts == expected
    assert {axes for _, axes in found} == {axis}


@pytest.mark.long
@pytest.mark.parametrize(
    "mesh",
    [{"data": 2, "fsdp": 2, "expert": 2}, {"expert": 2, "context": 2, "tensor": 2}],
    ids=str,
)
@pytest.mark.parametrize("form", ["gather", "ragged"])
def test_the_step_lowers_with_the_kernels_of_gpus(mesh, form, monkeypatch):
    """What varies over devices has a type of its own inside of a kernel too."""
    monkeypatch.setattr(hopper, "why_not", selection.always)
    monkeypatch.setattr(symmetric_on_gpu, "MIN_SIDE", 1)
    monkeypatch.setattr(symmetric_on_gpu, "MIN_TILES", 1)
    cfg = configuration(**mesh).edited(
        [
            "data.seq_len=256",
            "execution.compute_dtype=bfloat16",
            "model.hidden_size=128",
            "model.qk_nope_head_dim=128",
            "model.qk_rope_head_dim=64",
            "model.v_head_dim=128",
            "model.moe_intermediate_size=64",
            f"execution.expert_exchange={form}",
            "optimizer.polar_dtype=bfloat16",
        ],
    )
    text = build(cfg, parallel.make_mesh(cfg.mesh)).lower(("cuda",)).as_text()
    kernels = (
        "flash_attention_forward",
        "flash_attention_backward_kv",
        "grouped_matmul",
        "grouped_outer",
        "symmetric_product",
    )
    assert [name for name in kernels if f"{name}_mosaic_gpu" not in text] == []
