"""Plain descriptions of weights: which axes form matrices, which belong to attention heads.

The model writes these, the optimizer reads them; neither looks at parameter names. A spec may
first `view` the leaf in another shape, so that a fused axis (heads x head_dim in one) gets axes of
its own: every axis number in a spec counts axes of the view. A spec tree has the structure of the
parameter tree or of its upper part, with None where leaves are not described.
"""

import itertools
import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class MatrixSpec:
    """Which axes are a leaf's matrices: `rows` are inputs, `cols` outputs, `batch` all the others.

    Axes listed together are flattened into one; negative ones count from the last. Stacked layers,
    experts, and heads to be orthogonalised one by one are batch axes. `split_axis` cuts a
    fused axis into `split_sizes` (K and V, gate and up), each part a matrix of its own.
    """

    rows: tuple[int, ...] = (0,)
    cols: tuple[int, ...] = (1,)
    batch: tuple[int, ...] = ()
    split_axis: int | None = None
    split_sizes: tuple[int, ...] = ()
    view: tuple[int, ...] | None = None

    def __post_init__(self):
        sides = (self.batch, self.rows, self.cols)
        counted = [tuple(a + self.ndim if a < 0 else a for a in side) for side in sides]
        if sorted(itertools.chain(*counted)) != list(range(self.ndim)) or not all(counted[1:]):
            raise ValueError(
                "batch, rows and cols of a MatrixSpec must name every axis once, with at least one "
                f"row and one column axis; got batch={self.batch}, rows={self.rows}, "
                f"cols={self.cols}."
            )
        for name, axes in zip(("batch", "rows", "cols"), counted, strict=True):
            object.__setattr__(self, name, axes)
        if (self.split_axis is None) != (not self.split_sizes):
            raise ValueError(
                "split_axis and split_sizes go together; got "
                f"split_axis={self.split_axis}, split_sizes={self.split_sizes}."
            )
        if self.split_axis is not None and not -self.ndim <= self.split_axis < self.ndim:
            raise ValueError(f"split_axis must be one of {self.ndim} axes, got {self.split_axis}.")

    @property
    def ndim(self) -> int:
        return len(self.batch) + len(self.rows) + len(self.cols)


@dataclass(frozen=True, kw_only=True)
class QKClipSpec:
    """How QK-Clip scales one leaf: by gamma[layer, head] ** exponent.

    `layer_axis` is the stacked axis, None when the leaf belongs to the one layer `first_layer`
    (layers are counted over the whole model). `segments` are (size, exponent) pairs along
    `segment_axis`: in multi-head latent attention (arXiv:2507.20534, Alg. 1) 1/2 on the no-position
    part of queries and keys, 1 on the query's rope part, because the rope key is shared by all
    heads, and 0 on values. `heads` lists for each entry of the head axis the query heads that read
    it (None: entry h is query head h); an entry read by several takes the smallest of their gammas,
    one read by none is left alone.
    """

    layer_axis: int | None
    head_axis: int
    segments: tuple[tuple[int, float], ...]
    first_layer: int = 0
    segment_axis: int = -1
    heads: tuple[tuple[int, ...], ...] | None = None
    view: tuple[int, ...] | None = None


def viewed_shape(shape: tuple[int, ...], spec: MatrixSpec | QKClipSpec) -> tuple[int, ...]:
    """Return the shape a spec's axes refer to; `view` may hold one -1."""
    if spec.view is None:
        return tuple(shape)
    size, known = math.prod(shape), math.prod(n for n in spec.view if n != -1)
    full = tuple(size // known if n == -1 else n for n in spec.view) if known else spec.view
    if math.prod(full) != size or spec.view.count(-1) > 1:
        raise ValueError(f"{type(spec).__name__}.view {spec.view} cannot hold a leaf of {shape}.")
    return full
