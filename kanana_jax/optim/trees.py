"""Trees that describe each parameter, next to the tree of parameters.

The two are matched by the names on the way to a leaf, not by their containers: a dictionary
describes an `nnx.State`, a `FrozenDict` or a dataclass as well. As in optax, the value of a
subtree holds for all of its leaves, and a function of the parameters may stand for the tree.
"""

from collections import defaultdict
from collections.abc import Callable, Container
from typing import Any, NamedTuple

import jax
import optax

Names = tuple[str, ...]


class Described(NamedTuple):
    """The leaves of a tree, what describes each, their paths, and how to rebuild the tree."""

    leaves: list[Any]
    values: list[Any]
    paths: list[str]  # "moe_layers/attention/wq"
    rebuild: Callable[[list], Any]


def describe(tree: Any, description: Any, what: str) -> Described:
    """Find the value that `description` gives each leaf; skips None and what optax has masked out.

    Raises ValueError naming leaves without a value, and values without a leaf.
    """
    names, everything, treedef = _flatten(tree)
    if not everything:
        # optax.tree_map_params calls init on a stand-in for the parameters that has no leaves.
        return Described([], [], [], lambda _: tree)
    if jax.tree_util.all_leaves([description]) and callable(description):
        description = description(tree)
    said_of, said, _ = _flatten(description)
    table = dict(zip(said_of, said, strict=True))
    sources = [_part_in(table, name) for name in names]
    is_absent = list(map(_is_absent, everything))
    kept = [i for i, absent in enumerate(is_absent) if not absent]

    # Nothing is looked up below what was masked out.
    known = {*sources, *(name for name, absent in zip(names, is_absent, strict=True) if absent)}
    missing = [names[i] for i in kept if sources[i] is None]
    idle = [n for n, x in table.items() if not _is_absent(x) and _part_in(known, n) is None]
    if missing or idle:
        raise ValueError(
            f"{what} must have the structure of the parameter tree, or of its upper part, with "
            f"None for leaves that they leave alone; missing: {list(map(_join, missing))}, "
            f"without a parameter: {list(map(_join, idle))}."
        )

    def rebuild(new: list) -> Any:
        leaves = list(everything)
        for i, leaf in zip(kept, new, strict=True):
            leaves[i] = leaf
        return treedef.unflatten(leaves)

    return Described(
        leaves=[everything[i] for i in kept],
        values=[table[source] for i in kept if (source := sources[i]) is not None],
        paths=[_join(names[i]) for i in kept],
        rebuild=rebuild,
    )


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """Return a tree's leaves, None among them, by their paths."""
    names, leaves, _ = _flatten(tree)
    return dict(zip(map(_join, names), leaves, strict=True))


def _flatten(tree: Any):
    """Return the names on the way to each leaf, the leaves, and the structure."""
    with_paths, treedef = jax.tree.flatten_with_path(tree, is_leaf=_is_absent)
    children = defaultdict(set)
    for path, _ in with_paths:
        for depth, key in enumerate(path):
            children[path[:depth]].add(key)

    def names(path: tuple) -> Names:
        # An nnx.Variable is a box around one value: a module's state has it, its gradients do not.
        is_boxed = path[-1:] == (_VALUE,) and len(children[path[:-1]]) == 1
        keys = path[:-1] if is_boxed else path
        return tuple(jax.tree_util.keystr((key,), simple=True) for key in keys)

    return [names(path) for path, _ in with_paths], [leaf for _, leaf in with_paths], treedef


_VALUE = jax.tree_util.GetAttrKey("value")


def _part_in(known: Container[Names], names: Names) -> Names | None:
    """Return the longest beginning of these names that is known."""
    return next((names[:end] for end in range(len(names), -1, -1) if names[:end] in known), None)


def _is_absent(node) -> bool:
    return node is None or isinstance(node, optax.MaskedNode)


def _join(names: Names) -> str:
    return "/".join(names)
