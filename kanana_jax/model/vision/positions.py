"""Where a patch is, for an encoder of any grid.

    learned   the table of G x G vectors, resampled to an image's grid by bicubic interpolation
              (a = -3/4, corners not aligned)
    rotary    pair i of a head turns by x f_j where i = 2 j, and by y f_j where i = 2 j + 1;
              f_j = theta^(-4 j / K)

Both are functions of (row, column, rows, columns) of each patch, so a batch may hold any grids.

Letters: B rows of a batch, P patches, D width of the encoder, G side of the learned grid, K width
of a head, T taps (4).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kanana_jax.model.rope import Rotation

_SHARPNESS = -0.75
THETA = 10_000.0
_JOINT = [(0, 1), (0, 1)]  # the weights of both axes first


def learned(
    table_GGD: Float[Array, "G G D"], places_BP4: Int[Array, "B P 4"]
) -> Float[Array, "B P D"]:
    """The table's vector for each patch, in float32.

    It is a product with every vector of the table, and most weights are 0. If 16 vectors were
    looked up, many patches would add their gradients to few places.
    """
    y_BP, x_BP, rows_BP, columns_BP = (places_BP4[..., i] for i in range(4))
    weight_BPy = _weights(y_BP, rows_BP, table_GGD.shape[0])
    weight_BPx = _weights(x_BP, columns_BP, table_GGD.shape[1])
    return jnp.einsum("BPy,BPx,yxD->BPD", weight_BPy, weight_BPx, table_GGD, optimize=_JOINT)


def _weights(
    place_BP: Int[Array, "B P"], size_BP: Int[Array, "B P"], grid: int
) -> Float[Array, "B P G"]:
    """Weights of the entries of an axis of the table, for a place on an axis of another size."""
    size_BP = jnp.maximum(size_BP, 1)  # padding has no grid
    at_BP = (place_BP.astype(jnp.float32) + 0.5) * (grid / size_BP) - 0.5
    floor_BP = jnp.floor(at_BP)
    offset_T = jnp.arange(-1, 3)
    weight_BPT = _cubic((at_BP - floor_BP)[..., None] - offset_T)
    at_BPT = jnp.clip(floor_BP.astype(jnp.int32)[..., None] + offset_T, 0, grid - 1)
    # Beyond the border, the entry at the border stands for the missing ones.
    return jnp.sum(weight_BPT[..., None] * jax.nn.one_hot(at_BPT, grid), axis=-2)


def _cubic(distance: Array) -> Array:
    """Keys' convolution kernel, which is 0 beyond 2."""
    a, d = _SHARPNESS, jnp.abs(distance)
    inner = ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
    outer = ((d - 5.0) * d + 8.0) * d * a - 4.0 * a
    return jnp.where(d <= 1.0, inner, jnp.where(d < 2.0, outer, 0.0))


def rotation(places_BP4: Int[Array, "B P 4"], head_dim: int) -> Rotation:
    """The rotation that `rope.rotate_halves` takes."""
    frequency = THETA ** (-jnp.arange(0, head_dim // 2, 2, jnp.float32) / (head_dim // 2))
    xy_BP2 = places_BP4[..., 1::-1].astype(jnp.float32)
    angle_BPr = (frequency[:, None] * xy_BP2[..., None, :]).reshape(*xy_BP2.shape[:2], -1)
    return Rotation(jnp.cos(angle_BPr), jnp.sin(angle_BPr))
