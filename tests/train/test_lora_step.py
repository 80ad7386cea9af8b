"""Training adapters beside a frozen model: gradients, and what the state holds."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_jobs

from kanana_jax import config, model, parallel
from kanana_jax.batch import Batch
from kanana_jax.model import lora
from kanana_jax.plan import figures
from kanana_jax.train import choices, state, trained
from kanana_jax.train import step as step_lib

pytestmark = pytest.mark.slow

ADAPTED = ["lora.rank=2", "lora.alpha=3", "optimizer.name=muon", "train.router_bias_rate=0"]


@pytest.fixture
def made(cfg):
    """The step of a job on two sequences."""
    small = ["data.batch_size=4", "data.seq_len=8", *ADAPTED]
    return tiny_jobs.step_config(cfg.edited(small), vocab_size=32)


def _inputs(made):
    """Random adapters and the model that they are added to, and a batch."""
    base = model.init(made.model, jax.random.key(0))
    begun = trained.start(made.model, made.lora, base, jax.random.key(1))
    draw = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: jnp.asarray(draw.normal(0, 0.2, x.shape), x.dtype), begun.params
    )
    batch = Batch.of_tokens(draw.integers(0, 32, (4, 9), dtype=np.int32))
    return begun._replace(params=params), {trained.NAME: base}, batch


@pytest.mark.long
def test_gradients_are_those_of_the_products_whatever_the_micro_batches(made):
    own, frozen, batch = _inputs(made)
    whole = trained.whole(made.model, made.lora, own, frozen)
    merged = {
        name: lora.applied(x, whole.adapters.get(name), jnp.float32)
        for name, x in whole.params.items()
    }
    plain = dataclasses.replace(made, lora=config.LoraConfig())
    run = jax.jit(step_lib.gradients, static_argnums=3)
    of_merged, _, _ = run(model.Weights(merged, own.buffers), batch, {}, plain)
    cut = dataclasses.replace(made.execution, accumulation_steps=2)
    found, _, _ = run(own, batch, frozen, dataclasses.replace(made, execution=cut))
    assert jax.tree.structure(found) == jax.tree.structure(own.params)

    # d A = scale dW B and d B = scale A dW, by the rule of the product.
    def product(pair, like):
        return jax.vjp(lambda a, b: _product(a, b, like), pair["a"], pair["b"])[1]

    adapters = whole.adapters["moe_layers"]
    for group, name in (("attention", "wq"), ("attention", "wo"), ("mlp", "w_down")):
        adapter = adapters[group][name]
        wanted = product(own.params["moe_layers"][group][name], adapter)(
            of_merged["moe_layers"][group][name]
        )
        pair = found["moe_layers"][group][name]
        for one, other in zip((pair["a"], pair["b"]), wanted, strict=True):
            scale = np.abs(other).max()
            assert scale > 0
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * scale)


def _product(a, b, like):
    zeros = jnp.zeros(jnp.einsum(like.layout.equation, a[None], b[None])[0].shape)
    return lora.effective(zeros, dataclasses.replace(like, a=a, b=b), jnp.float32)


@pytest.mark.long
def test_a_step_moves_adapters_and_the_state_holds_nothing_of_the_model(made):
    mesh = parallel.make_mesh(config.MeshConfig(data=1, fsdp=1), jax.devices()[:1])
    like = state.abstract(made.model, made.make_optimizer(1.0), mesh, made.lora)
    count = trained.count(made.model, made.lora)
    kept = figures.bytes_per_device((like.weights.params, like.opt_state))
    # For each number Muon keeps one more in float32; the guard keeps 128 norms.
    assert 2 * 4 * count <= kept <= 2 * 4 * count + 2000
    assert count < sum(x.size for x in jax.tree.leaves(trained.shapes(made.model).params)) / 3

    own, frozen, batch = _inputs(made)
    before = state.wrap(made.make_optimizer(1.0), own)
    step = jax.jit(functools.partial(step_lib.train_step, cfg=made))
    after, metrics = step(before, batch, 0.01, frozen)
    assert np.isfinite(metrics["loss"]) and metrics["update_rms"] > 0
    jax.tree.map(lambda x, y: np.any(x != y) or pytest.fail("stands still"),
                 after.weights.params, own.params)  # fmt: skip
    np.testing.assert_array_equal(after.weights.buffers["router_bias"], own.buffers["router_bias"])


def test_a_frozen_model_is_kept_in_the_format_asked_for(made):
    mesh = parallel.make_mesh(config.MeshConfig(data=1, fsdp=1), jax.devices()[:1])
    narrow = dataclasses.replace(made.lora, base_dtype="bfloat16")
    found = state.abstract_weights(made.model, mesh, narrow)
    moe = found.params["moe_layers"]
    assert found.params["embed"].dtype == moe["attention"]["wq"].dtype == jnp.bfloat16
    assert moe["mlp"]["router"].dtype == moe["mlp_norm"].dtype == jnp.float32
    wide = state.abstract_weights(made.model, mesh, made.lora)
    assert {x.dtype for x in jax.tree.leaves(wide.params)} == {jnp.dtype("float32")}


def test_micro_batches_are_chosen_by_what_a_frozen_model_takes(made):
    """A model that leaves no room for training itself, and plenty for adapters."""
    num_params, _ = model.num_params(made.model)
    device = choices.Device("gpu", memory_bytes=14.0 * num_params)
    sizes = dict.fromkeys(("data", "fsdp", "expert", "context", "tensor"), 1)
    auto = config.ExecutionConfig(loss_chunk_tokens=1)
    options = (auto, made.model, 8, 16, sizes, device)
    assert choices.chosen(*options).accumulation_steps == 8
    assert choices.chosen(*options, lora=made.lora).accumulation_steps < 8


@pytest.mark.parametrize(
    ("name", "message"),
    [("muonclip", "QK-Clip would scale"), ("muon_hyperball", "that of B is 0")],
)
def test_optimizers_that_cannot_train_adapters_say_why(made, name, message):
    optimizer = dataclasses.replace(made.optimizer, name=name)
    with pytest.raises(config.ConfigError, match=rf"one of adamw, muon, normuon.*{message}"):
        dataclasses.replace(made, optimizer=optimizer).make_optimizer(1.0)
