"""Long stacks go in chunks: the same factors, bounded temporaries, nothing gathered."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from kanana_jax import optim

ROWS, COLS = 16, 24
MATRIX_BYTES = 4 * ROWS * COLS
polar = functools.partial(
    optim.polar, schedule=optim.polar_express(1), compute_dtype=jnp.float32, method="direct"
)
three_at_once = functools.partial(polar, chunk_bytes=3 * MATRIX_BYTES)


def random_stack(*batch):
    return jax.random.normal(jax.random.key(0), (*batch, ROWS, COLS))


def has_loop(fn, *args):
    return "while" in jax.jit(fn).lower(*args).as_text()


@pytest.mark.parametrize("batch", ((6,), (2, 5), (5,)), ids=str)
def test_chunks_give_the_factors_of_the_whole_stack_bit_for_bit(batch):
    stack = random_stack(*batch)
    assert has_loop(three_at_once, stack)
    np.testing.assert_array_equal(jax.jit(three_at_once)(stack), jax.jit(polar)(stack))


@pytest.mark.parametrize("batch", ((), (1,), (3,), (0,)), ids=str)
def test_one_chunk_needs_no_loop(batch):
    stack = random_stack(*batch)
    assert not has_loop(three_at_once, stack)
    assert jax.jit(three_at_once)(stack).shape == stack.shape


def test_a_matrix_larger_than_a_chunk_goes_alone():
    alone = functools.partial(polar, chunk_bytes=MATRIX_BYTES // 4)
    stack = random_stack(3)
    assert has_loop(alone, stack)
    # XLA may sum the product of a single matrix in another order.
    np.testing.assert_allclose(jax.jit(alone)(stack), jax.jit(polar)(stack), atol=1e-5)


def test_temporaries_of_a_muon_update_are_those_of_a_chunk():
    num_matrices = 256
    params = {"w": jax.ShapeDtypeStruct((num_matrices, ROWS, COLS), jnp.float32)}
    optimizer = optim.scale_by_muon(
        polar_fn=three_at_once,
        specs={"w": optim.MatrixSpec(batch=(0,), rows=(1,), cols=(2,))},
        momentum=0.95,
        nesterov=True,
    )
    state = jax.eval_shape(optimizer.init, params)
    compiled = jax.jit(optimizer.update, donate_argnums=(0, 1)).lower(params, state).compile()
    # Update and momentum take over the gradient's and the old momentum's memory.
    assert compiled.memory_analysis().temp_size_in_bytes < 8 * 3 * MATRIX_BYTES


@pytest.mark.parametrize("dtype", (jnp.float32, jnp.float16))
@pytest.mark.parametrize("is_spread", (False, True))
def test_a_sharded_batch_is_not_gathered(is_spread, dtype):
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
    partition = PartitionSpec(None, "fsdp")
    placed = jax.device_put(random_stack(7, 8), NamedSharding(mesh, partition))
    layout = optim.layouts.spread(mesh, {"w": partition}) if is_spread else optim.layouts.in_place
    spec = optim.MatrixSpec(batch=(0, 1), rows=(2,), cols=(3,))

    def factor(stack):
        polar_fn = functools.partial(three_at_once, compute_dtype=dtype)
        return layout(polar_fn, [(stack,)], [spec], ["w"])[0][0]

    text = jax.jit(factor).lower(placed).compile().as_text()
    assert not any(name in text for name in ("all-gather", "all-to-all", "collective-permute"))
    # In place, only the compiler knows which axis is sharded, so the stack is left whole.
    assert has_loop(factor, placed) == is_spread
    # Eight devices sum products of seven matrices each, one device of 56; XLA chooses the order.
    expected = jax.jit(polar)(random_stack(7, 8))
    atol = 1e-5 if dtype == jnp.float32 else 2e-3
    np.testing.assert_allclose(jax.jit(factor)(placed), expected, atol=atol)
