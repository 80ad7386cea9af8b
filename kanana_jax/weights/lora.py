"""Adapters in files, added to their model: W + scale A B, one layer of a leaf at a time.

They come from the checkpoints of a run that trained them (`run_folder`), or from a folder of the
PEFT library (`peft`).
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kanana_jax import config, model
from kanana_jax.checkpoint.errors import CheckpointError
from kanana_jax.model import lora as adapters
from kanana_jax.weights import fingerprint, native

# Gives the leaf at a path such as "weights/params/embed", laid out as the shape given with it.
Load = Callable[[str, jax.ShapeDtypeStruct], np.ndarray]
# Gives a layer of the leaf at a path like "moe_layers/mlp/w_down", or a leaf outside the stacks.
ReadLayer = Callable[[str, int | None], np.ndarray]
_PARAMS = "weights/params/"


class Pair(NamedTuple):
    """The factors of what is added to a stacked leaf."""

    a: np.ndarray
    b: np.ndarray
    scale: float
    site: adapters.Site

    def product(self, layer: int) -> np.ndarray:
        """What is added to one layer, float32."""
        a, b = (jnp.asarray(x[layer], jnp.float32)[None] for x in (self.a, self.b))
        found = jnp.einsum(self.site.layout.equation, a, b, precision="highest")
        return self.scale * np.asarray(found[0])


Pairs = Mapping[str, Pair]  # by the path of the leaf, "moe_layers/attention/wq"


def sites(cfg: config.ModelConfig, lora: config.LoraConfig) -> dict[str, adapters.Site]:
    """The leaves that have an adapter, by their paths."""
    shapes = jax.eval_shape(functools.partial(model.init_params, cfg), jax.random.key(0))
    found = adapters.sites(cfg, lora, shapes)
    is_site = lambda x: isinstance(x, adapters.Site)  # noqa: E731
    flat, _ = jax.tree_util.tree_flatten_with_path(found, is_leaf=is_site)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in flat}


def trained_pairs(cfg: config.ModelConfig, lora: config.LoraConfig, load: Load) -> dict[str, Pair]:
    """The pairs of a run; `load` gives its trained leaves."""
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def read(path: str, factor: adapters.Factor) -> np.ndarray:
        like = jax.ShapeDtypeStruct(factor.shape, jnp.float32, sharding=device)
        return load(f"{_PARAMS}{path}", like)

    return {
        path: Pair(
            read(f"{path}/a", site.a), read(f"{path}/b", site.b), lora.alpha / site.rank, site
        )
        for path, site in sites(cfg, lora).items()
    }


def merged(base: Path, pairs: Pairs, load: Load) -> Load:
    """The leaves of the model that a run made: those of the folder `base` plus the adapters.

    `load` gives what is neither an adapter nor frozen: buffers and a scalar head.
    """
    open_leaf = native.part_reader(base)

    def leaf(path: str, like: Any) -> np.ndarray:
        name = path.removeprefix(_PARAMS)
        if name == path or name == "scalar_head":
            return load(path, like)
        found = np.asarray(open_leaf(f"params/{name}").read().result()).astype(like.dtype)
        if name in pairs:
            for layer, of_layer in enumerate(found):
                of_layer += pairs[name].product(layer)
        return found

    return leaf


def added(pairs: Pairs, read: ReadLayer) -> ReadLayer:
    """Reads as `read` does and adds the adapters; leaves that have some become float32."""

    def read_added(path: str, layer: int | None) -> np.ndarray:
        found = read(path, layer)
        if path not in pairs or layer is None:
            return found
        return found.astype(np.float32) + pairs[path].product(layer)

    return read_added


def expect_base(folder: Path, wanted: str) -> None:
    """Raises CheckpointError unless `wanted` is the `fingerprint` of the model in a folder."""
    got = fingerprint.of_folder(folder)
    if got != wanted:
        raise CheckpointError(
            f"these adapters belong to the model {wanted}, got {got} in {folder}; put the model "
            "back that they were trained beside"
        )
