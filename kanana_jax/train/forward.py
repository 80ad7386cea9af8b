"""What a model makes of a batch, without gradient: log-probabilities, scalars, loads, routes.

Letters: B batch, S sequence, D hidden, L MoE layers, E experts, K experts of a token.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kanana_jax import config, model
from kanana_jax.batch import Batch
from kanana_jax.train import choices, head


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
    read_BSD = tempered(hidden_BSD, batch)
    return of_positions(head.losses, weights.params, read_BSD, batch, cfg, execution)


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


def tempered(hidden_BSD: Float[Array, "B S D"], batch: Batch) -> Float[Array, "B S D"]:
    """Hidden states from which the head makes logits divided by the temperature.

    Tokens were drawn from these logits. A temperature of 0, as in padding, changes nothing.
    """
    if "temperature" not in batch.extra:
        return hidden_BSD
    temperature_BS = jnp.asarray(batch.extra["temperature"])
    divisor_BS = jnp.where(temperature_BS > 0.0, temperature_BS, 1.0)
    return (hidden_BSD / divisor_BS[..., None]).astype(hidden_BSD.dtype)


def of_positions(
    losses: Callable,
    params: Any,
    hidden_BSD: Float[Array, "B S D"],
    batch: Batch,
    cfg: config.ModelConfig,
    execution: config.ExecutionConfig,
) -> Float[Array, "B S"]:
    """What `losses` gives for every position, its sign turned.

    Nothing is differentiated, so a head makes no gradients on the way.
    """
    params, hidden_BSD = jax.lax.stop_gradient((params, hidden_BSD))
    _, nll_BS, _ = losses(
        cfg,
        params,
        hidden_BSD,
        batch.targets,
        batch.loss_mask,
        z_weight=0.0,
        chunk_tokens=choices.chunk_tokens(execution),
    )
    return -nll_BS
