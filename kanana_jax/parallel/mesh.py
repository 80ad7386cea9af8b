"""The device mesh, made in one place, and whether a configuration fits on it.

All axes are Auto: the compiler places the collectives outside shard_map. Explicit axes would refuse
X X^T over a sharded axis, which is what Muon computes.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils

from kanana_jax import config
from kanana_jax.parallel import rules


def make_mesh(cfg: config.MeshConfig, devices: Sequence[Any] | None = None) -> jax.sharding.Mesh:
    """Makes the mesh that `cfg` asks for over `devices` (default: all of them).

    Neighbours on the last axes are neighbours in the machine. With `num_slices` the data axis also
    spans the slices, so that only its collectives take the slow network between them.

    Raises ConfigError when the axis sizes do not use up the devices exactly.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = axis_sizes(cfg, len(devices))
    shape = tuple(sizes.values())
    if cfg.num_slices == 1:
        array = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    else:
        per_slice = (sizes["data"] // cfg.num_slices, *shape[1:])
        array = _over_slices(cfg.num_slices, per_slice, devices)
    kinds = (jax.sharding.AxisType.Auto,) * len(shape)
    return jax.sharding.Mesh(array, tuple(sizes), axis_types=kinds)


def _over_slices(num_slices: int, per_slice: tuple[int, ...], devices: list) -> np.ndarray:
    across = (num_slices, *[1] * (len(per_slice) - 1))
    try:
        return mesh_utils.create_hybrid_device_mesh(
            per_slice, across, devices, allow_split_physical_axes=True
        )
    except ValueError as error:
        raise config.ConfigError(
            f"mesh.num_slices = {num_slices} is not how these devices are connected: {error}"
        ) from error


def axis_sizes(cfg: config.MeshConfig, num_devices: int) -> dict[str, int]:
    """Devices along each axis, with -1 replaced; ConfigError when they do not use them up."""
    sizes = dataclasses.asdict(cfg)
    num_slices = sizes.pop("num_slices")
    open_axes = [name for name, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if open_axes and num_devices % fixed == 0:
        sizes[open_axes[0]] = num_devices // fixed
    if math.prod(sizes.values()) != num_devices:
        raise config.ConfigError(
            f"mesh axes {sizes} do not multiply to the {num_devices} devices present; "
            "set them so that they do, or one of them to -1"
        )
    if sizes["data"] % num_slices:
        raise config.ConfigError(
            f"mesh.data = {sizes['data']} does not divide over mesh.num_slices = {num_slices}"
        )
    return sizes


def check(
    model: config.ModelConfig,
    batch_size: int,
    seq_len: int,
    num_micro: int,
    sizes: Mapping[str, int],
) -> None:
    """Raises ConfigError unless every device gets an equal part; says which numbers clash.

    The batch is computed in `num_micro` micro-batches.
    """
    mlp_axes = rules.mesh_axes("mlp")
    needs = [
        ("data.batch_size", batch_size, rules.mesh_axes("batch"), num_micro),
        ("data.seq_len", seq_len, rules.mesh_axes("head_sequence"), 1),
        ("model.num_heads", model.num_heads, rules.mesh_axes("heads"), 1),
        ("model.hidden_size", model.hidden_size, rules.mesh_axes("embed"), 1),
    ]
    of_attention = {"q_lora_rank": "q_lora", "kv_lora_rank": "kv_lora", "num_kv_heads": "kv_heads"}
    for name, logical in of_attention.items():
        if (number := getattr(model, name)) is not None:
            needs.append((f"model.{name}", number, rules.mesh_axes(logical), 1))
    if model.num_dense_layers:
        needs.append(("model.intermediate_size", model.intermediate_size, mlp_axes, 1))
    if model.num_moe_layers:
        needs += [
            ("model.num_experts", model.num_experts, rules.mesh_axes("experts"), 1),
            ("model.moe_intermediate_size", model.moe_intermediate_size, mlp_axes, 1),
        ]
    for name, number, axes, times in needs:
        devices = math.prod(sizes[axis] for axis in axes)
        if number % (devices * times):
            split = " x ".join(f"{axis}={sizes[axis]}" for axis in axes)
            micro = f" in {times} micro-batches" if times > 1 else ""
            raise config.ConfigError(
                f"{name} = {number} does not divide{micro} over mesh {split} = {devices} devices; "
                f"change {name} or one of these axes"
            )
