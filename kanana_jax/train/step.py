"""The train step and its companions, compiled once for all rates and seeds of a comparison."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from kanana_jax import config, model, optim
from kanana_jax.train import diagnostics, head, initial, loss, optimizers, state
from pallas_kernels import maxima

Metrics = dict[str, Any]

# XLA's own sums in a fixed order. The wider xla_gpu_deterministic_ops also ends autotuning.
_DETERMINISTIC = {"xla_gpu_exclude_nondeterministic_ops": True}


class Steps(NamedTuple):
    """The compiled functions of one configuration."""

    init: Callable[[int], state.TrainState]
    train: Callable[[state.TrainState, loss.DeviceBatch, float], tuple[state.TrainState, Metrics]]
    evaluate: Callable[[Any, Array, loss.DeviceBatch], tuple[Array, Array]]
    diagnose: Callable[[Any, optax.OptState], Metrics]
    like: state.TrainState  # shapes, dtypes and shardings, for restoring
    trace: Callable[[], jax.stages.Traced]  # the train step; raises where an op cannot run
    lower: Callable[..., jax.stages.Lowered]  # the train step, for platforms that are not here too
    compile: Callable[[], jax.stages.Compiled]  # before the first calls, which then find it done


def build(exp: config.Experiment, mesh: Any) -> Steps:
    """Compiles at first use; runs with the same `compiled_part` share the compiled functions.

    Arms of a comparison share all but the train step. `mesh` is a Mesh, or an AbstractMesh: then
    only `like` and `lower(("cuda",))`, for the platform meant, can be used.
    """
    return _build(compiled_part(exp), mesh)


def compiled_part(exp: config.Experiment) -> config.Experiment:
    """What the compiled functions depend on: not the rate, the seeds or the name."""
    shared = config.single_run(exp, lr=1.0, seed=exp.train.seed)
    return dataclasses.replace(
        shared,
        name="any",
        question="",
        data=dataclasses.replace(shared.data, seed=0),
        train=dataclasses.replace(shared.train, seed=0),
    )


@functools.lru_cache(maxsize=8)
def _build(exp: config.Experiment, mesh: Any) -> Steps:
    optimizer = optimizers.make(exp, lr=1.0)
    like = state.abstract(exp.model, optimizer, mesh)
    placed = jax.tree.map(lambda x: x.sharding, like)
    init_params, evaluate = _shared_by_arms(exp.model, exp.train.loss_chunk_tokens, mesh)
    wrap = jax.jit(functools.partial(state.wrap, exp.model, optimizer), out_shardings=placed)
    whole = NamedSharding(mesh, P())  # every process reads the metrics
    options = _DETERMINISTIC if exp.model.deterministic else None
    train = jax.jit(
        functools.partial(train_step, exp=exp),
        out_shardings=(placed, whole),
        donate_argnums=0,
        compiler_options=options,
    )
    diagnose = jax.jit(
        functools.partial(diagnostics.diagnose, exp=exp),
        out_shardings=whole,
        compiler_options=options,
    )

    def set_mesh():
        is_abstract = isinstance(mesh, AbstractMesh)
        return jax.sharding.use_abstract_mesh(mesh) if is_abstract else jax.set_mesh(mesh)

    def trace() -> jax.stages.Traced:
        batch = loss.abstract_batch(exp.data.batch_size, exp.data.seq_len, mesh)
        with set_mesh():
            return train.trace(like, batch, 1.0)

    def lower(platforms: tuple[str, ...] | None = None) -> jax.stages.Lowered:
        with set_mesh():
            return trace().lower(lowering_platforms=platforms)

    def compile() -> jax.stages.Compiled:
        diagnose.lower(like.params, like.opt_state).compile()
        return lower().compile()

    def init(seed: int) -> state.TrainState:
        if not exp.train.init_from:
            return wrap(init_params(jax.random.key(seed)))
        weights = initial.restore(exp, like)
        return wrap(weights["params"])._replace(router_bias=weights["router_bias"])

    return Steps(
        init=init,
        train=_under(mesh, train),
        evaluate=evaluate,
        diagnose=diagnose,
        like=like,
        trace=trace,
        lower=lower,
        compile=compile,
    )


@functools.lru_cache(maxsize=8)
def _shared_by_arms(cfg: config.ModelConfig, chunk_tokens: int, mesh: Any):
    init_params = jax.jit(
        functools.partial(model.init, cfg), out_shardings=state.param_shardings(cfg, mesh)
    )
    evaluate = jax.jit(
        functools.partial(evaluate_batch, cfg=cfg, chunk_tokens=chunk_tokens),
        out_shardings=NamedSharding(mesh, P()),
        compiler_options=_DETERMINISTIC if cfg.deterministic else None,
    )
    return init_params, _under(mesh, evaluate)


def _under(mesh: Any, fn: Callable) -> Callable:
    """Calls `fn` with `mesh` set, which is how the model's kernels learn of it."""

    def call(*args):
        with jax.set_mesh(mesh):
            return fn(*args)

    return call


def train_step(
    before: state.TrainState,
    batch: loss.DeviceBatch,
    lr: Float[Array, ""],
    *,
    exp: config.Experiment,
) -> tuple[state.TrainState, Metrics]:
    """One update. `lr` is the peak rate; the schedule multiplies it by its own shape."""
    optimizer = optimizers.make(exp, lr=lr)
    grads, sums, max_logits = gradients(before.params, before.router_bias, batch, exp)
    with jax.named_scope("optimizer"):
        updates, opt_state = optimizer.update(
            grads, before.opt_state, before.params, max_logits=max_logits, loss=sums["loss"]
        )
        params = optax.apply_updates(before.params, updates)
    load = sums.pop("load")
    bias = model.update_router_bias(before.router_bias, load, exp.train.router_bias_rate)
    skips = optim.skip_report(opt_state)["consecutive_skips"] if exp.guard.enabled else 0
    after = state.TrainState(
        step=before.step + 1,
        params=params,
        opt_state=opt_state,
        router_bias=jnp.where(skips == 0, bias, before.router_bias),
    )
    metrics = sums | {
        "max_logits": max_logits,
        "max_logit": maxima.keep_nan(max_logits, axis=(0, 1)),
        "max_vio": jnp.max(model.max_vio(load), initial=0.0),
        "grad_rms": rms(grads),
        "update_rms": rms(updates),
        "lr": optimizers.schedule(exp, lr)(optimizers.steps_taken(before.opt_state)),
    }
    if exp.guard.enabled:
        metrics["consecutive_skips"] = skips
    if exp.optimizer.name == "muonclip":
        clipped = optimizers.clip_metrics(opt_state)
        # A skipped step clips no head; the state still tells of the step before it.
        metrics["clip_count"] = jnp.where(skips == 0, clipped["clip_count"], 0)
        metrics["min_gamma"] = jnp.where(skips == 0, clipped["min_gamma"], 1.0)
    return after, metrics


def gradients(params: Any, router_bias: Array, batch: loss.DeviceBatch, exp: config.Experiment):
    """Gradients over the whole batch, micro-batch by micro-batch.

    Sums add up over micro-batches; max logits are maximised.
    """
    parts = exp.train.accumulation_steps
    num_tokens = jnp.maximum(jnp.sum(batch.loss_mask), 1.0)
    grad_fn = jax.grad(loss.training_loss, has_aux=True)

    def micro(part):
        grads, aux = grad_fn(params, router_bias, part, 1.0 / parts, num_tokens, exp)
        return (grads, aux["sums"]), aux["max_logits"]

    if parts == 1:
        (grads, sums), max_logits = micro(batch)
        return grads, sums, max_logits

    def split(x):  # every parts-th row, so that each device keeps its own rows
        return jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)

    def body(carry, part):
        added, highest = micro(part)
        return (
            jax.tree.map(jnp.add, carry[0], added),
            jnp.maximum(carry[1], highest),
        ), None

    split_batch = jax.tree.map(split, batch)
    shapes = jax.eval_shape(micro, jax.tree.map(lambda x: x[0], split_batch))
    start = (
        jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes[0]),
        jnp.full(shapes[1].shape, -jnp.inf),
    )
    ((grads, sums), max_logits), _ = jax.lax.scan(body, start, split_batch)
    return grads, sums, max_logits


def evaluate_batch(
    params: Any,
    router_bias: Array,
    batch: loss.DeviceBatch,
    *,
    cfg: config.ModelConfig,
    chunk_tokens: int,
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """Nats and UTF-8 bytes of each sequence's targets."""
    hidden, _ = model.hidden_states(
        cfg, params, router_bias, batch.tokens, batch.positions, batch.segment_ids
    )
    _, nll, _ = head.losses(
        cfg,
        params,
        hidden,
        batch.targets,
        batch.loss_mask,
        z_weight=0.0,
        chunk_tokens=chunk_tokens,
    )
    return jnp.sum(nll * batch.loss_mask, axis=1), jnp.sum(batch.target_bytes, axis=1)


def rms(tree: Any) -> Float[Array, ""]:
    """Root mean square over all numbers of a tree."""
    leaves = jax.tree.leaves(tree)
    return jnp.sqrt(
        sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in leaves)
        / float(sum(math.prod(x.shape) for x in leaves))  # more than an int32 holds
    )
