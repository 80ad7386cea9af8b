"""Mixture of experts as in DeepSeek-V3 (arXiv:2412.19437, sec. 2.1.2); no token is ever dropped.

    s        = sigmoid(x W_router)                                      float32
    chosen   = top K of s + b, within the token's best groups           b picks, it does not weigh
               or what was chosen when a sampler read the token         routing replay
    w_e      = scaling * s_e / sum_chosen s
    out      = sum_chosen w_e mlp_e(x) + mlp_shared(x)

After each step b moves towards even loads (`balance`). A small loss keeps single sequences from
collapsing (eq. 17-20):

    loss = sum_e f_e P_e,  f_e = E / (K T) #{t : e in top K of s_t},  P_e = mean_t s_te / sum_j s_tj

Letters: B batch, S sequence, T tokens, D hidden, E experts, K experts per token, F width of an
expert, g groups, m members of a group, X parts of the batch, N bins.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

import pallas_kernels
from kanana_jax.config import ExecutionConfig, ModelConfig
from kanana_jax.model import balance, exchange, expert_matrices, layers, xla_hints
from kanana_jax.parallel import local
from pallas_kernels.moe_mlp.matrices import Matrices


class RoutingStats(NamedTuple):
    expert_BSK: Int[Array, "B S K"]  # where each token went
    load_BE: Float[Array, "B E"]  # tokens of each sequence sent to each expert, padding left out
    balance_loss: Float[Array, ""]
    needed_XEN: Int[Array, "X E N"] | None = None  # see `balance.Routing`

    @property
    def load_E(self) -> Float[Array, "E"]:
        return self.load_BE.sum(axis=0)


class MoE(nnx.Module):
    def __init__(self, cfg: ModelConfig, execution: ExecutionConfig, *, rngs: nnx.Rngs):
        self.cfg, self.execution = cfg, execution
        hidden, experts, width = cfg.hidden_size, cfg.num_experts, cfg.moe_intermediate_size
        self.router = layers.normal(rngs, cfg, hidden, experts)
        self.w_gate_up = layers.normal(rngs, cfg, experts, 2, width, hidden)
        self.w_down = layers.normal(rngs, cfg, experts, width, hidden)
        if cfg.num_shared_experts:
            self.shared = layers.SwiGLU(cfg, execution, cfg.num_shared_experts * width, rngs=rngs)

    def __call__(
        self,
        x_BSD: Float[Array, "B S D"],
        bias_E: Float[Array, "E"],
        is_token_BS: Bool[Array, "B S"],
        counts_needed: bool = False,
        replayed_BSK: Int[Array, "B S K"] | None = None,
        matrices: Matrices | None = None,
    ) -> tuple[Float[Array, "B S D"], RoutingStats]:
        """The output, and what was chosen; `needed_XEN` only where it is to be counted.

        A token goes to the experts that `replayed_BSK` names for it, where it names some.
        `matrices` are the experts' FP8 matrices, where they were made before.
        """
        score_BSE = xla_hints.pad_single_row(lambda x: router_scores(x, self.router[...]), x_BSD)
        dtype, top_k = x_BSD.dtype, self.cfg.num_experts_per_token
        tokens = ("batch", "sequence", "whole")
        replayed = () if replayed_BSK is None else (replayed_BSK,)
        expert_BSK, weight_BSK = local.on_parts(
            lambda score_BSE, bias_E, *replayed: choose(score_BSE, bias_E, self.cfg, *replayed),
            (score_BSE, bias_E, *replayed),
            (tokens, ("whole",), *[tokens] * len(replayed)),
            [tokens, tokens],
        )
        leaves, structure = jax.tree.flatten(matrices)
        out_BSD = local.on_parts(
            functools.partial(self._routed, structure),
            (
                x_BSD,
                expert_BSK,
                weight_BSK,
                self.w_gate_up[...].astype(dtype),
                self.w_down[...].astype(dtype),
                *leaves,
            ),
            (
                tokens,
                tokens,
                tokens,
                expert_matrices.UP_AXES,
                expert_matrices.DOWN_AXES,
                *expert_matrices.axes(matrices),
            ),
            tokens,
        )
        if self.cfg.num_shared_experts:
            out_BSD += xla_hints.pad_single_row(self.shared, x_BSD)
        load_BE = _count(expert_BSK, is_token_BS, self.cfg.num_experts)
        needed_XEN = None
        if counts_needed:
            needed_XEN = local.on_parts(
                functools.partial(balance.count_needed, top_k=top_k),
                (score_BSE, bias_E, is_token_BS),
                (tokens, ("whole",), ("batch", "sequence")),
                ("token_parts", "whole", "whole"),
            )
        loss = balance_loss(score_BSE, is_token_BS, top_k)
        return out_BSD, RoutingStats(expert_BSK, load_BE, loss, needed_XEN)

    @jax.named_scope("experts")
    def _routed(self, structure, x_BSD, expert_BSK, weight_BSK, *experts):
        """The experts of one device, on the tokens of its expert axis that chose them.

        Tokens come by an all-gather, which moves each one to every device, or by an exchange that
        moves it to the devices with its experts (`exchange.share_sent` compares them). No token is
        ever dropped. Over fsdp a device receives its row of experts; over tensor, which splits the
        experts' width, outputs are summed.
        """
        shape = x_BSD.shape
        w_gate_up, w_down, *leaves = (local.gather_weight(w, 0, like=x_BSD) for w in experts)
        experts = w_gate_up, w_down, jax.tree.unflatten(structure, leaves)
        # Sums over tensor come where tokens are few: before they are sent, after they are back.
        x_BSD, weight_BSK = local.vary(x_BSD, "tensor"), local.vary(weight_BSK, "tensor")
        tokens = x_BSD, expert_BSK, weight_BSK
        num_devices = local.axis_size("expert")
        if exchange.form(self.cfg, self.execution, num_devices, local.platform()) == "ragged":
            out_BSD = self._exchanged(_flat(tokens), *experts).reshape(shape)
        else:
            # By sequence: XLA:TPU sums and slices what is scattered over flat tokens in two steps.
            tokens = [local.gather(x, "expert", 0) for x in tokens]
            out_TD = self._experts_here(_flat(tokens), *experts)
            out_BSD = local.sum_scatter(out_TD.reshape(-1, *shape[1:]), "expert", 0)
        return local.add_up(out_BSD, "tensor")

    def _exchanged(self, tokens, w_gate_up, w_down, matrices):
        """Sends tokens to their experts and their outputs back."""
        x_TD, expert_TK, weight_TK = tokens
        routes = exchange.route(expert_TK // w_down.shape[0])
        # float32 holds experts' numbers exactly, so that they travel in one array with the weights.
        choices_TC = jnp.concatenate([expert_TK.astype(jnp.float32), weight_TK], axis=1)
        x_RD, choices_RC = exchange.send(routes, x_TD), exchange.send(routes, choices_TC)
        expert_RK, weight_RK = jnp.split(choices_RC, 2, axis=1)
        is_row_R1 = jnp.arange(x_RD.shape[0])[:, None] < exchange.num_received(routes)
        expert_RK = jnp.where(is_row_R1, expert_RK.astype(jnp.int32), -1)
        out_RD = self._experts_here((x_RD, expert_RK, weight_RK), w_gate_up, w_down, matrices)
        return exchange.send_back(routes, out_RD)

    def _experts_here(self, tokens, w_gate_up, w_down, matrices):
        x_TD, expert_TK, weight_TK = tokens
        return pallas_kernels.moe_mlp(
            x_TD,
            w_gate_up,
            w_down,
            *_choices_here(expert_TK, weight_TK, w_down.shape[0]),
            clamp=self.cfg.swiglu_clamp,
            precision=self.execution.precision,
            matrices=matrices,
            implementation=self.execution.grouped_matmul_implementation,
        ).astype(x_TD.dtype)


def _flat(arrays_BSX):
    return (x_BSX.reshape(-1, x_BSX.shape[-1]) for x_BSX in arrays_BSX)


def _choices_here(expert_TK: Array, weight_TK: Array, num_here: int) -> tuple[Array, Array]:
    """Experts as numbered on this device, `num_here` for those elsewhere, and their weights."""
    if local.axis_size("expert") == 1:
        return expert_TK, weight_TK
    here_TK = expert_TK - local.axis_index("expert") * num_here
    here_TK = jnp.where((here_TK >= 0) & (here_TK < num_here), here_TK, num_here)
    if num_here >= here_TK.shape[-1]:
        return here_TK, weight_TK
    # A token's experts differ, so at most num_here of them are here: fewer rows to make room for.
    order_TK = jnp.argsort(here_TK == num_here, axis=-1, stable=True)[..., :num_here]
    here_TK, weight_TK = (jnp.take_along_axis(x, order_TK, axis=-1) for x in (here_TK, weight_TK))
    return here_TK, weight_TK


def router_scores(
    x_BSD: Float[Array, "B S D"], router_DE: Float[Array, "D E"]
) -> Float[Array, "B S E"]:
    # Full float32: near-ties decide which expert a token visits.
    return jax.nn.sigmoid(xla_hints.float32_product(x_BSD, router_DE))


def choose(
    score_BSE: Float[Array, "B S E"],
    bias_E: Float[Array, "E"],
    cfg: ModelConfig,
    replayed_BSK: Int[Array, "B S K"] | None = None,
) -> tuple[Int[Array, "B S K"], Float[Array, "B S K"]]:
    """The experts of each token and their weights, which do not depend on the bias.

    Experts of `replayed_BSK` that are not negative take the place of those that would be chosen
    (arXiv:2510.11370); their weights come from the scores here, and so does their gradient.
    """
    biased_BSE = score_BSE + jax.lax.stop_gradient(bias_E)
    if cfg.num_groups_per_token < cfg.num_expert_groups:
        biased_BSE = _keep_best_groups(biased_BSE, cfg.num_expert_groups, cfg.num_groups_per_token)
    _, expert_BSK = jax.lax.top_k(biased_BSE, cfg.num_experts_per_token)
    if replayed_BSK is not None:
        expert_BSK = jnp.where(replayed_BSK < 0, expert_BSK, replayed_BSK)
    weight_BSK = jnp.take_along_axis(score_BSE, expert_BSK, axis=-1)
    if cfg.norm_topk_prob:
        weight_BSK /= weight_BSK.sum(axis=-1, keepdims=True) + 1e-20
    return expert_BSK, weight_BSK * cfg.routed_scaling_factor


def _keep_best_groups(biased_BSE: Array, num_groups: int, num_kept: int) -> Array:
    """-inf outside the groups whose two best members have the largest sums.

    Hugging Face fills with 0, which lets a token leave its groups when biases are below -score;
    DeepSeek's own inference code fills with -inf.
    """
    biased_BSgm = biased_BSE.reshape(*biased_BSE.shape[:2], num_groups, -1)
    best_two, _ = jax.lax.top_k(biased_BSgm, min(2, biased_BSgm.shape[-1]))
    _, kept_BSk = jax.lax.top_k(best_two.sum(axis=-1), num_kept)
    is_kept_BSg = (kept_BSk[..., None] == jnp.arange(num_groups)).any(axis=2)
    return jnp.where(is_kept_BSg[..., None], biased_BSgm, -jnp.inf).reshape(biased_BSE.shape)


def _count(expert_BSK: Array, is_token_BS: Array, num_experts: int) -> Array:
    """Tokens of each sequence sent to each expert, (B, E) float32."""
    is_chosen_BSE = (expert_BSK[..., None] == jnp.arange(num_experts)).any(axis=2)
    return (is_chosen_BSE & is_token_BS[..., None]).sum(axis=1).astype(jnp.float32)


def balance_loss(
    score_BSE: Float[Array, "B S E"], is_token_BS: Bool[Array, "B S"], top_k: int
) -> Float[Array, ""]:
    """Eq. 17-20 without the weight: the mean over sequences that have a token; 1 when balanced."""
    num_experts = score_BSE.shape[-1]
    num_tokens_B = is_token_BS.sum(axis=1).astype(jnp.float32)
    safe_B1 = jnp.maximum(num_tokens_B, 1.0)[:, None]
    # As printed: the unbiased scores choose here, whatever the groups and the bias.
    expert_BSK = _top_k(jax.lax.stop_gradient(score_BSE), top_k)
    f_BE = _count(expert_BSK, is_token_BS, num_experts) * (num_experts / top_k) / safe_B1
    share_BSE = score_BSE / (score_BSE.sum(axis=-1, keepdims=True) + 1e-20)
    p_BE = jnp.where(is_token_BS[..., None], share_BSE, 0.0).sum(axis=1) / safe_B1
    num_sequences = jnp.maximum((num_tokens_B > 0).sum(), 1)
    return (f_BE * p_BE).sum() / num_sequences


def _top_k(score_BSE: Array, top_k: int) -> Array:
    """The experts with the largest scores; compilers on their own would gather all scores."""
    tokens = ("batch", "sequence", "whole")
    return local.on_parts(
        lambda score_BSE: jax.lax.top_k(score_BSE, top_k)[1], (score_BSE,), (tokens,), tokens
    )
