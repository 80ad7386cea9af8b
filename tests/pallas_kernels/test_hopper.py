"""What the Hopper kernels share, as far as a CPU can tell."""

import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels import hopper


class Memory(NamedTuple):
    x_smem: str
    ready: str
    stand_in: str | None = None


def test_pick_takes_the_scratch_that_fields_name():
    scratch = {"ready": "barrier", "other": "not asked for", "x_smem": "buffer"}
    assert hopper.pick(Memory, scratch) == Memory("buffer", "barrier")
    scratch["stand_in"] = "of interpret mode"
    assert hopper.pick(Memory, scratch).stand_in == "of interpret mode"


def test_pick_misses_a_field_without_default():
    with pytest.raises(TypeError, match="ready"):
        hopper.pick(Memory, {"x_smem": "buffer"})


@pytest.mark.parametrize(("dtype", "cols"), [(jnp.bfloat16, 64), (jnp.float32, 32)])
def test_a_swizzled_row_is_128_bytes(dtype, cols):
    assert hopper.tile_cols(dtype) == cols


@pytest.mark.parametrize(
    ("platform", "capability", "reason"),
    [
        ("cpu", None, "needs a Hopper GPU, the default backend is cpu"),
        ("gpu", "8.0", "the GPU has 8.0"),
        ("gpu", "9.0", None),
    ],
)
def test_why_not_names_what_is_there(monkeypatch, platform, capability, reason):
    device = types.SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    found = hopper.why_not(platform)
    assert found is None if reason is None else reason in found
