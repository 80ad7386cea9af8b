"""The train step and its companions, compiled once for all rates and seeds of a comparison."""

import dataclasses
import functools
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from kanana_jax import config, model, parallel
from kanana_jax.batch import Batch, Features, Images, Sounds
from kanana_jax.objectives import soft_targets
from kanana_jax.train import diagnostics, forward, state, step, teacher, trained, transfer
from kanana_jax.train.step_config import StepConfig

# XLA's own sums in a fixed order. The wider xla_gpu_deterministic_ops also ends autotuning.
_DETERMINISTIC = {"xla_gpu_exclude_nondeterministic_ops": True}

# On CPUs, for a function that runs once: the same numbers, compiled in a third of the time.
_RUNS_ONCE = {"xla_backend_optimization_level": 1}


class Steps(NamedTuple):
    """The compiled functions of one configuration."""

    cfg: StepConfig
    weights: Callable[[int], model.Weights]  # fresh ones, from a seed
    init: Callable[[int], state.TrainState]  # from a seed
    # From weights of another run and, with adapters, the seed of the adapters.
    start: Callable[[model.Weights, int], state.TrainState]
    # The weights that compute, made from the trained and the frozen ones.
    whole: Callable[[model.Weights, step.Frozen], model.Weights]
    train: Callable[
        [state.TrainState, Batch, float, step.Frozen], tuple[state.TrainState, step.Metrics]
    ]
    evaluate: Callable[[model.Weights, Batch], tuple[Array, Array]]
    logp: Callable[[model.Weights, Batch], Array]
    scalars: Callable[[model.Weights, Batch], Array]  # of a model with a scalar head
    loads: Callable[[model.Weights, Batch], Array]
    routes: Callable[[model.Weights, Batch], Array]
    diagnose: Callable[[model.Weights, optax.OptState], step.Metrics]  # of weights that compute
    like: state.TrainState  # shapes, dtypes and shardings, for restoring
    like_whole: model.Weights  # those of the weights that compute, without adapters
    trace: Callable[[], jax.stages.Traced]  # the train step; raises where an op cannot run
    lower: Callable[..., jax.stages.Lowered]  # the train step, for platforms that are not here too
    compile: Callable[[], jax.stages.Compiled]  # before the first calls, which then find it done


@functools.lru_cache(maxsize=8)
def build(cfg: StepConfig, mesh: Any) -> Steps:
    """Compiles at first use; equal configurations share the compiled functions.

    Arms of a comparison share all but the train step. `mesh` is a Mesh, or an AbstractMesh: then
    only `like` and `lower(("cuda",))`, for the platform meant, can be used.
    """
    optimizer = cfg.make_optimizer(1.0)
    like = state.abstract(cfg.model, optimizer, mesh, cfg.lora)
    like_whole = state.abstract_weights(cfg.model, mesh, cfg.lora)
    placed = jax.tree.map(lambda x: x.sharding, like)
    # Evaluation does not cut batches, so stages that cut theirs differently share it.
    whole_batches = dataclasses.replace(cfg.execution, accumulation_steps=1)
    evaluate, logp, rewards, loads, routes = _shared_by_arms(cfg.model, whole_batches, mesh)
    init_weights = _fresh_weights(cfg.model, transfer.initial_of(cfg.optimizer), mesh)
    start = jax.jit(functools.partial(_start, cfg, optimizer), out_shardings=placed)
    whole_of = functools.partial(trained.whole, cfg.model, cfg.lora)
    whole = NamedSharding(mesh, P())  # every process reads the metrics
    options = compiler_options(cfg.execution)
    train = jax.jit(
        functools.partial(step.train_step, cfg=cfg),
        out_shardings=(placed, whole),
        donate_argnums=0,
        compiler_options=options,
    )
    diagnose = jax.jit(
        functools.partial(diagnostics.diagnose, cfg=cfg.optimizer, shape=cfg.model, lora=cfg.lora),
        out_shardings=whole,
        compiler_options=options,
    )

    def set_mesh():
        is_abstract = isinstance(mesh, AbstractMesh)
        return jax.sharding.use_abstract_mesh(mesh) if is_abstract else jax.set_mesh(mesh)

    def trace() -> jax.stages.Traced:
        batch = abstract_batch(
            cfg.batch_size,
            cfg.seq_len,
            mesh,
            cfg.objective.columns,
            routes=_routes_of_token(cfg),
            of_teacher=_columns_of_teacher(cfg),
            features=_features_of_row(cfg),
        )
        frozen = dict.fromkeys(cfg.objective.frozen, like_whole)
        if cfg.lora.rank:
            frozen[trained.NAME] = like_whole
        if cfg.teacher is not None:
            frozen[teacher.NAME] = state.abstract_weights(cfg.teacher, mesh)
        with set_mesh():
            return train.trace(like, batch, 1.0, frozen)

    def lower(platforms: tuple[str, ...] | None = None) -> jax.stages.Lowered:
        with set_mesh():
            return trace().lower(lowering_platforms=platforms)

    def compile() -> jax.stages.Compiled:
        computing = whole_of(like.weights, {trained.NAME: like_whole})
        diagnose.lower(computing, like.opt_state).compile()
        return lower().compile()

    return Steps(
        cfg=cfg,
        weights=lambda seed: init_weights(jax.random.key(seed)),
        init=lambda seed: start(init_weights(jax.random.key(seed)), seed),
        start=start,
        whole=whole_of,
        train=_under(mesh, train),
        evaluate=evaluate,
        logp=logp,
        scalars=rewards,
        loads=loads,
        routes=routes,
        diagnose=diagnose,
        like=like,
        like_whole=like_whole,
        trace=trace,
        lower=lower,
        compile=compile,
    )


def compiler_options(execution: config.ExecutionConfig) -> dict[str, Any] | None:
    """XLA's options, for all that a run computes."""
    return _DETERMINISTIC if execution.deterministic else None


def _start(
    cfg: StepConfig,
    optimizer: optax.GradientTransformationExtraArgs,
    weights: model.Weights,
    seed: Any,
) -> state.TrainState:
    # Not the key of fresh weights, which have the seed itself.
    key = jax.random.fold_in(jax.random.key(seed), 1)
    return state.wrap(optimizer, trained.start(cfg.model, cfg.lora, weights, key))


@functools.lru_cache(maxsize=8)
def _fresh_weights(cfg: config.ModelConfig, initial: transfer.Initial, mesh: Any):
    return jax.jit(
        lambda key: transfer.scaled(model.init(cfg, key), initial, cfg),
        out_shardings=state.weight_shardings(cfg, mesh),
        compiler_options=_RUNS_ONCE if jax.default_backend() == "cpu" else None,
    )


@functools.lru_cache(maxsize=8)
def _shared_by_arms(cfg: config.ModelConfig, execution: config.ExecutionConfig, mesh: Any):
    def compiled(fn):
        return jax.jit(
            functools.partial(fn, cfg=cfg, execution=execution),
            out_shardings=NamedSharding(mesh, P()),
            compiler_options=compiler_options(execution),
        )

    return (
        _under(mesh, compiled(forward.evaluate_batch)),
        _under(mesh, compiled(forward.log_probabilities)),
        _under(mesh, compiled(forward.scalars_of)),
        _under(mesh, compiled(forward.expert_loads)),
        _under(mesh, compiled(forward.chosen_experts)),
    )


def _under(mesh: Any, fn: Callable) -> Callable:
    """Calls `fn` with `mesh` set, which is how the model's kernels learn of it."""

    def call(*args):
        with jax.set_mesh(mesh):
            return fn(*args)

    return call


def abstract_batch(
    batch_size: int,
    seq_len: int,
    mesh: Any,
    columns: tuple[str, ...] = (),
    routes: tuple[int, int] | None = None,
    of_teacher: Mapping[str, soft_targets.Column] = types.MappingProxyType({}),
    features: Features | None = None,
) -> Batch:
    """Shapes, dtypes and shardings of a batch on `mesh`; `columns` are those of `Batch.extra`.

    `routes` counts MoE layers and experts of a token, where the batch says which these are;
    `of_teacher` are columns of several numbers per position. `features` are the shapes and dtypes
    of a row's features.
    """
    sharding = parallel.batch_sharding(mesh)

    def column(dtype, *of_token: int) -> Any:
        return of_rows(jax.ShapeDtypeStruct((seq_len, *of_token), dtype))

    def of_rows(one: jax.ShapeDtypeStruct) -> Any:
        return jax.ShapeDtypeStruct((batch_size, *one.shape), one.dtype, sharding=sharding)

    return Batch(
        *[column(jnp.int32)] * 4,
        *[column(jnp.float32)] * 2,
        extra=dict.fromkeys(columns, column(jnp.float32))
        | {name: column(one.dtype, one.size) for name, one in of_teacher.items()},
        routes=None if routes is None else column(jnp.int32, *routes),
        features=jax.tree.map(of_rows, features),
    )


def _routes_of_token(cfg: StepConfig) -> tuple[int, int] | None:
    is_read = cfg.objective.replays_routes
    return (cfg.model.num_moe_layers, cfg.model.num_experts_per_token) if is_read else None


def _features_of_row(cfg: StepConfig) -> Features | None:
    def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    slots = array(jnp.int32, cfg.seq_len)
    if cfg.image_patches and cfg.model.vision is not None:
        room = cfg.image_patches
        return Images(
            pixels=array(jnp.uint8, room, cfg.model.vision.patch_values),
            places=array(jnp.int32, room, 4),
            image_ids=array(jnp.int32, room),
            slots=slots,
        )
    if any(cfg.sounds) and cfg.model.audio is not None:
        sounds, frames = cfg.sounds
        bands = cfg.model.audio.num_bands
        return Sounds(array(jnp.float16, sounds, frames, bands), array(jnp.int32, sounds), slots)
    return None


def _columns_of_teacher(cfg: StepConfig) -> Mapping[str, soft_targets.Column]:
    teaching = cfg.objective.teaching
    return {} if teaching is None or teaching.is_live else teaching.divergence.columns
