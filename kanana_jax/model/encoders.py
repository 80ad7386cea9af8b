"""The encoders that a decoder may have, and where their output goes in its sequence.

    vision    of images          audio    of sounds

Each is a part of the parameters, under that name, with its own shape in `ModelConfig` and its own
kind of features.

Letters: B rows of a batch, S positions, M slots, W width of the decoder.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from kanana_jax.batch import Features, Images, Sounds
from kanana_jax.config import AudioConfig, ExecutionConfig, ModelConfig, VisionConfig
from kanana_jax.model import audio, vision


class _Kind(NamedTuple):
    features: type[Features]
    module: Callable[..., Any]
    specs: Callable[[ModelConfig, str], dict[str, Any]]


_KINDS = {
    "vision": _Kind(Images, vision.Tower, vision.specs),
    "audio": _Kind(Sounds, audio.Encoder, audio.specs),
}


def shapes(cfg: ModelConfig) -> dict[str, VisionConfig | AudioConfig]:
    """The shapes of the encoders that the model has, in the order of their layers."""
    found = {name: getattr(cfg, name) for name in _KINDS}
    return {name: shape for name, shape in found.items() if shape is not None}


def kind_of(cfg: ModelConfig, features: Features) -> str:
    """Which encoder reads these features; ValueError where the model lacks it."""
    name = next(name for name, kind in _KINDS.items() if isinstance(features, kind.features))
    if getattr(cfg, name) is None:
        raise ValueError(
            f"{type(features).__name__} as features need a model with an encoder, got model.{name} "
            "= None; set it"
        )
    return name


def modules(cfg: ModelConfig, execution: ExecutionConfig, *, rngs: nnx.Rngs) -> dict[str, Any]:
    """Fresh encoders, by name. Each has `slots(features)`, which see."""
    return {name: _KINDS[name].module(cfg, execution, rngs=rngs) for name in shapes(cfg)}


def specs(cfg: ModelConfig, split: str) -> dict[str, Any]:
    """See `describe.describe`."""
    return {name: _KINDS[name].specs(cfg, split) for name in shapes(cfg)}


def encode(
    cfg: ModelConfig, execution: ExecutionConfig, params: Any, features: Features
) -> Float[Array, "B M W"]:
    """What stands at each slot, by the parameters of a model's encoder of this kind."""
    graph, abstract = _skeleton(cfg, execution, kind_of(cfg, features))
    state = jax.tree.unflatten(jax.tree.structure(abstract), jax.tree.leaves(params))
    return nnx.merge(graph, state).slots(features)[0]


@functools.lru_cache(maxsize=64)
def _skeleton(cfg: ModelConfig, execution: ExecutionConfig, name: str):
    make = _KINDS[name].module
    return nnx.split(jax.eval_shape(lambda: make(cfg, execution, rngs=nnx.Rngs(0))))


def insert(
    x_BSD: Float[Array, "B S W"], slots_BMD: Float[Array, "B M W"], slots_BS: Int[Array, "B S"]
) -> Float[Array, "B S W"]:
    """The embeddings, replaced by a slot's where one stands."""
    index_BS = jnp.maximum(slots_BS, 0)
    there_BSD = jnp.take_along_axis(slots_BMD, index_BS[..., None], axis=1)
    return jnp.where((slots_BS >= 0)[..., None], there_BSD.astype(x_BSD.dtype), x_BSD)
