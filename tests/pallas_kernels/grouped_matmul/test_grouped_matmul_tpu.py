"""The TPU kernels: which tiles they visit, what fits, interpreted on the CPU, compiled for TPUs."""

import functools
import itertools

import aot
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec as P

import pallas_kernels
from pallas_kernels.grouped_matmul import Problem, cases, reference
from pallas_kernels.grouped_matmul.tpu import dispatch
from pallas_kernels.grouped_matmul.tpu import tiles as tiling
from pallas_kernels.grouped_matmul.tpu import visits as visiting

MIB = 2**20
CHIPS = {
    "v5p": tiling.Chip(2, 64 * MIB, 128),
    "v5e": tiling.Chip(1, 128 * MIB, 128),
    "v6e": tiling.Chip(1, 128 * MIB, 256),
}
NUM_ROWS, TILE_ROWS = 70, 16

# Compiling costs more than running these, and rounding does not depend on the compiler's effort.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.partial(jax.jit, static_argnums=0)
def visits(kind, group_sizes):
    return getattr(visiting, kind)(group_sizes, NUM_ROWS, TILE_ROWS)


def uninterrupted(values):
    """Whether equal values are contiguous."""
    return len(list(itertools.groupby(values))) == len(set(values))


some_sizes = st.lists(st.integers(0, 30), min_size=5, max_size=5).filter(
    lambda sizes: sum(sizes) <= NUM_ROWS
)


@settings(max_examples=50, deadline=None)
@given(some_sizes)
def test_visits_cover_each_row_of_a_group_once_and_every_tile_or_group(group_sizes):
    for kind in ("of_tiles", "of_groups"):  # five tiles, five groups
        group, tile, first, end = (np.asarray(x) for x in visits(kind, np.int32(group_sizes)))
        rows = [t * TILE_ROWS + np.arange(a, b) for t, a, b in zip(tile, first, end, strict=True)]
        covered = np.concatenate(rows)
        np.testing.assert_array_equal(np.sort(covered), np.arange(sum(group_sizes)))
        of_row = np.repeat(group, [len(r) for r in rows])
        np.testing.assert_array_equal(of_row, np.repeat(np.arange(5), group_sizes))
        visited = tile if kind == "of_tiles" else group
        assert uninterrupted(visited) and set(visited) == set(range(5))


@pytest.mark.parametrize(
    ("tpu", "product", "widths", "tile", "mib"),
    [
        ("v5p", "matmul", (2048, 1536), (512, 2048, 768), 11.5),
        ("v6e", "matmul", (2048, 1536), (512, 2048, 1536), 19),
        ("v5p", "outer", (2048, 1536), (512, 2048, 768), 17.5),
        ("v6e", "outer", (2048, 1536), (512, 2048, 1536), 31),
        ("v5p", "matmul", (7168, 4096), (512, 7168, 1024), 44),
        ("v6e", "matmul", (7168, 4096), (512, 7168, 2048), 74),
        ("v5p", "outer", (7168, 4096), (512, 1792, 2048), 35.5),
        ("v6e", "outer", (7168, 4096), (512, 1792, 2048), 35.5),
    ],
)
def test_documented_tiles_are_the_chosen_ones(tpu, product, widths, tile, mib):
    choose, vmem_bytes = (getattr(tiling, name) for name in (f"for_{product}", f"{product}_bytes"))
    tiles = choose(CHIPS[tpu], *widths, 2, 2)
    assert tiles[:3] == tile
    assert vmem_bytes(tiles, 2, 2) == mib * MIB


@pytest.mark.parametrize("tpu", CHIPS)
@pytest.mark.parametrize("case", cases.BENCHMARK_CASES, ids=lambda case: case.name)
def test_every_benchmark_case_fits_and_keeps_all_cores_busy(tpu, case):
    widths = case.contracted, case.out_width
    for (k, n), out_bytes in itertools.product((widths, widths[::-1]), (2, 4)):
        for product in ("matmul", "outer"):
            tiles = getattr(tiling, f"for_{product}")(CHIPS[tpu], k, n, 2, out_bytes)
            vmem_bytes = getattr(tiling, f"{product}_bytes")(tiles, 2, out_bytes)
            assert vmem_bytes <= tiles.vmem_limit_bytes < CHIPS[tpu].vmem_bytes
            assert tiles.rows % tiles.piece_rows == 0
            assert -(-n // tiles.n) % CHIPS[tpu].num_cores == 0


def test_a_width_beyond_vmem_has_no_tiles():
    assert tiling.for_matmul(CHIPS["v5p"], 2**17, 128, 2, 2) is None


@pytest.mark.parametrize(
    ("lhs", "rhs", "platform", "reason"),
    [
        (jnp.ones((8, 128)), jnp.ones((2, 128, 256)), "cpu", "needs a TPU"),
        (jnp.ones((8, 128), jnp.float16), jnp.ones((2, 128, 256)), "tpu", "not float16"),
        (jnp.ones((8, 64)), jnp.ones((2, 64, 256)), "tpu", "multiples of 128"),
        (jnp.ones((1, 2**17)), jnp.ones((1, 2**17, 128)), "tpu", "do not fit into VMEM"),
        (jnp.ones((8, 128)), jnp.ones((2, 128, 256)), "tpu", None),
        (jnp.ones((8, 128)), jnp.ones((8, 256)), "tpu", None),
    ],
)
def test_reasons_name_what_is_beyond_the_kernels(monkeypatch, lhs, rhs, platform, reason):
    monkeypatch.setattr(dispatch, "_chip", lambda: CHIPS["v5p"])
    monkeypatch.setattr(pltpu, "is_tpu_device", lambda: platform == "tpu")
    found = dispatch.why_not(Problem(lhs, rhs, platform))
    assert reason in found if reason else found is None


def test_auto_takes_them_under_the_mesh_of_a_tpu_that_is_not_there():
    device = jax.sharding.AbstractDevice("TPU v5", 2, "tpu")
    mesh = jax.sharding.AbstractMesh((1,), ("device",), abstract_device=device)
    lhs, rhs = (jax.ShapeDtypeStruct(x, jnp.bfloat16) for x in ((8, 128), (2, 128, 256)))
    assert pallas_kernels.grouped_matmul_choice(lhs, rhs).implementation == "xla"
    with jax.sharding.use_abstract_mesh(mesh):
        assert pallas_kernels.grouped_matmul_choice(lhs, rhs).implementation == "mosaic_tpu"


def interpreted(product, **options):
    """One of the kernels on small tiles, several in each direction, in TPU interpret mode."""
    tiles = tiling.Tiles(rows=128, k=options.pop("k"), n=16, piece_rows=32)
    kernel = functools.partial(getattr(dispatch, product), tiles=tiles, **options)
    return functools.partial(kernel, out_dtype=jnp.float32, interpret=pltpu.InterpretParams())


@jit
def three_products(lhs, rhs, grad, group_sizes):
    k, n = rhs.shape[1:]
    return (
        interpreted("matmul", k=k, transpose_rhs=False)(lhs, rhs, group_sizes),
        interpreted("matmul", k=n, transpose_rhs=True)(grad, rhs, group_sizes),
        interpreted("outer", k=16)(lhs, grad, group_sizes),
    )


def assert_agrees_with_reference(lhs, rhs, grad, group_sizes):
    options = {"out_dtype": jnp.float32}
    want = (
        reference.matmul(lhs, rhs, group_sizes, transpose_rhs=False, **options),
        reference.matmul(grad, rhs, group_sizes, transpose_rhs=True, **options),
        reference.outer(lhs, grad, group_sizes, **options),
    )
    for x, y in zip(three_products(lhs, rhs, grad, group_sizes), want, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=2**-21 * len(lhs))


SLOW = ("balanced", "skewed", "one_row_each", "more_groups_than_rows", "one_group")
INTERPRETED = [
    pytest.param(case, id=case.name, marks=pytest.mark.long if case.name in SLOW else ())
    for case in cases.SMALL_CASES
]


@pytest.mark.parametrize("case", INTERPRETED)
def test_interpreted_kernels_agree_with_the_reference(case):
    assert_agrees_with_reference(*(jnp.asarray(x) for x in cases.make_inputs(case)))


def test_rows_of_other_groups_do_not_leak_even_if_they_are_not_numbers():
    case = cases.Case("nan", 384, 16, 24, 4)
    lhs, rhs, grad, _ = (jnp.asarray(x) for x in cases.make_inputs(case))
    group_sizes = jnp.array([7, 33, 0, 60], jnp.int32)
    is_nan = (jnp.arange(384) >= 40)[:, None]
    lhs, grad = (jnp.where(is_nan, jnp.nan, x) for x in (lhs, grad))
    out, dlhs, drhs = three_products(lhs, rhs, grad, group_sizes)
    for x in (out, dlhs):
        assert np.isfinite(x[:40]).all()
        np.testing.assert_array_equal(x[100:], 0.0)
    assert np.isfinite(drhs[:2]).all()
    np.testing.assert_array_equal(drhs[2], 0.0)


@pytest.mark.long
def test_16_bit_products_are_rounded_once():
    lhs, rhs, _, group_sizes = cases.make_inputs(cases.SMALL_CASES[2])
    lhs, rhs = jnp.asarray(lhs, jnp.bfloat16), jnp.asarray(rhs, jnp.bfloat16)
    product = interpreted("matmul", k=16, transpose_rhs=False)
    unrounded = jit(product)(lhs, rhs, group_sizes)
    rounded = jit(functools.partial(product, out_dtype=jnp.bfloat16))(lhs, rhs, group_sizes)
    assert (unrounded != rounded).any()
    np.testing.assert_array_equal(unrounded.astype(jnp.bfloat16), rounded)


@pytest.mark.long
def test_vmap_and_shard_map_agree_with_single_products():
    lhs, rhs, _, _ = (jnp.asarray(x) for x in cases.make_inputs(cases.SMALL_CASES[0]))
    lhs, group_sizes = lhs.reshape(2, 256, -1), jnp.array([[100, 28, 0, 128], [7, 49, 200, 0]])
    product = interpreted("matmul", k=lhs.shape[2], transpose_rhs=False)
    want = [reference.matmul(x, rhs, sizes, transpose_rhs=False, out_dtype=jnp.float32)
            for x, sizes in zip(lhs, group_sizes, strict=True)]  # fmt: skip
    mapped = jit(jax.vmap(product, (0, None, 0)))(lhs, rhs, group_sizes)
    np.testing.assert_allclose(mapped, np.stack(want), atol=1e-4)

    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def local(lhs, rhs, group_sizes):
        rhs = jax.lax.pcast(rhs, ("data",), to="varying")
        return product(lhs[0], rhs, group_sizes[0])[None]

    specs = (P("data"), P(), P("data"))
    sharded = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P("data"))
    np.testing.assert_allclose(jit(sharded)(lhs, rhs, group_sizes), np.stack(want), atol=1e-4)


def abstract(*shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype)


def kernels_with_reckoned_bytes(tpu, case):
    """The three products of a case: function, arguments, bytes of VMEM by the formulas."""
    rows, k, n = case.num_rows, case.contracted, case.out_width
    rhs = abstract(case.num_groups, k, n)
    lhs, grad = abstract(rows, k), abstract(rows, n)
    matmul = functools.partial(dispatch.matmul, out_dtype=jnp.bfloat16)
    for transpose_rhs, (x, y), args in ((False, (k, n), (lhs, rhs)), (True, (n, k), (grad, rhs))):
        tiles = tiling.for_matmul(CHIPS[tpu], x, y, 2, 2)
        yield (
            functools.partial(matmul, transpose_rhs=transpose_rhs),
            args,
            tiling.matmul_bytes(tiles, 2, 2),
        )
    outer = functools.partial(dispatch.outer, out_dtype=jnp.float32)
    tiles = tiling.for_outer(CHIPS[tpu], k, n, 2, 4)
    yield outer, (lhs, grad), tiling.outer_bytes(tiles, 2, 4)


# Tiles depend on widths alone.
BY_WIDTHS = {(case.contracted, case.out_width): case for case in reversed(cases.BENCHMARK_CASES)}


@pytest.mark.aot
@pytest.mark.parametrize("tpu", CHIPS)
@pytest.mark.parametrize("case", BY_WIDTHS.values(), ids=lambda case: case.name)
def test_products_compile_and_take_the_vmem_that_was_reckoned(tpu, case):
    group_sizes = abstract(case.num_groups, dtype=jnp.int32)
    for function, args, reckoned in kernels_with_reckoned_bytes(tpu, case):
        ((name, taken),) = aot.vmem_bytes(
            aot.compile_for(tpu, function, *args, group_sizes)
        ).items()
        print(f"{tpu} {case.name} {name}: {taken / MIB:.1f} MiB, reckoned {reckoned / MIB:.1f}")
        assert reckoned < taken < 1.2 * reckoned + MIB


@pytest.mark.aot
@pytest.mark.parametrize("tpu", CHIPS)
def test_auto_takes_the_kernels_on_a_tpu_and_a_whole_layer_compiles(tpu, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    found = []

    def gradients(x, w_gate_up, w_down, ids, weights, dy):
        found.append(dispatch._chip())
        layer = functools.partial(pallas_kernels.moe_mlp, expert_ids_TK=ids)
        inputs = x, w_gate_up, w_down
        y, pullback = jax.vjp(lambda *a: layer(*a[:3], weights_TK=a[3]), *inputs, weights)
        return y, pullback(dy)

    pairs = (abstract(512, 4, dtype=dtype) for dtype in (jnp.int32, jnp.float32))
    x = abstract(512, 128)
    args = x, abstract(8, 2, 256, 128), abstract(8, 256, 128), *pairs, x
    compiled = aot.compile_for(tpu, gradients, *args)
    names = [name.split(".")[0] for name in aot.vmem_bytes(compiled)]
    assert sorted(names) == ["grouped_matmul"] * 4 + ["grouped_outer"] * 2
    assert found == [CHIPS[tpu]]
