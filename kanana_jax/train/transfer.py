"""Rates and initial scales of a model that is wider than the one whose settings it takes.

    factor of a leaf = rule(its fans, width) / rule(its fans in the base model, base width)

The base is the model of `optimizer.transfer_base_width` in the same family (`presets.family`):
experts per token, widths of experts, latents and heads are fixed; heads and experts grow in number.

    rule       Muon's matrices               router               head      embedding, norms
    kakao      1 / fan_in                    1 / fan_in           1         1
    spectral   sqrt(out / in) / scale        AdamW 1 / fan_in     1 / D     1
    half       1 / sqrt(D)                   1 / sqrt(D)          1         1

kakao is Table 2 of arXiv:2608.20061: AdamW's rule, on top of the scale of the update; whatever has
a fixed fan_in there (an expert's second matrix, projections out of a latent) keeps its rate.
spectral asks for updates of spectral norm sqrt(out / in) (arXiv:2310.17813), `scale` being that of
optimizer.shape_scale; for W_q and W_o whole it gives width^-1/2 where kakao has width^-1.
Initial weights of matrices and router are multiplied by sqrt(base fan_in / fan_in) in all three;
spectral multiplies the head's by base D / D.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from kanana_jax import config, model, optim
from kanana_jax.model import presets


class Fans(NamedTuple):
    """What the rules read of a matrix."""

    fan_in: int
    fan_out: int
    width: int  # hidden_size of the model
    scale: float | None  # of its polar factor; None: AdamW updates it

    def over(self, base: "Fans", rule: "Law") -> float:
        return rule(self) / rule(base)


Law = Callable[[Fans], float]


class Rule(NamedTuple):
    """Rates by class, up to a constant, and the initial standard deviation of the head."""

    matrix: Law
    head: Law
    initial_head: Law


def _constant(fans: Fans) -> float:
    return 1.0


def _inverse(fans: Fans) -> float:
    return 1.0 / fans.fan_in


def _spectral(fans: Fans) -> float:
    if fans.scale is None:  # every entry moves by the rate
        return 1.0 / fans.fan_in
    return math.sqrt(fans.fan_out / fans.fan_in) / fans.scale


def _half(fans: Fans) -> float:
    return fans.width**-0.5


RULES = {
    "kakao": Rule(matrix=_inverse, head=_constant, initial_head=_constant),
    "spectral": Rule(matrix=_spectral, head=_inverse, initial_head=_inverse),
    "half": Rule(matrix=_half, head=_constant, initial_head=_constant),
}


def rate_factors(cfg: config.OptimizerConfig, shape: config.ModelConfig, polar_specs: Any) -> Any:
    """A tree of `optim.RateFactors`; None where optimizer.transfer is "none".

    `polar_specs` has a MatrixSpec for every leaf that Muon updates. Raises ConfigError where the
    family has no model of the base width.
    """
    if cfg.transfer == "none":
        return None
    rule = RULES[cfg.transfer]
    scale = None if cfg.shape_scale == "none" else optim.SHAPE_RULES[cfg.shape_scale]

    def of_leaf(spec: model.ParamSpec, here: "_Leaf", base: "_Leaf", polar: Any):
        if spec.role in ("head", "scalar_head"):
            law = rule.head
        elif spec.matrix is not None:
            law = rule.matrix
        else:
            return optim.RateFactors((1.0,))
        of_polar = None if polar is None else (scale or (lambda *fan: 1.0))
        matrix = polar or spec.matrix
        pairs = zip(here.fans(matrix, of_polar), base.fans(matrix, of_polar), strict=True)
        return optim.RateFactors(tuple(one.over(other, law) for one, other in pairs), matrix)

    return _map(of_leaf, shape, cfg.transfer_base_width, cfg.split, polar_specs)


class Initial(NamedTuple):
    """What fresh weights depend on besides the model's shape."""

    rule: str
    base_width: int


def initial_of(cfg: config.OptimizerConfig) -> Initial:
    return Initial(cfg.transfer, cfg.transfer_base_width)


def scaled(weights: model.Weights, initial: Initial, shape: config.ModelConfig) -> model.Weights:
    """Fresh weights with the initial scales of a rule; the same ones for "none"."""
    if initial.rule == "none":
        return weights
    rule = RULES[initial.rule]

    def of_leaf(spec: model.ParamSpec, here: "_Leaf", base: "_Leaf", polar: Any) -> float:
        if spec.role == "head":
            return here.fans(None, None)[0].over(base.fans(None, None)[0], rule.initial_head)
        if spec.matrix is None:
            return 1.0
        one, other = here.fans(spec.matrix, None)[0], base.fans(spec.matrix, None)[0]
        return math.sqrt(one.over(other, _inverse))

    each = _map(of_leaf, shape, initial.base_width, "parts", None)
    return weights._replace(params=jax.tree.map(lambda x, f: x * f, weights.params, each))


class _Leaf(NamedTuple):
    shape: tuple[int, ...]
    width: int

    def fans(self, spec: optim.MatrixSpec | None, scale: Any) -> list[Fans]:
        """Fans of every part; heads, no matrix products of a layer, read the hidden state."""
        pairs = [(self.width, 1)] if spec is None else optim.fans(self.shape, spec)
        return [Fans(*fan, self.width, scale and scale(*fan)) for fan in pairs]


def _map(of_leaf: Callable, shape: config.ModelConfig, base_width: int, split: str, polar: Any):
    base = presets.family(shape, base_width)
    specs, treedef = jax.tree.flatten(
        model.describe(shape, split=split), is_leaf=lambda x: isinstance(x, model.ParamSpec)
    )
    polar_specs = [None] * len(specs) if polar is None else treedef.flatten_up_to(polar)
    leaves = zip(specs, _leaves(shape), _leaves(base), polar_specs, strict=True)
    return treedef.unflatten([of_leaf(*one) for one in leaves])


@functools.lru_cache(maxsize=64)
def _leaves(shape: config.ModelConfig) -> tuple[_Leaf, ...]:
    shapes = jax.eval_shape(functools.partial(model.init_params, shape), jax.random.key(0))
    return tuple(_Leaf(x.shape, shape.hidden_size) for x in jax.tree.leaves(shapes))
