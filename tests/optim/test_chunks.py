"""Long stacks go in chunks: the same factors, bounded temporaries, nothing gathered."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from kanana_jax import optim
from kanana_jax.optim import chunks

ROWS, COLS = 16, 24
MATRIX_BYTES = 4 * ROWS * COLS
polar = functools.partial(
    optim.polar, schedule=optim.polar_express(1), compute_dtype=jnp.float32, method="direct"
)


@pytest.fixture
def three_matrices(monkeypatch):
    """Chunks of at most three matrices."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 3 * MATRIX_BYTES)


def random_stack(*batch):
    return jax.random.normal(jax.random.key(0), (*batch, ROWS, COLS))


def has_loop(fn, *args):
    return "while" in jax.jit(fn).lower(*args).as_text()


@pytest.fixture
def chunked():
    """A new function per test: jit would remember what it traced under another limit."""
    return lambda stack: polar(stack)


def whole(stack, monkeypatch):
    """The factors without chunks."""
    with monkeypatch.context() as patch:
        patch.setattr(chunks, "CHUNK_BYTES", 1 << 30)
        return jax.jit(lambda stack: polar(stack))(stack)


@pytest.mark.parametrize("batch", ((6,), (2, 5), (5,)), ids=str)
def test_chunks_give_the_factors_of_the_whole_stack_bit_for_bit(
    batch, chunked, three_matrices, monkeypatch
):
    stack = random_stack(*batch)
    assert has_loop(chunked, stack)
    np.testing.assert_array_equal(jax.jit(chunked)(stack), whole(stack, monkeypatch))


@pytest.mark.parametrize("batch", ((), (1,), (3,), (0,)), ids=str)
def test_one_chunk_needs_no_loop(batch, chunked, three_matrices):
    stack = random_stack(*batch)
    assert not has_loop(chunked, stack)
    assert jax.jit(chunked)(stack).shape == stack.shape


def test_a_matrix_larger_than_a_chunk_goes_alone(chunked, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", MATRIX_BYTES // 4)
    stack = random_stack(3)
    assert has_loop(chunked, stack)
    # XLA may sum the product of a single matrix in another order.
    np.testing.assert_allclose(jax.jit(chunked)(stack), whole(stack, monkeypatch), atol=1e-5)


def test_temporaries_of_a_muon_update_are_those_of_a_chunk(three_matrices):
    num_matrices = 256
    params = {"w": jax.ShapeDtypeStruct((num_matrices, ROWS, COLS), jnp.float32)}
    optimizer = optim.scale_by_muon(
        polar_fn=polar,
        specs={"w": optim.MatrixSpec(batch=(0,), rows=(1,), cols=(2,))},
        momentum=0.95,
        nesterov=True,
    )
    state = jax.eval_shape(optimizer.init, params)
    compiled = jax.jit(optimizer.update, donate_argnums=(0, 1)).lower(params, state).compile()
    # Update and momentum take over the gradient's and the old momentum's memory.
    assert compiled.memory_analysis().temp_size_in_bytes < 8 * chunks.CHUNK_BYTES


@pytest.mark.parametrize("is_spread", (False, True))
def test_a_sharded_batch_is_not_gathered(is_spread, three_matrices, monkeypatch):
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
    partition = PartitionSpec(None, "fsdp")
    placed = jax.device_put(random_stack(5, 8), NamedSharding(mesh, partition))
    layout = optim.layouts.spread(mesh, {"w": partition}) if is_spread else optim.layouts.in_place
    spec = optim.MatrixSpec(batch=(0, 1), rows=(2,), cols=(3,))

    def factor(stack):
        return layout(polar, [(stack,)], [spec], ["w"])[0][0]

    text = jax.jit(factor).lower(placed).compile().as_text()
    assert not any(name in text for name in ("all-gather", "all-to-all", "collective-permute"))
    # In place only the compiler knows which axis is sharded, so the stack is left whole.
    assert has_loop(factor, placed) == is_spread
    # Each device sums the products of five matrices, one of forty, in an order of XLA's choice.
    expected = whole(random_stack(5, 8), monkeypatch)
    np.testing.assert_allclose(jax.jit(factor)(placed), expected, atol=1e-5)
