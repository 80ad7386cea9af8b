"""One batch: losses and gradients, micro-batch by micro-batch, and one update.

Letters: B batch, S sequence, D hidden, L layers, H heads, E experts, X parts of the batch, N bins.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from kanana_jax import model, optim
from kanana_jax.batch import Batch
from kanana_jax.objectives import Seen
from kanana_jax.train import choices, forward, head, optimizers, scalars, state, teacher, trained
from kanana_jax.train.step_config import StepConfig
from pallas_kernels import maxima

Metrics = dict[str, Any]
Frozen = Mapping[str, model.Weights]


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
    count = choices.num_micro(cfg.execution)
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
    read_BSD = hidden_BSD if objective.reads_scalars else forward.tempered(hidden_BSD, batch)
    value_BS = None
    if objective.needs_values:
        value_BS = forward.of_positions(losses, params, read_BSD, batch, cfg.model, cfg.execution)
    logp_of_frozen = {
        name: forward.log_probabilities(frozen[name], batch, cfg=cfg.model, execution=cfg.execution)
        for name in objective.frozen
    }
    w_BS = objective.coefficients(value_BS, batch, totals, logp_of_frozen)
    w_BS = jax.lax.stop_gradient(w_BS)
    options = {"z_weight": objective.z_weight, "chunk_tokens": choices.chunk_tokens(cfg.execution)}
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


def rms(tree: Any) -> Float[Array, ""]:
    """Root mean square over all numbers of a tree."""
    leaves = jax.tree.leaves(tree)
    return jnp.sqrt(
        sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in leaves)
        / float(sum(math.prod(x.shape) for x in leaves))  # more than an int32 holds
    )
