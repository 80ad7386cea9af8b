"""The polar factor U V^T of a matrix X = U S V^T, by matrix products only.

    R = X X^T        P = a I + b R + c R R        X <- P X        for each row (a, b, c)

R is M x M with M the short edge: for tall X the products are taken from the other side. The Gram
form does two or three rows on R alone (R <- P R P, Q <- P Q) before it touches X again (X <- Q X),
which is cheaper for long matrices.

In float16, the dtype for GPUs, a scaled sum of matrices would cost XLA a pass over memory for each
row. The square is completed instead,

    k P = (g R + h I)^2 + d I        k = g^2 / c        h = g b / (2 c)        d = k a - h^2

so that rows differ from products only on the diagonal. R is stored times g, which a row turns into
k^2 g, and X times sqrt(g). A kernel for the symmetric products, if given, adds b R and a I itself.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from kanana_jax.optim import chunks, dtypes
from kanana_jax.optim.coefficients import PolarSchedule, Row

Method = Literal["auto", "direct", "gram"]


_METHODS = ("direct", "gram")
# The rows of the first visit grow the eigenvalues of R near 0, and its rounding errors with them.
# Up to this factor three rows before a fresh R are as exact as one, for every spectrum tried
# (benchmarks/gram_visits.py). Polar Express grows them 17,000 times, and single matrices diverge.
_MAX_GROWTH = 2000.0


class _Square(NamedTuple):
    """A row as (g R + shift I)^2 + offset I."""

    shift: float
    offset: float


class SymmetricProduct(Protocol):
    """scale left right^T + addend_scale addend + diagonal I, where that is known to be symmetric.

    A kernel may compute half of it, see `pallas_kernels.symmetric_matmul`.
    """

    def __call__(
        self,
        left: jax.Array,
        right: jax.Array,
        addend: jax.Array | None = None,
        /,
        *,
        scale: float = 1.0,
        addend_scale: float = 1.0,
        diagonal: float = 0.0,
    ) -> jax.Array: ...


def polar(
    x: jax.Array,
    schedule: PolarSchedule,
    *,
    compute_dtype: jax.typing.DTypeLike = jnp.bfloat16,
    method: Method = "auto",
    visits: Sequence[int] | None = None,
    symmetric_product: SymmetricProduct | None = None,
    chunk_bytes: int = chunks.CHUNK_BYTES,
) -> jax.Array:
    """Return the approximate polar factors of the matrices in the last two axes, in x's dtype.

    Factors of complex matrices are unitary; they take twice the work of complex products.
    Any scale that float32 can hold is accepted; zero matrices, rows and columns stay zero. "auto"
    takes the form with fewer multiplications, but never "gram" in bfloat16: there Polar Express
    with its usual safety factor leaves too little room for rounding and a few matrices in a hundred
    diverge; safety=1.05 fixes that. `visits` says how many rows of the Gram form follow each fresh
    R, in order; None: as many as stay exact. `symmetric_product`, a kernel that computes half of
    its result, may replace the products whose result is known to be symmetric. Stacks above
    `chunk_bytes` in the compute dtype are iterated chunk by chunk: memory besides x is four chunks
    at most.
    """
    if x.ndim < 2 or not jnp.issubdtype(x.dtype, jnp.inexact):
        raise ValueError(
            "polar needs (..., M, N) matrices of real or complex numbers, got "
            f"{x.dtype} with shape {x.shape}."
        )
    if method not in ("auto", *_METHODS):
        raise ValueError(f'method must be "auto", "direct" or "gram", got {method!r}.')
    compute_dtype = jnp.dtype(compute_dtype)
    if jnp.iscomplexobj(x):
        alone = functools.partial(
            polar,
            schedule=schedule,
            compute_dtype=compute_dtype,
            method=method,
            visits=visits,
            symmetric_product=symmetric_product,
            chunk_bytes=chunk_bytes,
        )
        return _from_real_form(alone(_real_form(x))).astype(x.dtype)
    if method == "auto":
        method = choose_method(x.shape[-2], x.shape[-1], schedule, compute_dtype)
    symmetric = _symmetric_product if symmetric_product is None else symmetric_product

    cuts, before, after = _cut(schedule, method, visits), 1.0, 1.0
    if symmetric is _symmetric_product and compute_dtype == jnp.float16 and _are_quintic(schedule):
        cuts, before, after = _complete_squares(cuts)
    unit = (before * unit_frobenius(x)).astype(compute_dtype)

    def iterate(unit):
        unit, gram = _precondition(unit, schedule, symmetric, before)
        for rows in cuts:
            unit = _visit(unit, gram, rows, symmetric)
            gram = None
        return unit

    # Chunks start here and not at x: a loop over x itself would hold it in float32.
    factor = chunks.in_chunks(iterate, unit, chunk_bytes)
    return (factor.astype(dtypes.wide_dtype(x)) / after).astype(x.dtype)


def _cut(
    schedule: PolarSchedule, method: Literal["direct", "gram"], visits: Sequence[int] | None
) -> list[tuple[Row, ...]]:
    """The rows between one fresh R and the next."""
    if visits is None:
        return _visits(schedule, method)
    if method != "gram" or sum(visits) != len(schedule.rows) or min(visits) < 1:
        raise ValueError(
            f'visits cut the {len(schedule.rows)} rows of the schedule where method="gram"; got '
            f"{tuple(visits)} and method={method!r}."
        )
    rows = iter(schedule.rows)
    return [tuple(itertools.islice(rows, count)) for count in visits]


def choose_method(
    num_rows: int, num_cols: int, schedule: PolarSchedule, compute_dtype: jax.typing.DTypeLike
) -> Literal["direct", "gram"]:
    """Return the form "auto" takes: the cheaper one that is safe in this dtype."""
    if jnp.finfo(compute_dtype).nmant < 10:
        return "direct"
    gram, direct = (polar_flops(num_rows, num_cols, schedule, m) for m in ("gram", "direct"))
    return "gram" if gram < direct else "direct"


def polar_flops(
    num_rows: int, num_cols: int, schedule: PolarSchedule, method: Literal["direct", "gram"]
) -> int:
    """Floating-point operations of `polar` on one matrix, symmetric results counted in full."""
    short, long = sorted((num_rows, num_cols))
    visits = _visits(schedule, method)
    on_x = 2 * len(visits)  # R = X X^T and X <- Q X
    on_gram = sum(4 * len(rows) - 3 for rows in visits)
    return 2 * short * short * (on_x * long + on_gram * short)


def unit_frobenius(x: jax.Array) -> jax.Array:
    """Divide each matrix by its Frobenius norm, in float32 or wider."""
    x = dtypes.widen(x)
    norm = _frobenius_norm(x)
    return x / jnp.where(norm > 0.0, norm, 1.0)


def orthogonality_error(x: jax.Array) -> jax.Array:
    """Return |A - I|_F / sqrt(M) of each matrix, with A its Gram matrix on the short edge M."""
    x = dtypes.widen(_real_form(x) if jnp.iscomplexobj(x) else x)
    gram = _gram(x, _symmetric_product)
    size = gram.shape[-1]
    return jnp.linalg.norm(gram - jnp.eye(size, dtype=gram.dtype), axis=(-2, -1)) / size**0.5


def _real_form(x: jax.Array) -> jax.Array:
    """Return [[A, -B], [B, A]] for A + iB: products, and so polar factors, have the same form."""
    real, imag = x.real, x.imag
    upper = jnp.concatenate([real, -imag], axis=-1)
    return jnp.concatenate([upper, jnp.concatenate([imag, real], axis=-1)], axis=-2)


def _from_real_form(x: jax.Array) -> jax.Array:
    left = x[..., : x.shape[-1] // 2]
    return jax.lax.complex(*jnp.split(left, 2, axis=-2))


def product(left: jax.Array, right: jax.Array) -> jax.Array:
    """Multiply in the operands' dtype; float32 is never lowered to bfloat16 or TF32 products."""
    is_exact = left.dtype in (jnp.float32, jnp.float64)
    return jnp.matmul(left, right, precision="highest" if is_exact else "default")


def _visits(schedule: PolarSchedule, method: Literal["direct", "gram"]) -> list[tuple[Row, ...]]:
    """Return the rows between one fresh R = X X^T and the next.

    Rounding R makes its eigenvalues wrong by an absolute amount, which the next rows amplify: two
    rows between fresh ones are as exact as one, five diverge. The first R, of a matrix of Frobenius
    norm 1, is small, and later visits still correct its errors: it may bear three.
    """
    if method == "direct":
        return [(row,) for row in schedule.rows]
    growth = math.prod(a * a for a, _, _ in schedule.rows[:3])
    bears_three = schedule.precondition == "frobenius" and growth < _MAX_GROWTH
    first = 3 if bears_three else 2
    starts = range(first, schedule.steps, 2)
    return [schedule.rows[:first], *(schedule.rows[i : i + 2] for i in starts)]


def _complete_squares(
    visits: list[tuple[Row, ...]],
) -> tuple[list[list[_Square]], float, float]:
    """Return the visits with rows as squares, and the factors of X before and after them.

    A square has no factor of its own: g and c decide the factor k of P. The last g is chosen to
    leave P as it is. Going back from there, the g before a row is the fifth root of c^2 times the
    g after it, so that differences between rows fade.
    """
    rows = [row for visit in visits for row in visit]
    scale = abs(rows[-1][2]) ** 0.5
    after = math.prod(math.copysign(1.0, c) for _, _, c in rows) * scale**0.5
    squares = []
    for a, b, c in reversed(rows):
        scale = (scale * c * c) ** 0.2
        shift = scale * b / (2.0 * c)
        squares.append(_Square(shift, scale**2 / c * a - shift**2))
    return [[squares.pop() for _ in visit] for visit in visits], scale**0.5, after


def _are_quintic(schedule: PolarSchedule) -> bool:
    return all(c != 0.0 for _, _, c in schedule.rows)


def _visit(
    x: jax.Array,
    gram: jax.Array | None,
    rows: Sequence[Row | _Square],
    symmetric: SymmetricProduct,
) -> jax.Array:
    """Apply some rows to X through their product Q, a polynomial of X's Gram matrix."""
    gram = _gram(x, symmetric) if gram is None else gram
    total = None
    for nth, row in enumerate(rows, 1):
        step, gram = _polynomial(gram, row, symmetric)
        # Polynomials of one matrix commute, so their products are symmetric too.
        total = step if total is None else symmetric(step, total)
        if nth < len(rows):
            # In this order: (R P) P with halves mirrored lets single values escape in float16.
            gram = symmetric(step, symmetric(gram, step))
    assert total is not None
    # Transposed, though symmetric: cuBLAS is 2 to 3 % faster on long matrices then (on an H100).
    return product(x, total) if _is_tall(x) else product(total.mT, x)


def _polynomial(
    gram: jax.Array, row: Row | _Square, symmetric: SymmetricProduct
) -> tuple[jax.Array, jax.Array]:
    """Return a row's P, or k P, and R again, as its memory may have been used."""
    if not isinstance(row, _Square):
        a, b, c = row
        return symmetric(gram, gram, gram, scale=c, addend_scale=b, diagonal=a), gram
    # Gathers: strided slices of the diagonals made an optimizer step take 91 ms, not 82 (H100).
    diagonal = jnp.diagonal(gram, axis1=-2, axis2=-1)
    wanted = diagonal.astype(jnp.float32) + row.shift
    rounded = wanted.astype(gram.dtype)
    shifted = _with_diagonal(gram, rounded)
    step = product(shifted, shifted)
    # In place: after the product that reads it, and with the digits that the sum lost.
    step, shifted = jax.lax.optimization_barrier((step, shifted))
    gram = _with_diagonal(shifted, diagonal)
    # The main effect of rounding the diagonal: (w + e)^2 = w^2 + 2 e w + ...
    lost = rounded.astype(jnp.float32) - wanted
    squared = jnp.diagonal(step, axis1=-2, axis2=-1).astype(jnp.float32)
    offset = row.offset - 2.0 * lost * wanted
    return _with_diagonal(step, (squared + offset).astype(step.dtype)), gram


def _with_diagonal(x: jax.Array, diagonal: jax.Array) -> jax.Array:
    i = jnp.arange(x.shape[-1])
    return x.at[..., i, i].set(diagonal, unique_indices=True, indices_are_sorted=True)


def _symmetric_product(left, right, addend=None, /, *, scale=1.0, addend_scale=1.0, diagonal=0.0):
    """The plain form, for operands that are symmetric themselves; other terms added in float32.

    So P = a I + b R + c R R is rounded once. The usual form keeps a X apart and rounds X against
    terms up to three times its size: with eight steps in bfloat16 that turned the factor by 4 %,
    this form by 0.8 %.
    """
    result = product(left, right)
    if addend is None and (scale, diagonal) == (1.0, 0.0):
        return result
    wide = dtypes.wide_dtype(left)
    total = diagonal * jnp.eye(left.shape[-2], dtype=wide)
    if addend is not None:
        total += addend_scale * addend.astype(wide)
    return (total + scale * result.astype(wide)).astype(left.dtype)


def _gram(x: jax.Array, symmetric: SymmetricProduct) -> jax.Array:
    short = x.mT if _is_tall(x) else x
    if symmetric is _symmetric_product:
        return product(short, short.mT)
    return symmetric(short, short)


def _is_tall(x: jax.Array) -> bool:
    return x.shape[-2] > x.shape[-1]


def _precondition(
    x: jax.Array, schedule: PolarSchedule, symmetric: SymmetricProduct, factor: float
) -> tuple[jax.Array, jax.Array | None]:
    """Return the matrix the rows start from, and its Gram matrix if that is known already.

    "aol" (arXiv:2512.04632) divides row i by sqrt(sum_j |R_ij|): no singular value is above 1, and
    they start closer to 1 than after the Frobenius norm; the polar factor is that of the scaled
    matrix. x is taken and returned times `factor`, its Gram matrix times the square of `factor`.
    """
    if schedule.precondition == "frobenius":
        return x, None
    gram = _gram(x, symmetric)
    sums = jnp.sum(jnp.abs(dtypes.widen(gram)), axis=-1) / factor**2
    scale = jnp.where(sums > 0.0, jax.lax.rsqrt(jnp.where(sums > 0.0, sums, 1.0)), 0.0)
    across, down = scale[..., None, :], scale[..., :, None]
    scaled = x * (across if _is_tall(x) else down).astype(x.dtype)
    return scaled, (gram * across * down).astype(x.dtype)


def _frobenius_norm(x: jax.Array) -> jax.Array:
    """Norms of the last two axes, safe from overflow and underflow of the squares.

    Three scaled sums in one pass over x: cheaper than finding the largest entry first.
    """

    x = jnp.abs(x) if jnp.iscomplexobj(x) else x

    def total(scale):
        return jnp.sum(jnp.square(x * scale), axis=(-2, -1), keepdims=True)

    up, down = 2.0**64, 2.0**-64
    plain = total(1.0)
    small = jnp.sqrt(total(up)) * down
    large = jnp.sqrt(total(down)) * up
    return jnp.where(plain < 1e-20, small, jnp.where(plain > 1e30, large, jnp.sqrt(plain)))
