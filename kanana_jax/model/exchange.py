"""Sends each token once to each device that holds its experts, and brings the sums back.

    received = send(routes, x)          rows of this device's experts, from all devices
    out      = send_back(routes, y)     out[t] = sum of y over the devices that had token t

The two are each other's transpose, so that each is the other's derivative. No token is dropped: a
device makes room for every token of the axis, as it does for an all-gather.

Letters: T tokens here, K experts per token, E experts, X devices of the expert axis, M rows sent,
R = X T rows received at most, D width.
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kanana_jax.config import ExecutionConfig, ModelConfig
from kanana_jax.parallel import local, ragged
from pallas_kernels.moe_mlp import routing

# An all-gather passes each row on from neighbour to neighbour; the exchange packs rows first, and
# on a torus some cross the links in between. So it has to save this much to be worthwhile.
WORTH_WHILE = 0.5


class Routes(NamedTuple):
    token_M: Int[Array, "M"]  # the token in each row to send, sorted by device
    row_TK: Int[Array, "T K"]  # the row of each choice; M where an earlier one goes there too
    size_XX: Int[Array, "X X"]  # rows from each device to each


def share_sent(num_experts: int, num_chosen: int, num_devices: int) -> float:
    """The cost model: which share of an all-gather's bytes the exchange moves, on average.

    Per token and direction an all-gather (or reduce-scatter) over X devices moves X - 1 rows of the
    model's width, one to each other device. The exchange moves one to each other device that holds
    a chosen expert. When every set of K of E experts is equally likely, a device with E / X of them
    holds none with probability C(E - E/X, K) / C(E, K), so a token moves

        (X - 1) p,    p = 1 - C(E - E/X, K) / C(E, K) <= min(1, K / X)

    rows. Routing to few groups of experts moves less; skewed routing moves other rows, never more
    than an all-gather. A token's choices, 8 K bytes, travel with its row.
    """
    elsewhere = num_experts - num_experts // num_devices
    return 1 - math.comb(elsewhere, num_chosen) / math.comb(num_experts, num_chosen)


def form(
    cfg: ModelConfig, execution: ExecutionConfig, num_devices: int, platform: str
) -> Literal["gather", "ragged"]:
    """What execution.expert_exchange names; "auto": ragged on TPUs where it saves half the bytes.

    CPUs have no ragged all-to-all. XLA's on GPUs of one host is reported to reach 2 % of NVLink's
    bandwidth (github.com/openxla/xla/issues/33386).
    """
    if num_devices == 1:
        return "gather"
    if execution.expert_exchange != "auto":
        return execution.expert_exchange
    share = share_sent(cfg.num_experts, cfg.num_experts_per_token, num_devices)
    return "ragged" if platform == "tpu" and share <= WORTH_WHILE else "gather"


def route(device_TK: Int[Array, "T K"]) -> Routes:
    """The routes of tokens whose experts are on these devices, within `shard_map`."""
    num_devices, top_k = local.axis_size("expert"), device_TK.shape[1]
    is_same_TKK = device_TK[:, :, None] == device_TK[:, None, :]
    is_again_TK = jnp.tril(is_same_TKK, -1).any(axis=2)
    sorted_ = routing.sort_by_expert(jnp.where(is_again_TK, num_devices, device_TK), num_devices)
    num_rows = device_TK.shape[0] * min(top_k, num_devices)
    return Routes(
        token_M=sorted_.pair_M[:num_rows] // top_k,
        row_TK=jnp.where(is_again_TK, num_rows, sorted_.row_TK),
        size_XX=jax.lax.all_gather(sorted_.group_sizes_E, "expert"),
    )


def num_received(routes: Routes) -> Int[Array, ""]:
    return routes.size_XX[:, local.axis_index("expert")].sum()


@jax.custom_vjp
def send(routes: Routes, x_TD: Float[Array, "T D"]) -> Float[Array, "R D"]:
    """The rows of all devices that this one's experts need, then zeros."""
    num_tokens = x_TD.shape[0]
    return ragged.exchange(
        x_TD[routes.token_M],
        routes.size_XX,
        "expert",
        num_rows=routes.size_XX.shape[0] * num_tokens,
        max_block=num_tokens,
    )


@jax.custom_vjp
def send_back(routes: Routes, y_RD: Float[Array, "R D"]) -> Float[Array, "T D"]:
    """Returns rows to the tokens they came from, summed in float32 in the order of choices."""
    rows_MD = ragged.exchange(
        y_RD,
        routes.size_XX.T,
        "expert",
        num_rows=routes.token_M.shape[0],
        max_block=routes.row_TK.shape[0],
    )
    total_TD = jnp.float32(0)
    for k in range(routes.row_TK.shape[1]):  # K gathers, which a compiler can fuse with their sum
        rows_TD = rows_MD.at[routes.row_TK[:, k]].get(mode="fill", fill_value=0)
        total_TD += rows_TD.astype(jnp.float32)
    return total_TD.astype(y_RD.dtype)


send.defvjp(
    lambda routes, x_TD: (send(routes, x_TD), routes),
    lambda routes, grad_RD: (None, send_back(routes, grad_RD)),
)
send_back.defvjp(
    lambda routes, y_RD: (send_back(routes, y_RD), routes),
    lambda routes, grad_TD: (None, send(routes, grad_TD)),
)
