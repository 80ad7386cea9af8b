"""What is trained of a model: all of it, or low-rank adapters beside a frozen one.

    trained    Weights whose parameters the optimizer moves: the state has no others
    whole      Weights that compute: with adapters the frozen parameters, and what is added to them

The frozen model is among the frozen weights of a step, under `NAME`: sharded as a trained one would
be, without gradient or optimizer state, in no checkpoint. A scalar head is new, so it is trained
itself.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kanana_jax import config, model
from kanana_jax.model import lora as adapters

NAME = "base"
_OFF = config.LoraConfig()
_OWN = "scalar_head"


def describe(
    shape: config.ModelConfig, lora: config.LoraConfig = _OFF, split: str = "parts"
) -> dict[str, Any]:
    """A ParamSpec for every trained leaf; matrices of adapters are not split further."""
    specs = model.describe(shape, split)
    if not lora.rank:
        return specs
    return adapters.specs(_sites(shape, lora)) | _own(specs)


def shapes(shape: config.ModelConfig, lora: config.LoraConfig = _OFF) -> model.Weights:
    """Shapes of what is trained, in float32."""
    return jax.eval_shape(functools.partial(start, shape, lora), _fresh(shape), jax.random.key(0))


def start(
    shape: config.ModelConfig, lora: config.LoraConfig, whole: model.Weights, key: Array
) -> model.Weights:
    """What is trained of the model `whole`, before the first step: it still computes the same."""
    if not lora.rank:
        return whole
    made = adapters.init(_sites(shape, lora), key)
    # Copies: a step takes over the arrays of a state, and the frozen model stays.
    own = {name: jnp.array(x, jnp.float32, copy=True) for name, x in _own(whole.params).items()}
    buffers = {name: jnp.array(x, copy=True) for name, x in whole.buffers.items()}
    return model.Weights(made | own, buffers)


def whole(
    shape: config.ModelConfig,
    lora: config.LoraConfig,
    trained: model.Weights,
    frozen: Mapping[str, model.Weights],
) -> model.Weights:
    """The weights that compute. Nothing is copied."""
    if not lora.rank:
        return trained
    own = _own(trained.params)
    pairs = {name: x for name, x in trained.params.items() if name not in own}
    added = adapters.adapters(_sites(shape, lora), lora.alpha, pairs)
    return model.Weights(frozen[NAME].params | own, trained.buffers, added)


def kept_dtypes(shape: config.ModelConfig, lora: config.LoraConfig) -> model.Weights:
    """Dtypes of whole weights: frozen ones have lora.base_dtype, except norms and routers."""
    narrow = jnp.dtype(lora.base_dtype if lora.rank else "float32")

    def one(spec: model.ParamSpec) -> jnp.dtype:
        is_wide = spec.role in ("norm", "router", "scalar_head")
        return jnp.dtype(jnp.float32) if is_wide else narrow

    specs = model.describe(shape)
    params = jax.tree.map(one, specs, is_leaf=lambda x: isinstance(x, model.ParamSpec))
    return model.Weights(params, jax.tree.map(lambda x: x.dtype, _fresh(shape).buffers))


def count(shape: config.ModelConfig, lora: config.LoraConfig = _OFF) -> int:
    """Trained parameters."""
    return sum(x.size for x in jax.tree.leaves(shapes(shape, lora).params))


def _own(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: x for name, x in params.items() if name == _OWN}


@functools.lru_cache(maxsize=64)
def _fresh(shape: config.ModelConfig) -> Any:
    return jax.eval_shape(lambda: model.init(shape, jax.random.key(0)))


def _sites(shape: config.ModelConfig, lora: config.LoraConfig) -> dict[str, Any]:
    return adapters.sites(shape, lora, _fresh(shape).params)
