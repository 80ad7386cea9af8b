"""Forms that XLA compiles better; the first line of each function gives its mathematics.

A function says what XLA did with the plain form and where. "H100" is an NVIDIA H100 80GB HBM3 with
jax 0.11.2, which the decoding and training records in benchmarks/ name. A form that a later XLA
does not need can be replaced by the plain one.

Letters: B batch, S sequence, T cache length, H heads, D and C inputs, E, I and M outputs, G stacked
matrices, J latent and rotary key, K rows of all matrices, L layers.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kanana_jax.model import exact
from kanana_jax.parallel import local

# From so many tokens on, taking float32 weights apart costs less than it saves.
_MANY_TOKENS = 256


@jax.custom_vjp
def unstack_layers(stack: Array) -> tuple[Array, ...]:
    """The layers (L, ...) of a leaf one by one, by indices that XLA does not know.

    With indices that it knows, XLA:GPU (H100) first casts the whole leaf to the compute dtype, in
    a pass of its own.
    """
    indices = jax.lax.optimization_barrier(jnp.arange(stack.shape[0]))
    return tuple(jax.lax.dynamic_index_in_dim(stack, i, keepdims=False) for i in indices)


unstack_layers.defvjp(
    lambda stack: (unstack_layers(stack), None), lambda _, grads: (jnp.stack(grads),)
)


def pad_single_row(fn: Callable[[Array], Array], x: Float[Array, "B S *axes"]) -> Array:
    """fn(x), for a function that treats each row alone; one token gets a row of zeros next to it.

    XLA:GPU (H100) turns a product with one row into a sum of products, which it writes to memory.
    """
    if x.shape[:2] != (1, 1):
        return fn(x)
    return fn(jnp.concatenate([x, jnp.zeros_like(x)]))[:1]


def own_kernel(x: Float[Array, "B S *axes"]) -> Array:
    """x; for one token, its computation is not fused with what follows.

    Fused, XLA:GPU (H100) reads the weights of a product at half the speed.
    """
    return jax.lax.optimization_barrier(x) if x.shape[:2] == (1, 1) else x


def keep_score_layout(score_BHST: Float[Array, "B H S T"]) -> Float[Array, "B H S T"]:
    """The scores; those of one token keep their layout.

    XLA:GPU (H100) prefers them transposed, and then a softmax takes five kernels. 64 rows are 2 %
    faster without this.
    """
    num_rows, _, num_tokens, _ = score_BHST.shape
    is_one_token = (num_rows, num_tokens) == (1, 1)
    return jax.lax.optimization_barrier(score_BHST) if is_one_token else score_BHST


def weighted_latents(
    weight_BHST: Float[Array, "B H S T"], cached_BTJ: Float[Array, "B T J"], size: int
) -> Float[Array, "B S H C"]:
    """sum_t weight_t cached_t of the first `size` columns of the cache.

    All columns are summed and then sliced: XLA:GPU (H100) copies a slice of the cache.
    """
    return jnp.einsum("BHST,BTJ->BSHJ", weight_BHST, cached_BTJ)[..., :size]


def joint_product(
    einsum: Callable[..., Array],
    x_BSD: Float[Array, "B S D"],
    w_GID: Float[Array, "G I D"],
) -> list[Float[Array, "B S I"]]:
    """x W_g^T for each matrix of a stack, made as one product.

    For several products, XLA:GPU (H100) copies the matrices out of the stack, in a loop. XLA:CPU
    transposes a stack at every call, but not one tall matrix; there decoding SmolLM2-135M takes
    0.65 of the time. Several devices hold parts of each matrix, which a tall one would tear apart.
    """
    if local.platform() == "cpu" and local.is_alone():
        tall_KD = w_GID.reshape(-1, w_GID.shape[-1])
        return jnp.split(einsum("BSD,KD->BSK", x_BSD, tall_KD), w_GID.shape[0], axis=-1)
    h_BSGI = einsum("BSD,GID->BSGI", x_BSD, w_GID)
    return [h_BSGI[:, :, g] for g in range(w_GID.shape[0])]


def separate_products(
    einsum: Callable[..., Array],
    x_BSC: Float[Array, "B S C"],
    w_CHM: Float[Array, "C H M"],
    size: int,
) -> list[Float[Array, "B S H _"]]:
    """x W with the last axis in two parts, the first of `size` columns; a product each.

    With one product, XLA:GPU (H100) copies the second part out, and puts the gradients of both
    into one array.
    """
    return [
        einsum("BSC,CHM->BSHM", x_BSC, part_CHM)
        for part_CHM in (w_CHM[..., :size], w_CHM[..., size:])
    ]


def float32_product(
    x_BSD: Float[Array, "B S D"], w_DE: Float[Array, "D E"]
) -> Float[Array, "B S E"]:
    """x W in full float32, by bfloat16 products where x is bfloat16 and has many tokens.

    XLA:GPU (H100) has no units for float32 products. With few tokens, as in decoding, the plain
    product takes less time than taking the weights apart.
    """
    if x_BSD.dtype == jnp.bfloat16 and math.prod(x_BSD.shape[:2]) >= _MANY_TOKENS:
        return exact.matmul(x_BSD, w_DE)
    return jnp.einsum(
        "BSD,DE->BSE", x_BSD.astype(jnp.float32), w_DE, precision=jax.lax.Precision.HIGHEST
    )
