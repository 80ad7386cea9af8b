"""The same update on one and on eight devices, and how many collectives it takes."""

import collections
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from kanana_jax import optim

STACK = optim.MatrixSpec(batch=(0,), rows=(1,), cols=(2,))
EXPERTS = optim.MatrixSpec(batch=(0, 1), rows=(2,), cols=(3,))
_KINDS = "all-gather|all-to-all|all-reduce|collective-permute|reduce-scatter"

# name: (shape, spec, partition)
LEAVES = {
    "rows": ((16, 32, 64), STACK, PartitionSpec(None, "fsdp", None)),
    "rows_few": ((3, 32, 64), STACK, PartitionSpec(None, "fsdp")),
    "cols": ((5, 32, 24), STACK, PartitionSpec(None, None, "fsdp")),
    "experts": ((2, 8, 12, 24), EXPERTS, PartitionSpec(None, "fsdp")),
}


def mesh_of(**axes):
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))


def collectives(compiled):
    found = re.findall(rf" ({_KINDS})(?:-start)?\(", compiled.as_text())
    return dict(collections.Counter(found))


def compile_step(optimizer, names, mesh, leaves=LEAVES):
    """Compile one sharded step; return it, its arguments, and the same arguments on one device."""
    rng = np.random.default_rng(0)
    params = {n: jnp.asarray(rng.standard_normal(leaves[n][0]), jnp.float32) for n in names}
    shardings = {n: NamedSharding(mesh, leaves[n][2]) for n in names}
    by_shape = {leaves[n][0]: shardings[n] for n in names}
    replicated = NamedSharding(mesh, PartitionSpec())

    def place(tree):
        return jax.tree.map(lambda x: jax.device_put(x, by_shape.get(x.shape, replicated)), tree)

    state = optimizer.init(params)
    step = jax.jit(optimizer.update, out_shardings=(shardings, None))
    sharded = tuple(place(tree) for tree in (params, state, params))
    return step.lower(*sharded).compile(), sharded, (params, state, params)


def our_muon(names, layout, leaves=LEAVES):
    return optim.muon(
        0.1, {n: leaves[n][1] for n in names}, compute_dtype=jnp.float32, layout=layout
    )


def optax_muon(names):
    numbers = {
        n: optax.contrib.MuonDimensionNumbers(LEAVES[n][1].rows, LEAVES[n][1].cols) for n in names
    }
    return optax.contrib.muon(0.1, muon_weight_dimension_numbers=numbers, consistent_rms=0.2)


def spread_over(mesh, names, leaves=LEAVES, **options):
    return optim.layouts.spread(mesh, {n: leaves[n][2] for n in names}, **options)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        # One reshard in and one out per shape bucket; leaves of one shape share a bucket.
        (("rows",), {"all-to-all": 2}),
        (("rows", "rows_few"), {"all-to-all": 2}),
        (("rows", "rows_few", "cols"), {"all-to-all": 4}),
        (("experts",), {}),
    ],
)
def test_spread_reshards_once_in_and_once_out_per_shape(names, expected):
    mesh = mesh_of(fsdp=8)
    optimizer = our_muon(names, spread_over(mesh, names))
    compiled, _, _ = compile_step(optimizer, names, mesh)
    assert collectives(compiled) == expected


def test_without_a_layout_experts_stay_in_place_and_sharded_matrices_are_gathered_often():
    mesh = mesh_of(fsdp=8)
    ours, _, _ = compile_step(our_muon(("experts",), optim.layouts.in_place), ("experts",), mesh)
    assert collectives(ours) == {}
    # These numbers make a layout worthwhile. If one falls, the table in README.md is outdated.
    gathered, _, _ = compile_step(our_muon(("rows",), optim.layouts.in_place), ("rows",), mesh)
    theirs, _, _ = compile_step(optax_muon(("rows",)), ("rows",), mesh)
    assert collectives(gathered)["all-gather"] >= 10
    assert collectives(theirs)["all-gather"] >= 10


@pytest.mark.parametrize("layout", [pytest.param("in_place", marks=pytest.mark.long), "spread"])
def test_eight_devices_give_the_update_of_one(layout):
    mesh, names = mesh_of(fsdp=8), tuple(LEAVES)
    chosen = optim.layouts.in_place if layout == "in_place" else spread_over(mesh, names)
    compiled, sharded, plain = compile_step(our_muon(names, chosen), names, mesh)
    got, _ = compiled(*sharded)
    expected, _ = jax.jit(our_muon(names, optim.layouts.in_place).update)(*plain)
    for name in names:
        # Sums of 64 terms in another order, through five rows that amplify by up to 8.
        np.testing.assert_allclose(got[name], expected[name], atol=1e-5)
        assert got[name].sharding.spec == LEAVES[name][2] or name != "rows"


@pytest.mark.long
def test_rows_and_columns_sharded_over_two_axes_and_shared_replicas_agree_too():
    leaves = {
        "both": ((5, 32, 64), STACK, PartitionSpec(None, "fsdp", "tensor")),
        "heads": (
            (3, 16, 4, 8),
            optim.MatrixSpec(batch=(0,), rows=(1,), cols=(2, 3)),
            PartitionSpec(None, None, "tensor"),
        ),
        "whole": ((6, 16, 24), STACK, PartitionSpec()),
    }
    mesh, names = mesh_of(fsdp=2, tensor=2, data=2), tuple(leaves)
    layout = spread_over(mesh, names, leaves, share_over=("data",))
    compiled, sharded, plain = compile_step(our_muon(names, layout, leaves), names, mesh, leaves)
    got, _ = compiled(*sharded)
    expected, _ = jax.jit(our_muon(names, optim.layouts.in_place, leaves).update)(*plain)
    for name in names:
        np.testing.assert_allclose(got[name], expected[name], atol=1e-5)
    assert collectives(compiled) == {"all-to-all": 4, "all-gather": 3}


def test_partitions_that_spread_cannot_serve_raise():
    mesh = mesh_of(fsdp=8)
    params = {"w": jnp.ones((2, 8, 16))}
    grads = params

    def update(spec, partitions):
        optimizer = optim.muon(0.1, {"w": spec}, layout=optim.layouts.spread(mesh, partitions))
        optimizer.update(grads, optimizer.init(params), params)

    with pytest.raises(ValueError, match=r"missing \['w'\]"):
        update(STACK, {"v": PartitionSpec()})
    split = optim.MatrixSpec(batch=(0,), rows=(1,), cols=(2,), split_axis=2, split_sizes=(8, 8))
    with pytest.raises(ValueError, match="axis 2 is cut into parts"):
        update(split, {"w": PartitionSpec(None, None, "fsdp")})
    merged = optim.MatrixSpec(rows=(0, 1), cols=(2,))
    with pytest.raises(ValueError, match="only the first may be"):
        update(merged, {"w": PartitionSpec(None, "fsdp")})
