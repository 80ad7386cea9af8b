"""From OptimizerConfig and the model's description of its weights to an optax transformation.

`TABLE` is the one place that knows optimizers by name.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

import pallas_kernels
from kanana_jax import config, model, optim, parallel
from kanana_jax.train import freezing, trained, transfer

Metrics = dict[str, Array]
_OFF = config.LoraConfig()


class Recipe(NamedTuple):
    """What a value of optimizer.name stands for.

    `make(rate, specs, clip_specs, cfg, adam, polar)` gives the transformation; `adam` and `polar`
    are the keywords that all share, and `adam` has `rate_factors` where rates are transferred.
    `report` reads metrics off its state after a step, and `idle` is what they are after a step that
    was skipped.
    """

    make: Callable[..., optax.GradientTransformation]
    has_polar: bool = True  # some leaves' updates are polar factors, which cost FLOPs and memory
    keeps_norms: bool = False  # of the matrices, which therefore have no weight decay
    report: Callable[[optax.OptState], Metrics] = lambda opt_state: {}
    idle: Mapping[str, float] = {}
    not_of_adapters: str = ""  # why it cannot train low-rank adapters


def _clip_report(opt_state: optax.OptState) -> Metrics:
    """Heads clipped in the last step, and the smallest factor."""
    gamma_LH = optim.clip_report(opt_state)["gamma"]
    return {"clip_count": jnp.sum(gamma_LH < 1.0), "min_gamma": jnp.min(gamma_LH)}


def _adamw(rate, specs, clip_specs, cfg, adam, polar):
    return optim.adamw(rate, **adam)


def _muon(rate, specs, clip_specs, cfg, adam, polar):
    return optim.muon(rate, specs, **adam, **polar, **_muon_options(cfg))


def _muonclip(rate, specs, clip_specs, cfg, adam, polar):
    options = adam | polar | _muon_options(cfg)
    per_layer = cfg.clip_by == "layer"
    return optim.muonclip(rate, specs, clip_specs, tau=cfg.tau, clip_per_layer=per_layer, **options)


def _muon_options(cfg: config.OptimizerConfig) -> dict[str, Any]:
    return {"momentum": cfg.momentum, "nesterov": cfg.nesterov, "shape_rule": cfg.shape_scale}


def _normuon(rate, specs, clip_specs, cfg, adam, polar):
    return optim.normuon(rate, specs, momentum=cfg.momentum, **adam, **polar)


def _adamuon(rate, specs, clip_specs, cfg, adam, polar):
    return optim.adamuon(rate, specs, momentum=cfg.momentum, **adam, **polar)


def _muon_hyperball(rate, specs, clip_specs, cfg, adam, polar):
    def adamw_rate(step):
        return cfg.adamw_lr_ratio * rate(step)

    return optim.muon_hyperball(
        rate,
        specs,
        momentum=cfg.momentum,
        nesterov=cfg.nesterov,
        adamw_lr=adamw_rate,
        **adam,
        **polar,
    )


TABLE: dict[str, Recipe] = {
    "adamw": Recipe(_adamw, has_polar=False),
    "muon": Recipe(_muon),
    "muonclip": Recipe(
        _muonclip,
        report=_clip_report,
        idle={"clip_count": 0, "min_gamma": 1.0},
        not_of_adapters="QK-Clip would scale matrices that are frozen",
    ),
    "normuon": Recipe(_normuon),
    "adamuon": Recipe(_adamuon),
    "muon_hyperball": Recipe(
        _muon_hyperball,
        keeps_norms=True,
        not_of_adapters="it keeps the norms of matrices, and that of B is 0",
    ),
}


def make(
    cfg: config.OptimizerConfig,
    shape: config.ModelConfig,
    rate: optax.Schedule,
    lora: config.LoraConfig = _OFF,
) -> optax.GradientTransformationExtraArgs:
    """The optimizer that `cfg` names, at the learning rate `rate(updates done)`.

    Its state does not depend on the rate. `update` takes the keyword `max_logits`, (layers, heads).
    Raises ConfigError where `lora` asks for adapters that it cannot train.
    """
    expect_able(cfg, lora)
    adam: dict[str, Any] = {
        "weight_decay": cfg.weight_decay,
        "mask": decay_mask(cfg, shape, lora),
        "b1": cfg.b1,
        "b2": cfg.b2,
        "eps": cfg.eps,
    }
    rate_factors = transfer.rate_factors(cfg, shape, polar_specs(cfg, shape))
    if rate_factors is not None:
        adam["rate_factors"] = rate_factors
    polar = {"polar_fn": polar_fn(cfg), "layout": layout(shape, lora)}
    specs = _matrix_specs(cfg, shape, lora)
    clip_specs = _map_specs(lambda s: s.qk_clip, shape, lora)
    made = TABLE[cfg.name].make(rate, specs, clip_specs, cfg, adam, polar)
    if cfg.frozen:
        made = optax.chain(made, freezing.keep(cfg.frozen))
    return optax.with_extra_args_support(made)


def expect_able(cfg: config.OptimizerConfig, lora: config.LoraConfig) -> None:
    """Raises ConfigError where the optimizer cannot train what `lora` asks for."""
    if lora.rank and TABLE[cfg.name].not_of_adapters:
        able = [name for name, recipe in TABLE.items() if not recipe.not_of_adapters]
        raise config.ConfigError(
            f"optimizer.name must be one of {', '.join(able)} with lora.rank, got {cfg.name}: "
            f"{TABLE[cfg.name].not_of_adapters}"
        )
    if lora.rank and cfg.transfer != "none":
        raise config.ConfigError(
            f"optimizer.transfer must be none with lora.rank, got {cfg.transfer}: its rules are "
            "for the weights of a whole model"
        )


def averaged(
    optimizer: optax.GradientTransformationExtraArgs,
    average: config.AverageConfig,
    tokens_per_step: int,
) -> optax.GradientTransformationExtraArgs:
    """`optimizer`, whose state then also holds the average of the weights that `average` asks for.

    Belongs below the guard, so that a step that is skipped changes no average.
    """
    if not average.every_tokens:
        return optimizer
    kept = optim.weight_average(
        average.decay, interval_tokens=average.every_tokens, tokens_per_step=tokens_per_step
    )
    return optax.chain(optimizer, kept)


def guarded(
    optimizer: optax.GradientTransformationExtraArgs, guard: config.GuardConfig
) -> optax.GradientTransformationExtraArgs:
    """`optimizer`, which then skips steps that cannot be trusted; `update` takes `loss` too."""
    if not guard.enabled:
        return optimizer
    return optim.skip_bad_steps(
        optimizer,
        window_steps=guard.window_steps,
        num_sigmas=guard.num_sigmas,
        max_consecutive_skips=guard.max_skips,
    )


def schedule(cfg: config.ScheduleConfig, num_steps: int, peak: Any) -> optax.Schedule:
    """Learning rate against updates done; `peak` is a number or a traced scalar."""
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
    """The updates that the schedule inside the optimizer has counted, without skipped steps."""

    leaves = jax.tree.leaves(opt_state, is_leaf=_is_scheduled)
    return next(node.count for node in leaves if _is_scheduled(node))


def restarted(opt_state: optax.OptState) -> optax.OptState:
    """The state with which another run goes on: its schedule starts over, all else stays."""

    def restart(node):
        return node._replace(count=jnp.zeros_like(node.count)) if _is_scheduled(node) else node

    return jax.tree.map(restart, opt_state, is_leaf=_is_scheduled)


def _is_scheduled(node: Any) -> bool:
    return isinstance(node, optax.ScaleByScheduleState)


def report(name: str, opt_state: optax.OptState, is_skipped: Any) -> Metrics:
    """What the optimizer `name` has to say of the last step.

    After a skipped step the state still tells of the one before, so the idle values stand in.
    """
    recipe = TABLE[name]
    found = recipe.report(opt_state)
    return {key: jnp.where(is_skipped, recipe.idle[key], value) for key, value in found.items()}


def polar_specs(
    cfg: config.OptimizerConfig, shape: config.ModelConfig, lora: config.LoraConfig = _OFF
) -> Any:
    """A MatrixSpec for every leaf whose update is a polar factor, None for the others."""
    specs = _matrix_specs(cfg, shape, lora)
    if TABLE[cfg.name].has_polar:
        return specs
    return jax.tree.map(lambda _: None, specs, is_leaf=is_spec)


def is_spec(node: Any) -> bool:
    """For trees of specs in which None is a leaf."""
    return node is None or isinstance(node, optim.MatrixSpec)


def decay_mask(
    cfg: config.OptimizerConfig, shape: config.ModelConfig, lora: config.LoraConfig = _OFF
) -> Any:
    """True for every leaf that weight decay shrinks; None where it shrinks all."""
    if cfg.norm_decay == "all" and cfg.embedding_decay:
        return None
    return jax.tree_util.tree_map_with_path(
        functools.partial(_decays, cfg),
        trained.describe(shape, lora),
        is_leaf=lambda x: isinstance(x, model.ParamSpec),
    )


def _decays(cfg: config.OptimizerConfig, path: Any, spec: model.ParamSpec) -> bool:
    if spec.role == "embedding":
        return cfg.embedding_decay
    if spec.role != "norm":
        return True
    # A gain in front of matrices can be folded into them; that of a latent or the last one too, but
    # the input of a block decides how far its logits can grow.
    of_block = path[-1].key in ("attention_norm", "mlp_norm")
    return cfg.norm_decay == "all" or (cfg.norm_decay == "input" and of_block)


def undecayed(
    cfg: config.OptimizerConfig, shape: config.ModelConfig, lora: config.LoraConfig = _OFF
) -> list[str]:
    """Paths of the leaves that weight decay leaves alone, for the record of a run."""
    mask, specs = decay_mask(cfg, shape, lora), _matrix_specs(cfg, shape, lora)
    keeps_norms = TABLE[cfg.name].keeps_norms

    def is_undecayed(spec: Any, decays: bool) -> bool:
        return not decays or (keeps_norms and spec is not None)

    if mask is None:
        mask = jax.tree.map(lambda _: True, specs, is_leaf=is_spec)
    found = jax.tree.map(is_undecayed, specs, mask, is_leaf=is_spec)
    flat, _ = jax.tree_util.tree_flatten_with_path(found)
    return [
        jax.tree_util.keystr(path, simple=True, separator="/") for path, is_left in flat if is_left
    ]


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


def layout(shape: config.ModelConfig, lora: config.LoraConfig = _OFF) -> optim.layouts.Layout:
    """Where polar factors are computed on the mesh that is set.

    Experts, which are whole on their devices, stay there; other matrices come together on one
    device each.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1:
        return optim.layouts.in_place
    partitions = _map_specs(lambda spec: parallel.partition_spec(spec.logical_axes), shape, lora)
    return optim.layouts.spread(mesh, partitions)


def _matrix_specs(
    cfg: config.OptimizerConfig, shape: config.ModelConfig, lora: config.LoraConfig
) -> Any:
    """The MatrixSpec of every leaf that is a matrix to `cfg`, None for AdamW's."""

    def pick(spec: model.ParamSpec):
        is_matrix = spec.role == "matrix" or (spec.role == "router" and cfg.router == "muon")
        return spec.matrix if is_matrix else None

    return _map_specs(pick, shape, lora, split=cfg.split)


def _map_specs(
    fn: Callable[[model.ParamSpec], Any],
    shape: config.ModelConfig,
    lora: config.LoraConfig,
    **options: Any,
) -> Any:
    specs = trained.describe(shape, lora, **options)
    return jax.tree.map(fn, specs, is_leaf=lambda x: isinstance(x, model.ParamSpec))
