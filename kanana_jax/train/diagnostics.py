"""Slow measurements, taken every few steps: what makes attention logits grow.

    spectral norm of W_q W_k^T per head      the factor by which logits can grow with their inputs
    |U U^T - I|_F / sqrt(M)                  how far Muon's update is from orthogonal

Letters: L layers, H heads, D and C inputs of query and key, N width of a query or key head.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from kanana_jax import config, model, optim
from kanana_jax.model import lora as adapters
from kanana_jax.train import optimizers

_POWER_ITERATIONS = 24
_OFF = config.LoraConfig()


def diagnose(
    weights: model.Weights,
    opt_state: optax.OptState,
    *,
    cfg: config.OptimizerConfig,
    shape: config.ModelConfig,
    lora: config.LoraConfig = _OFF,
) -> dict[str, Array]:
    """Measures whole weights, and the optimizer's state of those that are trained."""
    norms = [
        qk_spectral_norms(_attention(weights, name), shape)
        for name in ("dense_layers", "moe_layers")
        if name in weights.params
    ]
    found = {"qk_spectral_norm": jnp.concatenate(norms)}
    specs = optimizers.polar_specs(cfg, shape, lora)
    if jax.tree.leaves(specs):
        found["orthogonality_error"] = update_orthogonality_error(opt_state, specs, cfg)
    return found


def _attention(weights: model.Weights, stack: str) -> Any:
    of_stack = (weights.adapters or {}).get(stack, {})
    plain = weights.params[stack]["attention"]
    return adapters.applied(plain, of_stack.get("attention"), jnp.float32)


def qk_spectral_norms(attention: Any, cfg: config.ModelConfig) -> Float[Array, "L H"]:
    """Largest singular value of W_q W_k^T of every layer and head, as the attention factors them.

    The matrix is D x C but of rank N: with the Gram matrices A = W_q^T W_q and B = W_k^T W_k, its
    squared singular values are the eigenvalues of A B, found by power iteration.
    """
    q_LDHN, k_LCHN = model.attention.of(cfg).qk_factors(cfg, attention)
    a_LHNN = jnp.einsum("LDHN,LDHM->LHNM", q_LDHN, q_LDHN)
    b_LHNN = jnp.einsum("LCHN,LCHM->LHNM", k_LCHN, k_LCHN)

    def iterate(v_LHN, _):
        v_LHN = jnp.einsum("LHNM,LHM->LHN", a_LHNN, jnp.einsum("LHNM,LHM->LHN", b_LHNN, v_LHN))
        norm_LH1 = jnp.linalg.norm(v_LHN, axis=-1, keepdims=True)
        return v_LHN / jnp.maximum(norm_LH1, 1e-30), norm_LH1[..., 0]

    start_LHN = jax.random.normal(jax.random.key(0), a_LHNN.shape[:-1])
    start_LHN /= jnp.linalg.norm(start_LHN, axis=-1, keepdims=True)
    _, norms = jax.lax.scan(iterate, start_LHN, length=_POWER_ITERATIONS)
    return jnp.sqrt(norms[-1])


def update_orthogonality_error(
    opt_state: optax.OptState, specs: Any, cfg: config.OptimizerConfig
) -> Float[Array, ""]:
    """Mean over all matrices of the error of the orthogonalised momentum."""
    polar = optimizers.polar_fn(cfg)

    def errors(spec, momentum):
        if spec is None:
            return []
        stacks = optim.split_matrices(momentum, spec)
        return [optim.orthogonality_error(polar(stack)).ravel() for stack in stacks]

    momentum = optax.tree_utils.tree_get(opt_state, "momentum")
    found = jax.tree.map(errors, specs, momentum, is_leaf=optimizers.is_spec)
    return jnp.mean(jnp.concatenate(jax.tree.leaves(found)))
