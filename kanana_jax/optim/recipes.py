"""Whole optimizers: the place where the pieces meet and the defaults live.

    muon            leaves with a MatrixSpec: momentum, polar, shape scale, weight decay, lr;
                    all others: adamw
    muonclip        muon, then qk_clip on the finished update of the whole tree
    normuon, adamuon, muon_hyperball    as muon, with the stages of `variants` on the matrices
    adamw           moments in float32 whatever the parameters' dtype

Weight decay is decoupled and multiplied by the learning rate: W <- W - lr (u + wd W). A learning
rate is a number, a traced scalar or a schedule; no `init` depends on it.
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kanana_jax.optim import (
    clipping,
    coefficients,
    dtypes,
    factors,
    layouts,
    orthogonalize,
    rules,
    transforms,
    trees,
    variants,
)
from kanana_jax.optim.specs import MatrixSpec

LearningRate = jax.typing.ArrayLike | optax.Schedule
PolarFn = Callable[[jax.Array], jax.Array]


def adamw(
    lr: LearningRate,
    *,
    weight_decay: optax.ScalarOrSchedule = 0.1,
    mask: Any = None,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    rate_factors: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """AdamW with float32 moments, on every leaf; `rate_factors` are those of `scale_by_factors`."""
    update = optax.chain(
        _in_float32(optax.scale_by_adam(b1=b1, b2=b2, eps=eps)),
        _decay(weight_decay, mask),
        _scale_by_lr(lr),
    )
    return _with_factors(update, rate_factors)


def _with_options_of(recipe: Callable) -> Callable[[Callable], Callable]:
    """Show in a function's signature the keywords that its **options pass on to `recipe`.

    optax.inject_hyperparams looks for hyperparameters there.
    """

    def shown(function: Callable) -> Callable:
        own = inspect.signature(function)
        *named, _ = own.parameters.values()
        more = [
            parameter
            for name, parameter in inspect.signature(recipe).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY and name not in own.parameters
        ]
        function.__signature__ = own.replace(parameters=[*named, *more])
        return function

    return shown


def muon(
    lr: LearningRate,
    specs: Any = None,
    *,
    momentum: float = 0.95,
    nesterov: bool = True,
    weight_decay: optax.ScalarOrSchedule = 0.1,
    mask: Any = None,
    schedule: coefficients.PolarSchedule = coefficients.POLAR_EXPRESS_5,
    compute_dtype: jax.typing.DTypeLike = "bfloat16",
    polar_fn: PolarFn | None = None,
    shape_rule: str | transforms.ShapeRule = "moonlight",
    momentum_dtype: jax.typing.DTypeLike | None = None,
    layout: layouts.Layout | None = None,
    adamw_lr: LearningRate | None = None,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    rate_factors: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Muon on every leaf that has a MatrixSpec, AdamW on every leaf whose spec is None.

    `specs` is a tree like the parameters, or a function from the parameters to one; None: all
    leaves are matrices. `polar_fn` replaces `polar(., schedule, compute_dtype=...)`. AdamW uses
    `lr` too unless given its own `adamw_lr`; the default shape rule makes their step sizes alike.
    `rate_factors` are those of `scale_by_factors`.
    """
    on_matrices = optax.chain(
        transforms.scale_by_muon(
            polar_fn=polar_fn or _polar_fn(schedule, compute_dtype),
            specs=specs,
            momentum=momentum,
            nesterov=nesterov,
            momentum_dtype=momentum_dtype,
            layout=layout or layouts.in_place,
        ),
        transforms.scale_by_shape(shape_rule, specs),
        _decay(weight_decay, mask),
        _scale_by_lr(lr),
    )
    others = adamw(
        lr if adamw_lr is None else adamw_lr,
        weight_decay=weight_decay,
        mask=mask,
        b1=b1,
        b2=b2,
        eps=eps,
    )
    return _with_factors(_matrices_and_others(on_matrices, others, specs), rate_factors)


@_with_options_of(muon)
def muonclip(
    lr: LearningRate,
    specs: Any,
    clip_specs: Any,
    *,
    tau: float = 100.0,
    clip_per_layer: bool = False,
    **muon_options,
) -> optax.GradientTransformationExtraArgs:
    """`muon(lr, specs, **muon_options)`, then `qk_clip(tau, clip_specs)` (arXiv:2507.20534).

    `update` needs the keyword max_logits, (num_layers, num_heads). `clip_per_layer` is `per_layer`
    of `qk_clip`.
    """
    clip = clipping.qk_clip(tau, clip_specs, per_layer=clip_per_layer)
    return optax.chain(muon(lr, specs, **muon_options), clip)


@_with_options_of(adamw)
def normuon(
    lr: LearningRate,
    specs: Any = None,
    *,
    momentum: float = 0.95,
    neuron_b2: float = 0.95,
    weight_decay: optax.ScalarOrSchedule = 0.1,
    mask: Any = None,
    schedule: coefficients.PolarSchedule = coefficients.POLAR_EXPRESS_5,
    compute_dtype: jax.typing.DTypeLike = "bfloat16",
    polar_fn: PolarFn | None = None,
    layout: layouts.Layout | None = None,
    **adamw_options,
) -> optax.GradientTransformationExtraArgs:
    """NorMuon (arXiv:2510.05491, Alg. 1) on the matrices, AdamW on the rest."""
    on_matrices = optax.chain(
        transforms.scale_by_muon(
            polar_fn=polar_fn or _polar_fn(schedule, compute_dtype),
            specs=specs,
            momentum=momentum,
            nesterov=False,
            layout=layout or layouts.in_place,
        ),
        variants.scale_by_neuron(b2=neuron_b2, eps=1e-8, specs=specs),
        _decay(weight_decay, mask),
        _scale_by_lr(lr),
    )
    others = adamw(lr, weight_decay=weight_decay, mask=mask, **adamw_options)
    return _matrices_and_others(on_matrices, others, specs)


@_with_options_of(adamw)
def adamuon(
    lr: LearningRate,
    specs: Any = None,
    *,
    momentum: float = 0.95,
    weight_decay: optax.ScalarOrSchedule = 0.1,
    mask: Any = None,
    schedule: coefficients.PolarSchedule = coefficients.POLAR_EXPRESS_5,
    compute_dtype: jax.typing.DTypeLike = "bfloat16",
    polar_fn: PolarFn | None = None,
    layout: layouts.Layout | None = None,
    **adamw_options,
) -> optax.GradientTransformationExtraArgs:
    """AdaMuon (arXiv:2507.11005) on the matrices, AdamW on the rest."""
    of_signs = polar_fn or _polar_fn(schedule, compute_dtype)
    on_matrices = optax.chain(
        transforms.scale_by_muon(
            polar_fn=lambda x: of_signs(jnp.sign(x)),
            specs=specs,
            momentum=momentum,
            nesterov=True,
            layout=layout or layouts.in_place,
        ),
        variants.scale_by_entry(b2=momentum, eps=1e-8, specs=specs),
        _decay(weight_decay, mask),
        _scale_by_lr(lr),
    )
    others = adamw(lr, weight_decay=weight_decay, mask=mask, **adamw_options)
    return _matrices_and_others(on_matrices, others, specs)


@_with_options_of(adamw)
def muon_hyperball(
    lr: LearningRate,
    specs: Any = None,
    *,
    momentum: float = 0.95,
    nesterov: bool = True,
    schedule: coefficients.PolarSchedule = coefficients.POLAR_EXPRESS_5,
    compute_dtype: jax.typing.DTypeLike = "bfloat16",
    polar_fn: PolarFn | None = None,
    layout: layouts.Layout | None = None,
    adamw_lr: LearningRate | None = None,
    **adamw_options,
) -> optax.GradientTransformationExtraArgs:
    """Muon that keeps every matrix's Frobenius norm (arXiv:2606.16899), AdamW on the rest.

    `lr` is the tangent of the angle by which a matrix turns per step, so AdamW has its own.
    """
    on_matrices = optax.chain(
        transforms.scale_by_muon(
            polar_fn=polar_fn or _polar_fn(schedule, compute_dtype),
            specs=specs,
            momentum=momentum,
            nesterov=nesterov,
            layout=layout or layouts.in_place,
        ),
        variants.hyperball(lr, specs),
    )
    others = adamw(lr if adamw_lr is None else adamw_lr, **adamw_options)
    return _matrices_and_others(on_matrices, others, specs)


def _with_factors(update, rate_factors: Any) -> optax.GradientTransformationExtraArgs:
    if rate_factors is None:
        return update
    return optax.chain(update, factors.scale_by_factors(rate_factors))


def _polar_fn(schedule: coefficients.PolarSchedule, compute_dtype) -> PolarFn:
    return lambda x: orthogonalize.polar(x, schedule, compute_dtype=compute_dtype)


def _matrices_and_others(on_matrices, others, specs) -> optax.GradientTransformationExtraArgs:
    def labels(tree):
        if specs is None:
            return "matrices"
        _, leaf_specs, _, rebuild = trees.describe(tree, specs, "specs")
        return rebuild(["matrices" if isinstance(s, MatrixSpec) else "others" for s in leaf_specs])

    return rules.partition({"matrices": on_matrices, "others": others}, labels)


def _decay(weight_decay: optax.ScalarOrSchedule, mask: Any) -> optax.GradientTransformation:
    if mask is None:
        return optax.add_decayed_weights(weight_decay)

    def decays(tree):
        _, flags, _, rebuild = trees.describe(tree, mask, "mask")
        return rebuild([bool(flag) for flag in flags])

    return optax.add_decayed_weights(weight_decay, decays)


def _scale_by_lr(lr: LearningRate) -> optax.GradientTransformation:
    # Always the scheduled form: one state structure and the update's dtype for every kind of lr.
    rate = lr if callable(lr) else lambda _: lr
    return optax.scale_by_schedule(lambda step: -1.0 * rate(step))


def _in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    def update_fn(updates, state, params=None):
        new_updates, state = inner.update(dtypes.widen_tree(updates), state, params)
        return jax.tree.map(lambda u, g: u.astype(g.dtype), new_updates, updates), state

    return optax.GradientTransformation(
        lambda params: inner.init(dtypes.widen_tree(params)), update_fn
    )
