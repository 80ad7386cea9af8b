"""Low-rank adapters: what has one, and what a layer computes with it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kanana_jax import config, model
from kanana_jax.generate import unstacked
from kanana_jax.model import lora, presets
from kanana_jax.train import trained

pytestmark = pytest.mark.slow

LORA = config.LoraConfig(rank=2, alpha=6.0, experts_rank=3)
CFG = dataclasses.replace(
    presets.tiny(40),
    num_layers=3,
    num_dense_layers=1,
    hidden_size=16,
    intermediate_size=20,
    q_lora_rank=12,
    kv_lora_rank=8,
    num_heads=2,
    num_experts=4,
    moe_intermediate_size=10,
)
TOKENS = np.random.default_rng(0).integers(0, 40, (2, 9), dtype=np.int32)


def _weights(chosen=LORA, *, with_b=True):
    """Weights of a model, and of the model with adapters, whose B is random."""
    base = model.init(CFG, jax.random.key(0))
    adapters = trained.start(CFG, chosen, base, jax.random.key(1))
    if with_b:
        draw = np.random.default_rng(1).normal
        params = jax.tree.map(
            lambda x: jnp.asarray(draw(0, 0.2, x.shape), x.dtype), adapters.params
        )
        adapters = adapters._replace(params=params)
    return base, trained.whole(CFG, chosen, adapters, {trained.NAME: base})


def _logits(weights, **execution):
    chosen = config.ExecutionConfig(**{"compute_dtype": "float32"} | execution)
    run = jax.jit(functools.partial(model.apply, CFG, execution=chosen))
    logits, aux = run(weights, model.Inputs.of_tokens(TOKENS))
    return np.asarray(logits), aux


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.long
def test_before_the_first_step_logits_are_those_of_the_base_bit_for_bit(dtype):
    base, adapted = _weights(with_b=False)
    assert all(np.any(one.a) for one in _adapters(adapted))
    found, _ = _logits(adapted, compute_dtype=dtype)
    np.testing.assert_array_equal(found, _logits(base, compute_dtype=dtype)[0])


def _adapters(weights):
    return jax.tree.leaves(weights.adapters, is_leaf=lambda x: isinstance(x, lora.Adapter))


def _merged(weights):
    """Every product written out, in float64."""
    specs = model.describe(CFG, split="none")

    def one(path, w):
        node = weights.adapters
        for key in path:
            node = node.get(key.key) if isinstance(node, dict) else None
        if node is None:
            return w
        spec = functools.reduce(lambda tree, key: tree[key.key], path, specs).matrix
        side = lambda x, axes: tuple(x.shape[axis] for axis in axes)  # noqa: E731
        lead = side(w, spec.batch)
        # Axes in the order (batch, rows, cols), in which both are plain matrices.
        order = (*spec.batch, *spec.rows, *spec.cols)
        rank = LORA.experts_rank if "experts" in _role(path) else LORA.rank
        is_rank_last = spec.rows < spec.cols
        a = np.asarray(node.a, np.float64)
        b = np.asarray(node.b, np.float64)
        a = a.reshape(*lead, -1, rank) if is_rank_last else a.reshape(*lead, rank, -1)
        b = b.reshape(*lead, rank, -1) if is_rank_last else b.reshape(*lead, -1, rank)
        product = a @ b if is_rank_last else np.swapaxes(b @ a, -1, -2)
        moved = product.reshape(*lead, *side(w, spec.rows), *side(w, spec.cols))
        return jnp.asarray(w + LORA.alpha / rank * moved.transpose(np.argsort(order)), w.dtype)

    return model.Weights(jax.tree_util.tree_map_with_path(one, weights.params), weights.buffers)


def _role(path):
    names = [key.key for key in path]
    is_expert = names[0] == "moe_layers" and names[1] == "mlp" and "shared" not in names
    return "experts" if is_expert else "other"


@pytest.mark.parametrize(
    "execution", [{}, {"remat": "dots", "scan_layers": False}], ids=["scanned", "unrolled"]
)
@pytest.mark.long
def test_what_computes_with_adapters_is_the_model_with_their_products_in_it(execution):
    base, adapted = _weights()
    found, aux = _logits(adapted, **execution)
    wanted, aux_of_merged = _logits(_merged(adapted))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5)
    np.testing.assert_allclose(aux.max_logits, aux_of_merged.max_logits, rtol=1e-5, atol=1e-6)
    assert np.abs(wanted - _logits(base)[0]).max() > 0.1


@pytest.mark.long
def test_decoding_reads_the_merged_layers():
    _, adapted = _weights()
    found = unstacked.from_stacks(CFG, adapted, jnp.float32)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
        found,
        unstacked.from_stacks(CFG, _merged(adapted), jnp.float32),
    )


def test_every_matrix_of_a_layer_but_the_router_has_one_of_its_roles_rank():
    specs = trained.describe(CFG, LORA)
    shapes = trained.shapes(CFG, LORA).params
    whole = model.describe(CFG, split="none")
    is_spec = lambda x: isinstance(x, model.ParamSpec)  # noqa: E731
    wanted = 0
    for path, spec in jax.tree_util.tree_flatten_with_path(whole, is_leaf=is_spec)[0]:
        w = functools.reduce(lambda tree, key: tree[key.key], path, _base_shapes())
        if spec.role != "matrix":
            continue
        rank = LORA.experts_rank if _role(path) == "experts" else LORA.rank
        size = {side: np.prod([w.shape[i] for i in getattr(spec.matrix, side)]) for side in
                ("rows", "cols", "batch")}  # fmt: skip
        wanted += size["batch"] * rank * (size["rows"] + size["cols"])
    assert trained.count(CFG, LORA) == wanted == sum(x.size for x in jax.tree.leaves(shapes))
    jax.tree.map(lambda spec, x: len(spec.logical_axes) == x.ndim or pytest.fail(str(spec)),
                 specs, shapes, is_leaf=is_spec)  # fmt: skip


@functools.cache
def _base_shapes():
    return jax.eval_shape(functools.partial(model.init_params, CFG), jax.random.key(0))


def test_roles_without_a_rank_have_no_adapter():
    chosen = dataclasses.replace(LORA, experts_rank=0, shared_rank=0, dense_rank=0)
    found = trained.shapes(CFG, chosen).params
    assert {stack: [*found[stack]] for stack in found} == {
        "dense_layers": ["attention"],
        "moe_layers": ["attention"],
    }
    assert set(found["moe_layers"]["attention"]) == {"wq_a", "wq_b", "wkv_a", "wkv_b", "wo"}


def test_a_scalar_head_is_trained_beside_them():
    shape = dataclasses.replace(CFG, scalar_head=True)
    base = model.init(shape, jax.random.key(0))
    state = trained.start(shape, LORA, base, jax.random.key(1))
    moved = {**state.params, "scalar_head": state.params["scalar_head"] + 1.0}
    whole = trained.whole(shape, LORA, state._replace(params=moved), {trained.NAME: base})
    assert np.all(whole.params["scalar_head"] == 1.0) and "scalar_head" not in whole.adapters
    assert whole.params["embed"] is base.params["embed"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: config.LoraConfig(experts_rank=2), "lora.rank must be over 0 where a role"),
        (
            lambda: config.LoraConfig(
                rank=2, attention_rank=0, dense_rank=0, experts_rank=0, shared_rank=0
            ),
            "over 0 for one role at least",
        ),
        (
            lambda: trained.describe(
                dataclasses.replace(CFG, num_dense_layers=0),
                config.LoraConfig(rank=2, dense_rank=3),
            ),
            r"lora.dense_rank must be 0 or rank for a model without such matrices, got 3",
        ),
        (
            lambda: trained.describe(
                dataclasses.replace(CFG, num_dense_layers=0),
                config.LoraConfig(rank=2, attention_rank=0, experts_rank=0, shared_rank=0),
            ),
            "gives no matrix of this model an adapter",
        ),
    ],
)
def test_what_adapts_nothing_is_refused(make, message):
    with pytest.raises(config.ConfigError, match=message):
        make()
