"""Low-rank adapters (arXiv:2106.09685): a layer computes with W + scale A B.

    scale = alpha / rank     A: inputs x rank, uniform in +-1/sqrt(inputs)     B: rank x outputs, 0

so that before the first step the model is the base model. The sum is formed where a layer begins,
for one layer at a time, and modules know nothing of it: memory holds it, and its gradient, for the
layer that is at work. Without recomputation the backward pass would keep it.

A has the leaf's axes with one of the rank in the place of the outputs, B with one in the place of
the inputs, so both are spread over a mesh as the leaf is.

Letters: L layers.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kanana_jax.config import ConfigError, LoraConfig, ModelConfig
from kanana_jax.model.describe import describe
from kanana_jax.model.param_specs import ParamSpec
from kanana_jax.optim.specs import MatrixSpec
from kanana_jax.parallel import local

Params = dict[str, Any]
_LETTERS = "abcdefg"
_STACKS = ("dense_layers", "moe_layers")


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["a", "b"], meta_fields=["scale", "layout"]
)
@dataclasses.dataclass(frozen=True)
class Adapter:
    """What is added to a leaf, of all layers of a stack or of one."""

    a: Float[Array, "..."]
    b: Float[Array, "..."]
    scale: float
    layout: "Layout"


class Layout(NamedTuple):
    """The layout of a leaf in one layer."""

    equation: str  # A and B to their product, behind any further axes
    axes: tuple[str, ...]  # of the leaf


class Factor(NamedTuple):
    """A or B."""

    spec: ParamSpec
    shape: tuple[int, ...]


class Site(NamedTuple):
    """A leaf that has an adapter."""

    rank: int
    a: Factor
    b: Factor
    layout: Layout


def sites(cfg: ModelConfig, lora: LoraConfig, shapes: Params) -> Params:
    """The leaves that have an adapter, in the structure of the parameters, which have `shapes`.

    Raises ConfigError where a role that the model does not have is given a rank.
    """
    found: Params = {}
    seen = set()
    specs = describe(cfg, split="none")
    flat, _ = jax.tree_util.tree_flatten_with_path(specs, is_leaf=_is_spec)
    for path, spec in flat:
        names = _names(path)
        if names[0] not in _STACKS or spec.role != "matrix":
            continue
        role = _role(names)
        seen.add(role)
        if rank := lora.rank_of(role):
            leaf: Any = functools.reduce(lambda tree, name: tree[name], names, shapes)
            _insert(found, names, _site(spec, leaf.shape, rank))
    for role in ("attention", "dense", "experts", "shared"):
        if role not in seen and getattr(lora, f"{role}_rank") not in ("rank", 0):
            raise ConfigError(
                f"lora.{role}_rank must be 0 or rank for a model without such matrices, got "
                f"{lora.rank_of(role)}; leave it out"
            )
    if not found:
        raise ConfigError("lora gives no matrix of this model an adapter; raise a rank")
    return found


def specs(sites: Params) -> Params:
    """A ParamSpec for every A and B."""

    def one(site: Site) -> Params:
        return {"a": site.a.spec, "b": site.b.spec}

    return jax.tree.map(one, sites, is_leaf=_is_site)


def init(sites: Params, key: Array) -> Params:
    """{"a": ..., "b": ...} in the place of every leaf with an adapter, float32."""
    flat, structure = jax.tree.flatten(sites, is_leaf=_is_site)
    keys = jax.random.split(key, len(flat))
    return jax.tree.unflatten(structure, list(map(_init, flat, keys)))


def _init(site: Site, key: Array) -> Params:
    spec, shape = site.a
    assert spec.matrix is not None
    bound = 1.0 / math.sqrt(math.prod(shape[axis] for axis in spec.matrix.rows))
    a = jax.random.uniform(key, shape, jnp.float32, -bound, bound)
    return {"a": a, "b": jnp.zeros(site.b.shape, jnp.float32)}


def adapters(sites: Params, alpha: float, params: Params) -> Params:
    """Adapters from trained `params`, in the form that `init` makes. Nothing is computed."""

    def one(site: Site, pair: Params) -> Adapter:
        return Adapter(pair["a"], pair["b"], alpha / site.rank, site.layout)

    return jax.tree.map(one, sites, params, is_leaf=_is_site)


def applied(tree: Any, adapters: Params | None, dtype: Any) -> Any:
    """A layer or a stack of layers, module or dict, with its adapters added.

    Adapted leaves have `dtype`, in which the model multiplies by them.
    """
    if not adapters:
        return tree
    flat, _ = jax.tree_util.tree_flatten_with_path(adapters, is_leaf=_is_adapter)
    of_leaf = {_names(path): one for path, one in flat}

    def one(path: Any, w: Array) -> Array:
        adapter = of_leaf.get(_names(path))
        return w if adapter is None else effective(w, adapter, dtype)

    return jax.tree_util.tree_map_with_path(one, tree)


def effective(w: Float[Array, "..."], adapter: Adapter, dtype: Any) -> Float[Array, "..."]:
    """W + scale A B, summed in float32."""
    equation, axes = adapter.layout
    # The first axis, of size 1, makes it a batched product: recomputation keeps no result of those.
    product = jnp.einsum(equation, adapter.a.astype(dtype)[None], adapter.b.astype(dtype)[None])[0]
    added = w.astype(jnp.float32) + adapter.scale * product.astype(jnp.float32)
    added = added.astype(dtype)
    return local.constrain(added, axes) if added.ndim == len(axes) else added


def _role(names: tuple[str, ...]) -> str:
    if names[1] == "attention":
        return "attention"
    if names[0] == "dense_layers":
        return "dense"
    return "shared" if "shared" in names else "experts"


def _site(spec: ParamSpec, shape: tuple[int, ...], rank: int) -> Site:
    matrix = spec.matrix
    assert matrix is not None
    a, a_letters = _factor(spec, shape, rank, replaced=matrix.cols)
    b, b_letters = _factor(spec, shape, rank, replaced=matrix.rows)
    whole = _LETTERS[1 : matrix.ndim]  # without layers, which come in by the dots
    equation = f"z...{a_letters},z...{b_letters}->z...{whole}"
    return Site(rank, a, b, Layout(equation, spec.logical_axes[1:]))


def _factor(
    spec: ParamSpec, shape: tuple[int, ...], rank: int, *, replaced: tuple[int, ...]
) -> tuple[Factor, str]:
    """The factor that has the rank in the place of the axes `replaced`, and its letters."""
    matrix = spec.matrix
    assert matrix is not None
    axes = [axis for axis in range(matrix.ndim) if axis not in replaced[1:]]

    def moved(side: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(axes.index(axis) for axis in side if axis in axes)

    def each(of_rank: Any, of_leaf: Any) -> tuple[Any, ...]:
        return tuple(of_rank if axis == replaced[0] else of_leaf[axis] for axis in axes)

    sides = MatrixSpec(rows=moved(matrix.rows), cols=moved(matrix.cols), batch=moved(matrix.batch))
    made = ParamSpec(role="matrix", logical_axes=each("rank", spec.logical_axes), matrix=sides)
    return Factor(made, each(rank, shape)), "".join(each("r", _LETTERS)[1:])


def _insert(tree: Params, names: tuple[str, ...], leaf: Any) -> None:
    for name in names[:-1]:
        tree = tree.setdefault(name, {})
    tree[names[-1]] = leaf


def _names(path: Any) -> tuple[str, ...]:
    """The names on the way to a leaf; a module's variable is a box around one value."""
    names = tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
    is_boxed = isinstance(path[-1], jax.tree_util.GetAttrKey) and names[-1] == "value"
    return names[:-1] if is_boxed else names


def _is_site(node: Any) -> bool:
    return isinstance(node, Site)


def _is_adapter(node: Any) -> bool:
    return isinstance(node, Adapter)


def _is_spec(node: Any) -> bool:
    return isinstance(node, ParamSpec)
