"""From OptimizerConfig and the model's description of its weights to an optax transformation."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

import pallas_kernels
from kanana_jax import config, model, optim, parallel


def make(exp: config.Experiment, lr: Any) -> optax.GradientTransformationExtraArgs:
    """The optimizer of `exp`, under its guard, at peak rate `lr`, a number or a traced scalar.

    Its state does not depend on `lr`. `update` takes the keywords `max_logits`, (layers, heads),
    and `loss`.
    """
    optimizer, guard = _unguarded(exp, lr), exp.guard
    if not guard.enabled:
        return optimizer
    return optim.skip_bad_steps(
        optimizer,
        window_steps=guard.window_steps,
        num_sigmas=guard.num_sigmas,
        max_consecutive_skips=guard.max_skips,
    )


def _unguarded(exp: config.Experiment, lr: Any) -> optax.GradientTransformationExtraArgs:
    cfg = exp.optimizer
    adam: dict[str, Any] = {
        "weight_decay": cfg.weight_decay,
        "b1": cfg.b1,
        "b2": cfg.b2,
        "eps": cfg.eps,
    }
    rate = schedule(exp, lr)
    if cfg.name == "adamw":
        return optax.with_extra_args_support(optim.adamw(rate, **adam))
    options = adam | {
        "momentum": cfg.momentum,
        "nesterov": cfg.nesterov,
        "polar_fn": polar_fn(cfg),
        "shape_rule": cfg.shape_scale,
        "layout": layout(exp.model),
    }
    if cfg.name == "muon":
        return optim.muon(rate, matrix_specs(exp), **options)
    return optim.muonclip(rate, matrix_specs(exp), clip_specs(exp.model), tau=cfg.tau, **options)


def schedule(exp: config.Experiment, peak: Any) -> optax.Schedule:
    """Learning rate against updates done."""
    cfg, num_steps = exp.optimizer.schedule, exp.train.num_steps
    if cfg.name == "constant":
        return optim.schedules.constant(peak, warmup_steps=cfg.warmup_steps)
    if cfg.name == "cosine":
        return optim.schedules.cosine(
            peak,
            num_steps=num_steps,
            warmup_steps=cfg.warmup_steps,
            final_ratio=cfg.final_ratio,
        )
    return optim.schedules.wsd(
        peak,
        num_steps=num_steps,
        warmup_steps=cfg.warmup_steps,
        decay_steps=cfg.decay_steps,
        final_ratio=cfg.final_ratio,
    )


def steps_taken(opt_state: optax.OptState) -> Array:
    """The updates by which the schedule inside the optimizer counts: skipped steps are none."""

    def is_scheduled(node):
        return isinstance(node, optax.ScaleByScheduleState)

    leaves = jax.tree.leaves(opt_state, is_leaf=is_scheduled)
    return next(node.count for node in leaves if is_scheduled(node))


def polar_fn(cfg: config.OptimizerConfig) -> Callable[[Array], Array]:
    """The orthogonaliser that `cfg` names."""
    tables = {"newton_schulz": optim.newton_schulz, "polar_express": optim.polar_express}
    table, dtype = tables[cfg.polar](cfg.polar_steps), polar_dtype(cfg)
    kernel = functools.partial(
        pallas_kernels.symmetric_matmul, implementation=cfg.polar_implementation
    )

    def factors(x):
        chosen = cfg.polar_implementation
        if chosen == "auto":
            short = min(x.shape[-2:])
            gram = jax.ShapeDtypeStruct((*x.shape[:-2], short, short), dtype)
            chosen = pallas_kernels.symmetric_matmul_choice(gram).implementation
        symmetric = None if chosen == "xla" else kernel
        return optim.polar(x, table, compute_dtype=dtype, symmetric_product=symmetric)

    return factors


def polar_dtype(cfg: config.OptimizerConfig) -> jnp.dtype:
    """What `cfg.polar_dtype` stands for on this process's backend."""
    auto = "float16" if jax.default_backend() == "gpu" else "bfloat16"
    return jnp.dtype(auto if cfg.polar_dtype == "auto" else cfg.polar_dtype)


def layout(cfg: config.ModelConfig) -> optim.layouts.Layout:
    """Where polar factors are computed on the mesh that is set.

    Experts, which are whole on their devices, stay there; other matrices come together on one
    device each.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1:
        return optim.layouts.in_place
    partitions = _map_specs(
        lambda spec: parallel.partition_spec(spec.logical_axes), model.describe(cfg)
    )
    return optim.layouts.spread(mesh, partitions)


def matrix_specs(exp: config.Experiment) -> Any:
    """A MatrixSpec for every leaf that Muon updates, None for AdamW's."""

    def pick(spec: model.ParamSpec):
        by_muon = spec.role == "matrix" or (
            spec.role == "router" and exp.optimizer.router == "muon"
        )
        return spec.matrix if by_muon else None

    return _map_specs(pick, model.describe(exp.model, split=exp.optimizer.split))


def clip_specs(cfg: config.ModelConfig) -> Any:
    return _map_specs(lambda spec: spec.qk_clip, model.describe(cfg))


def clip_metrics(opt_state: optax.OptState) -> dict[str, Array]:
    """Heads clipped in the last step, and the smallest factor."""
    gamma_LH = optim.clip_report(opt_state)["gamma"]
    return {"clip_count": jnp.sum(gamma_LH < 1.0), "min_gamma": jnp.min(gamma_LH)}


def _map_specs(fn: Callable[[model.ParamSpec], Any], specs: Any) -> Any:
    return jax.tree.map(fn, specs, is_leaf=lambda x: isinstance(x, model.ParamSpec))
