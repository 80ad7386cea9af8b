"""The model again, slowly, in float64 numpy: loops over tokens, heads and experts, no tricks.

Rotary pairs are complex numbers here, and neighbours stay neighbours; scores must not change.
"""

import dataclasses
import functools
import math

import jax
import numpy as np

from kanana_jax import model
from kanana_jax.config import AudioConfig, ModelConfig, VisionConfig

SMALL = ModelConfig(
    vocab_size=50,
    hidden_size=32,
    num_layers=3,
    num_dense_layers=1,
    num_heads=2,
    q_lora_rank=None,
    kv_lora_rank=16,
    qk_nope_head_dim=8,
    qk_rope_head_dim=4,
    v_head_dim=6,
    intermediate_size=40,
    moe_intermediate_size=24,
    num_experts=8,
    num_experts_per_token=3,
    num_shared_experts=2,
    routed_scaling_factor=2.5,
    init_std=0.2,
)
# SMALL with grouped-query attention: four query heads, two of them for each key head.
GROUPED = dataclasses.replace(
    SMALL,
    num_heads=4,
    num_kv_heads=2,
    kv_lora_rank=None,
    qk_nope_head_dim=0,
    qk_rope_head_dim=8,
    v_head_dim=8,
)
VISION = VisionConfig(
    patch_size=2,
    num_channels=1,
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    intermediate_size=24,
    position_grid=3,
)
AUDIO = AudioConfig(num_bands=6, hidden_size=8, num_layers=1, num_heads=2, intermediate_size=12)


# Most of these tests' time is compilation; what they compute is small.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.lru_cache
def init(cfg):
    """Random parameters drawn by numpy: compiling `model.init` takes longer than most tests."""
    rng = np.random.default_rng(0)

    def one(path, leaf):
        if "norm" in str(path[-1]):  # not all alike, so that a forgotten gamma shows
            centre = 0.0 if cfg.zero_centered_gamma else 1.0
            return centre + 0.1 * rng.standard_normal(leaf.shape, np.float32)
        return np.float32(cfg.init_std) * rng.standard_normal(leaf.shape, np.float32)

    shapes = jax.eval_shape(functools.partial(model.init_params, cfg), jax.random.key(0))
    return jax.tree.map(jax.numpy.asarray, jax.tree_util.tree_map_with_path(one, shapes))


def weights(cfg, bias_LE=None):
    """`init` with this router bias, zeros by default."""
    if bias_LE is None:
        return model.Weights(init(cfg), model.init_buffers(cfg))
    return model.Weights(init(cfg), {"router_bias": bias_LE})


def rms_norm(x, gamma, eps, cfg):
    gain = 1.0 if gamma is None else gamma + 1.0 if cfg.zero_centered_gamma else gamma
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps) * gain


def silu(x):
    return x / (1.0 + np.exp(-x))


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def yarn_mscale(factor, weight):
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def frequencies(cfg):
    size, yarn = cfg.qk_rope_head_dim, cfg.yarn
    out = []
    for pair in range(size // 2):
        f = cfg.rope_theta ** (-2.0 * pair / size)
        if yarn is not None:
            bounds = [
                size
                * math.log(yarn.original_max_positions / (beta * 2 * math.pi))
                / (2 * math.log(cfg.rope_theta))
                for beta in (yarn.beta_fast, yarn.beta_slow)
            ]
            low, high = max(math.floor(bounds[0]), 0), min(math.ceil(bounds[1]), size - 1)
            ramp = min(max((pair - low) / ((high - low) or 0.001), 0.0), 1.0)
            f = f / yarn.factor * ramp + f * (1.0 - ramp)
        if cfg.llama3_rope is not None:
            f = llama3_frequency(f, cfg.llama3_rope)
        out.append(f)
    return np.array(out)


def llama3_frequency(f, rope):
    wavelength = 2 * math.pi / f
    if wavelength < rope.original_max_positions / rope.high_freq_factor:
        return f
    if wavelength > rope.original_max_positions / rope.low_freq_factor:
        return f / rope.factor
    share = rope.original_max_positions / wavelength - rope.low_freq_factor
    share /= rope.high_freq_factor - rope.low_freq_factor
    return (1 - share) * f / rope.factor + share * f


def turn(x, position, cfg):
    amplitude = 1.0
    if cfg.yarn is not None:
        amplitude = yarn_mscale(cfg.yarn.factor, cfg.yarn.mscale)
        amplitude /= yarn_mscale(cfg.yarn.factor, cfg.yarn.mscale_all_dim)
    pairs = x.reshape(-1, 2)
    turned = (pairs[:, 0] + 1j * pairs[:, 1]) * np.exp(1j * position * frequencies(cfg))
    return amplitude * np.stack([turned.real, turned.imag], axis=-1).reshape(-1)


def turn_halves(x, position, cfg):
    """As `turn`, for pairs (i, i + half)."""
    turned = turn(x.reshape(2, -1).T.reshape(-1), position, cfg)
    return turned.reshape(-1, 2).T.reshape(-1)


def attention(p, x_SD, positions, segments, cfg):
    """One sequence. Returns its output and each head's largest logit."""
    of = latent_heads if cfg.kv_lora_rank is not None else grouped_heads
    scale = cfg.qk_head_dim**-0.5
    if cfg.yarn is not None:
        scale *= yarn_mscale(cfg.yarn.factor, cfg.yarn.mscale_all_dim) ** 2
    out, largest = np.zeros_like(x_SD), np.full(cfg.num_heads, -np.inf)
    for head, (queries, keys, values) in enumerate(of(p, x_SD, positions, cfg)):
        for i, query in enumerate(queries):
            seen = [t for t in range(i + 1) if segments[t] == segments[i] != 0]
            if not seen:
                continue
            score = np.array([scale * query @ keys[t] for t in seen])
            largest[head] = max(largest[head], score.max())
            weight = np.exp(score - score.max())
            out[i] += (weight / weight.sum()) @ values[seen] @ p["wo"][head]
    return out, largest


def grouped_heads(p, x_SD, positions, cfg):
    """(queries, keys, values) of every query head."""

    def heads_of(name):
        x = np.einsum("sd,dhk->hsk", x_SD, p[name])
        if cfg.qk_norm and name != "wv":
            norm = {"wq": "q_head_norm", "wk": "k_head_norm"}[name]
            x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + cfg.rms_norm_eps) * p[norm]
        if name == "wv":
            return x
        return np.array(
            [
                [turn_halves(row, at, cfg) for row, at in zip(head, positions, strict=True)]
                for head in x
            ]
        )

    q, k, v = map(heads_of, ("wq", "wk", "wv"))
    readers = cfg.num_heads // cfg.num_kv_heads
    return [(q[head], k[head // readers], v[head // readers]) for head in range(cfg.num_heads)]


def latent_heads(p, x_SD, positions, cfg):
    """(queries, keys, values) of every head."""
    nope, latent = cfg.qk_nope_head_dim, cfg.kv_lora_rank
    length = len(x_SD)
    if cfg.q_lora_rank is None:
        q = np.einsum("sd,dhk->shk", x_SD, p["wq"])
    else:
        q = np.einsum(
            "sq,qhk->shk", rms_norm(x_SD @ p["wq_a"], p.get("q_norm"), 1e-6, cfg), p["wq_b"]
        )
    kv_a = x_SD @ p["wkv_a"]
    c = rms_norm(kv_a[:, :latent], p.get("kv_norm"), 1e-6, cfg)
    kv = np.einsum("sc,chm->shm", c, p["wkv_b"])
    found = []
    for head in range(cfg.num_heads):
        queries, keys = (
            np.array(
                [
                    np.concatenate([plain[t], turn(rotary[t], positions[t], cfg)])
                    for t in range(length)
                ]
            )
            for plain, rotary in (
                (q[:, head, :nope], q[:, head, nope:]),
                (kv[:, head, :nope], kv_a[:, latent:]),
            )
        )
        found.append((queries, keys, kv[:, head, nope:]))
    return found


def swiglu(p, x, cfg):
    gate, up = (x @ w.T for w in p["w_gate_up"])
    if cfg.swiglu_clamp is not None:
        gate = np.minimum(gate, cfg.swiglu_clamp)
        up = np.clip(up, -cfg.swiglu_clamp, cfg.swiglu_clamp)
    return (silu(gate) * up) @ p["w_down"]


def choose(score_E, bias_E, cfg):
    """Expert ids of one token, best first, by the rule as it is written."""
    biased = score_E + bias_E
    groups = np.arange(cfg.num_experts).reshape(cfg.num_expert_groups, -1)
    strength = [np.sort(biased[members])[-2:].sum() for members in groups]
    kept = np.argsort(strength)[::-1][: cfg.num_groups_per_token]
    allowed = sorted(expert for group in kept for expert in groups[group])
    return sorted(allowed, key=lambda e: -biased[e])[: cfg.num_experts_per_token]


def experts(p, x_SD, bias_E, cfg):
    """The MoE of one sequence. Returns its output and (S, K) expert ids."""
    out, ids = np.zeros_like(x_SD), []
    for s, x in enumerate(x_SD):
        score = sigmoid(x @ p["router"])
        chosen = choose(score, bias_E, cfg)
        total = sum(score[e] for e in chosen) if cfg.norm_topk_prob else 1.0
        for e in chosen:
            one = {"w_gate_up": p["w_gate_up"][e], "w_down": p["w_down"][e]}
            out[s] += cfg.routed_scaling_factor * score[e] / total * swiglu(one, x, cfg)
        if cfg.num_shared_experts:
            out[s] += swiglu(p["shared"], x, cfg)
        ids.append(chosen)
    return out, np.array(ids)


def balance_loss(score_BSE, is_token_BS, top_k):
    """arXiv:2412.19437, eq. 17-20, averaged over the sequences that hold a token."""
    losses = []
    for score_SE, is_token_S in zip(score_BSE, is_token_BS, strict=True):
        s = score_SE[is_token_S]
        if not len(s):
            continue
        length, num_experts = s.shape
        total = 0.0
        for i in range(num_experts):
            hits = sum(i in np.argsort(-row)[:top_k] for row in s)
            f = num_experts / (top_k * length) * hits
            total += f * np.mean([row[i] / row.sum() for row in s])
        losses.append(total)
    return np.mean(losses)


def forward(params, bias_LE, tokens_S, positions_S, segments_S, cfg):
    """Logits and (layers, heads) largest logits of one sequence."""
    x = params["embed"][tokens_S]
    largest = []
    for layer in range(cfg.num_layers):
        is_moe = layer >= cfg.num_dense_layers
        index = layer - cfg.num_dense_layers if is_moe else layer
        block = _layer(params["moe_layers" if is_moe else "dense_layers"], index)
        normed = rms_norm(x, block.get("attention_norm"), cfg.rms_norm_eps, cfg)
        out, top = attention(block["attention"], normed, positions_S, segments_S, cfg)
        x = x + out
        largest.append(top)
        normed = rms_norm(x, block.get("mlp_norm"), cfg.rms_norm_eps, cfg)
        if is_moe:
            x = x + experts(block["mlp"], normed, bias_LE[index], cfg)[0]
        else:
            x = x + swiglu(block["mlp"], normed, cfg)
    x = rms_norm(x, params.get("final_norm"), cfg.rms_norm_eps, cfg)
    head = params["embed"].T if cfg.tie_embeddings else params["head"]
    return x @ head, np.array(largest)


def _layer(tree, index):
    if isinstance(tree, dict):
        return {key: _layer(value, index) for key, value in tree.items()}
    return tree[index]
