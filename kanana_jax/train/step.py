"""The train step and its companions, compiled once for all rates and seeds of a comparison."""

import dataclasses
import functools
import math
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from kanana_jax import config, model, optim, parallel
from kanana_jax.batch import Batch, Features, Images, Sounds
from kanana_jax.objectives import NextToken, Objective, Seen, soft_targets
from kanana_jax.train import (
    choices,
    diagnostics,
    head,
    optimizers,
    scalars,
    state,
    teacher,
    trained,
    transfer,
)
from pallas_kernels import maxima

Metrics = dict[str, Any]
Frozen = Mapping[str, model.Weights]

# XLA's own sums in a fixed order. The wider xla_gpu_deterministic_ops also ends autotuning.
_DETERMINISTIC = {"xla_gpu_exclude_nondeterministic_ops": True}

# On CPUs, for a function that runs once: the same numbers, compiled in a third of the time.
_RUNS_ONCE = {"xla_backend_optimization_level": 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepConfig:
    """What the compiled functions depend on: no rate, no seed, no name, no corpus.

    `execution` has no "auto" left where its value changes the program; see `train.choices`.
    """

    model: config.ModelConfig
    execution: config.ExecutionConfig
    optimizer: config.OptimizerConfig
    guard: config.GuardConfig
    average: config.AverageConfig = config.AverageConfig()  # noqa: RUF009
    lora: config.LoraConfig = config.LoraConfig()
    objective: Objective = NextToken()
    teacher: config.ModelConfig | None = None  # of an objective with a live one
    num_steps: int  # of the schedule, as far as it depends on them
    batch_size: int
    seq_len: int
    image_patches: int = 0  # room in a row for patches of images
    sounds: tuple[int, int] = (0, 0)  # and for sounds, and the frames of each
    balance_loss_weight: float = 0.0
    router_balance: Literal["sign", "quantile"] = "sign"
    router_bias_rate: float = 0.0
    rates: tuple[config.RateSegment, ...] = ()  # of stages; empty: the optimizer's schedule

    def schedule(self, lr: Any) -> optax.Schedule:
        if not self.rates:
            return optimizers.schedule(self.optimizer.schedule, self.num_steps, lr)
        warmup_steps = self.optimizer.schedule.warmup_steps
        return optim.schedules.segments(lr, self.rates, warmup_steps=warmup_steps)

    def make_optimizer(self, lr: Any) -> optax.GradientTransformationExtraArgs:
        """The optimizer under its guard at peak rate `lr`, a number or a traced scalar."""
        made = optimizers.make(self.optimizer, self.model, self.schedule(lr), self.lora)
        made = optimizers.averaged(made, self.average, self.batch_size * self.seq_len)
        return optimizers.guarded(made, self.guard)


def step_config(
    cfg: config.TrainingConfig,
    objective: Objective,
    device: choices.Device | None = None,
    num_devices: int | None = None,
    rates: tuple[config.RateSegment, ...] = (),
    teacher: config.ModelConfig | None = None,
) -> StepConfig:
    """What the step of a job depends on. The peak rate is 1: a step takes it as an argument.

    `rates` are those of the stages of its run, `teacher` the shape of a live teacher.
    `device` and `num_devices` are those that it will run on; None: this process's.
    """
    sizes = dataclasses.asdict(cfg.mesh)  # making the mesh checks that they use up the devices
    if -1 in sizes.values():
        sizes = parallel.axis_sizes(cfg.mesh, num_devices or jax.device_count())
    return StepConfig(
        model=cfg.model,
        execution=choices.chosen(
            cfg.execution,
            cfg.model,
            cfg.data.batch_size,
            cfg.data.seq_len,
            sizes,
            device or choices.here(),
            keeps_average=cfg.train.average.every_tokens > 0,
            lora=cfg.lora,
            teacher=teacher,
        ),
        optimizer=dataclasses.replace(cfg.optimizer, lr=1.0),
        guard=cfg.guard,
        average=cfg.train.average,
        lora=cfg.lora,
        objective=objective,
        teacher=teacher,
        num_steps=_scheduled_steps(cfg),
        batch_size=cfg.data.batch_size,
        seq_len=cfg.data.seq_len,
        image_patches=cfg.data.image_patches,
        sounds=(cfg.data.sounds, cfg.data.sound_frames) if cfg.data.sounds else (0, 0),
        balance_loss_weight=cfg.train.balance_loss_weight,
        router_balance=cfg.train.router_balance,
        router_bias_rate=cfg.train.router_bias_rate,
        rates=rates,
    )


def _scheduled_steps(cfg: config.TrainingConfig) -> int:
    """Steps that the schedule reads, so that runs of other lengths share a step where possible."""
    schedule = cfg.optimizer.schedule
    if schedule.name == "cosine" or schedule.decay_steps:
        return cfg.train.num_steps
    return schedule.warmup_steps  # no fewer than that


class Steps(NamedTuple):
    """The compiled functions of one configuration."""

    cfg: StepConfig
    weights: Callable[[int], model.Weights]  # fresh ones, from a seed
    init: Callable[[int], state.TrainState]  # from a seed
    # From weights of another run and, with adapters, the seed of the adapters.
    start: Callable[[model.Weights, int], state.TrainState]
    # The weights that compute, made from the trained and the frozen ones.
    whole: Callable[[model.Weights, Frozen], model.Weights]
    train: Callable[[state.TrainState, Batch, float, Frozen], tuple[state.TrainState, Metrics]]
    evaluate: Callable[[model.Weights, Batch], tuple[Array, Array]]
    logp: Callable[[model.Weights, Batch], Array]
    scalars: Callable[[model.Weights, Batch], Array]  # of a model with a scalar head
    loads: Callable[[model.Weights, Batch], Array]
    routes: Callable[[model.Weights, Batch], Array]
    diagnose: Callable[[model.Weights, optax.OptState], Metrics]  # of weights that compute
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
        functools.partial(train_step, cfg=cfg),
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
        _under(mesh, compiled(evaluate_batch)),
        _under(mesh, compiled(log_probabilities)),
        _under(mesh, compiled(scalars_of)),
        _under(mesh, compiled(expert_loads)),
        _under(mesh, compiled(chosen_experts)),
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


def train_step(
    before: state.TrainState,
    batch: Batch,
    lr: Float[Array, ""],
    frozen: Frozen,
    *,
    cfg: StepConfig,
) -> tuple[state.TrainState, Metrics]:
    """One update. `lr` is the peak rate; the schedule multiplies it by its own shape."""
    optimizer = cfg.make_optimizer(lr)
    grads, seen, routing = gradients(before.weights, batch, frozen, cfg)
    max_logits, loss = seen.maxima["max_logits"], seen.sums["loss"]
    params = before.weights.params
    with jax.named_scope("optimizer"):
        updates, opt_state = optimizer.update(
            grads, before.opt_state, params, max_logits=max_logits, loss=loss
        )
        params: Any = optax.apply_updates(params, updates)
    bias = before.weights.buffers["router_bias"]
    moved_bias = _moved_bias(bias, routing, cfg)
    skips = optim.skip_report(opt_state)["consecutive_skips"] if cfg.guard.enabled else 0
    buffers = before.weights.buffers | {"router_bias": jnp.where(skips == 0, moved_bias, bias)}
    after = state.TrainState(before.step + 1, model.Weights(params, buffers), opt_state)
    metrics = (
        seen.sums
        | seen.maxima
        | {
            "max_logit": maxima.keep_nan(max_logits, axis=(0, 1)),
            **_balance(routing.load_LE),
            "grad_rms": rms(grads),
            "update_rms": rms(updates),
            "lr": cfg.schedule(lr)(optimizers.steps_taken(before.opt_state)),
        }
    )
    if cfg.guard.enabled:
        metrics["consecutive_skips"] = skips
    return after, metrics | optimizers.report(cfg.optimizer.name, opt_state, skips != 0)


def _balance(load_LE: Array) -> Metrics:
    """How even the loads are. A model without experts has nothing but a MaxVio of 0."""
    max_vio_L = model.max_vio(load_LE)
    found = {"max_vio": jnp.max(max_vio_L, initial=0.0)}
    if load_LE.size:
        mean_L1 = jnp.maximum(load_LE.mean(axis=-1, keepdims=True), 1e-20)
        found |= {"max_vio_layers": max_vio_L, "relative_load": load_LE / mean_L1}
    return found


def _moved_bias(bias_LE: Array, routing: model.Routing, cfg: StepConfig) -> Array:
    if cfg.router_balance == "quantile":
        top_k = cfg.model.num_experts_per_token
        return model.quantile_router_bias(bias_LE, routing.needed_LXEN, top_k)
    return model.update_router_bias(bias_LE, routing.load_LE, cfg.router_bias_rate)


def gradients(
    weights: model.Weights, batch: Batch, frozen: Frozen, cfg: StepConfig
) -> tuple[Any, Seen, model.Routing]:
    """Gradients over the whole batch, micro-batch by micro-batch; and what its tokens chose.

    Sums add up over micro-batches; the largest of maxima counts.
    """
    count = num_micro(cfg.execution)
    totals = cfg.objective.totals(batch)
    grad_fn = jax.grad(micro_loss, has_aux=True)
    buffers = weights.buffers
    if not cfg.lora.rank:  # else each layer makes the weights that compute as it begins
        with jax.named_scope("expert_matrices"):
            made = model.expert_matrices.once(weights.params, cfg.execution)
        buffers = buffers if made is None else buffers | {"expert_matrices": made}

    def micro(part: Batch):
        grads, (seen, routing) = grad_fn(
            weights.params, buffers, part, frozen, totals, 1.0 / count, cfg
        )
        return (grads, seen.sums, routing), seen.maxima

    if count == 1:
        (grads, sums, routing), maxima = micro(batch)
        return grads, Seen(sums, maxima), routing

    def split(x):  # every count-th row, so that each device keeps its own rows
        return jnp.moveaxis(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 1, 0)

    def body(carry, part):
        added, largest = micro(part)
        return (
            jax.tree.map(jnp.add, carry[0], added),
            jax.tree.map(jnp.maximum, carry[1], largest),
        ), None

    split_batch = jax.tree.map(split, batch)
    shapes = jax.eval_shape(micro, jax.tree.map(lambda x: x[0], split_batch))
    start = (
        jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes[0]),
        jax.tree.map(lambda x: jnp.full(x.shape, -jnp.inf, x.dtype), shapes[1]),
    )
    ((grads, sums, routing), maxima), _ = jax.lax.scan(body, start, split_batch)
    return grads, Seen(sums, maxima), routing


def micro_loss(
    params: Any,
    buffers: Any,
    batch: Batch,
    frozen: Frozen,
    totals: Any,
    share: float,
    cfg: StepConfig,
) -> tuple[Float[Array, ""], tuple[Seen, model.Routing]]:
    """The part of the batch's loss that comes from one micro-batch, and what was seen and chosen.

    `totals` are of the whole batch and `share` is the micro-batch's share of its sequences, so that
    losses, gradients and sums add up to those of the whole batch.
    """
    weights = trained.whole(cfg.model, cfg.lora, model.Weights(params, buffers), frozen)
    params, objective = weights.params, cfg.objective
    hidden_BSD, aux = model.hidden_states(
        cfg.model,
        weights,
        batch.inputs,
        cfg.execution,
        counts_needed=cfg.router_balance == "quantile",
    )
    # Both heads give a weighted loss and what the weights multiply, with the sign of an nll.
    losses = scalars.losses if objective.reads_scalars else head.losses
    read_BSD = hidden_BSD if objective.reads_scalars else _tempered(hidden_BSD, batch)
    value_BS = None
    if objective.needs_values:
        value_BS = _values(losses, params, read_BSD, batch, cfg.model, cfg.execution)
    logp_of_frozen = {
        name: log_probabilities(frozen[name], batch, cfg=cfg.model, execution=cfg.execution)
        for name in objective.frozen
    }
    w_BS = objective.coefficients(value_BS, batch, totals, logp_of_frozen)
    w_BS = jax.lax.stop_gradient(w_BS)
    options = {"z_weight": objective.z_weight, "chunk_tokens": chunk_tokens(cfg.execution)}
    of_teacher = {}
    if objective.teaching is None:
        loss, nll_BS, logz_BS = losses(cfg.model, params, read_BSD, batch.targets, w_BS, **options)
    else:
        taught = teacher.of_batch(
            objective.teaching, cfg.teacher, frozen.get(teacher.NAME), batch, totals, cfg.execution
        )
        loss, nll_BS, logz_BS, of_teacher = teacher.losses(
            cfg.model, params, read_BSD, batch, w_BS, taught, **options
        )
    seen = objective.seen(-nll_BS, logz_BS, batch, totals, logp_of_frozen)
    sums = _with_loss(seen.sums, of_teacher)
    if objective.critic is not None:
        of_values, of_critic = scalars.critic_loss(
            objective.critic, cfg.model, params, hidden_BSD, batch, totals
        )
        loss += of_values
        sums = _with_loss(sums, of_critic)
    balance_loss = aux.balance_loss * share
    sums = sums | {"balance_loss": balance_loss}
    maxima = seen.maxima | {"max_logits": aux.max_logits}
    total = loss + cfg.balance_loss_weight * balance_loss
    return total, (Seen(sums, maxima), aux.routing)


def _with_loss(sums: dict[str, Array], more: dict[str, Array]) -> dict[str, Array]:
    """Both, with their losses added up; `sums` unchanged where `more` is empty."""
    return sums | more | {"loss": sums["loss"] + more["loss"]} if more else sums


def num_micro(execution: config.ExecutionConfig) -> int:
    """Micro-batches per step."""
    chosen = execution.accumulation_steps
    return 1 if chosen == "auto" else chosen


def chunk_tokens(execution: config.ExecutionConfig) -> int:
    """Tokens whose logits a device forms at a time."""
    chosen = execution.loss_chunk_tokens
    return 4096 if chosen == "auto" else chosen


def evaluate_batch(
    weights: model.Weights,
    batch: Batch,
    *,
    cfg: config.ModelConfig,
    execution: config.ExecutionConfig,
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """Nats and UTF-8 bytes of each sequence's targets."""
    logp_BS = log_probabilities(weights, batch, cfg=cfg, execution=execution)
    return jnp.sum(-logp_BS * batch.loss_mask, axis=1), jnp.sum(batch.target_bytes, axis=1)


def log_probabilities(
    weights: model.Weights,
    batch: Batch,
    *,
    cfg: config.ModelConfig,
    execution: config.ExecutionConfig,
) -> Float[Array, "B S"]:
    """The log-probability of every target, without gradient.

    At the temperatures of the batch's column "temperature", where it has one.
    """
    hidden_BSD, _ = model.hidden_states(cfg, weights, batch.inputs, execution)
    read_BSD = _tempered(hidden_BSD, batch)
    return _values(head.losses, weights.params, read_BSD, batch, cfg, execution)


def scalars_of(
    weights: model.Weights,
    batch: Batch,
    *,
    cfg: config.ModelConfig,
    execution: config.ExecutionConfig,
) -> Float[Array, "B S"]:
    """What the scalar head gives every position, without gradient."""
    hidden_BSD, _ = model.hidden_states(cfg, weights, batch.inputs, execution)
    return model.scalars(cfg, weights.params, hidden_BSD)


def expert_loads(
    weights: model.Weights,
    batch: Batch,
    *,
    cfg: config.ModelConfig,
    execution: config.ExecutionConfig,
) -> Float[Array, "L B E"]:
    """Tokens of each sequence that chose each expert, by MoE layer."""
    _, aux = model.hidden_states(cfg, weights, batch.inputs, execution)
    return aux.sequence_load


def chosen_experts(
    weights: model.Weights,
    batch: Batch,
    *,
    cfg: config.ModelConfig,
    execution: config.ExecutionConfig,
) -> Int[Array, "B S L K"]:
    """Those that the router chooses for each token by MoE layer, whatever the batch replays."""
    inputs = batch.inputs._replace(routes=None)
    _, aux = model.hidden_states(cfg, weights, inputs, execution)
    assert aux.routes is not None
    return jnp.moveaxis(aux.routes, 0, 2)


def _tempered(hidden_BSD: Float[Array, "B S D"], batch: Batch) -> Float[Array, "B S D"]:
    """Hidden states from which the head makes logits divided by the temperature.

    Tokens were drawn from these logits. A temperature of 0, as in padding, changes nothing.
    """
    if "temperature" not in batch.extra:
        return hidden_BSD
    temperature_BS = jnp.asarray(batch.extra["temperature"])
    divisor_BS = jnp.where(temperature_BS > 0.0, temperature_BS, 1.0)
    return (hidden_BSD / divisor_BS[..., None]).astype(hidden_BSD.dtype)


def _values(
    losses: Callable,
    params: Any,
    hidden_BSD: Float[Array, "B S D"],
    batch: Batch,
    cfg: config.ModelConfig,
    execution: config.ExecutionConfig,
) -> Float[Array, "B S"]:
    """Of every position. Nothing is differentiated, so a head makes no gradients on the way."""
    params, hidden_BSD = jax.lax.stop_gradient((params, hidden_BSD))
    _, nll_BS, _ = losses(
        cfg,
        params,
        hidden_BSD,
        batch.targets,
        batch.loss_mask,
        z_weight=0.0,
        chunk_tokens=chunk_tokens(execution),
    )
    return -nll_BS


def rms(tree: Any) -> Float[Array, ""]:
    """Root mean square over all numbers of a tree."""
    leaves = jax.tree.leaves(tree)
    return jnp.sqrt(
        sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in leaves)
        / float(sum(math.prod(x.shape) for x in leaves))  # more than an int32 holds
    )
