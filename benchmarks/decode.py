"""Decoding and prefill of a published shape with fewer layers, against the bytes to be read.

Random weights are made on the device, in bfloat16. A decoding step has to read, from memory,

    attention, norms, routers, shared experts, the head     once
    the experts that its tokens visit                        once each, counted in the step itself
    the cache of every row, up to its position               once

and its floor is these bytes over the published bandwidth of the device. One JSON line per figure.

    python -m benchmarks.decode --size=kanana_2_30b_a3b --layers=4
    python -m benchmarks.decode --size=tiny --context=64 --chunk=32
"""

import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import kernel_times, slices
from kanana_jax import config, generate, model
from kanana_jax.generate import decoder, sampling, unstacked
from kanana_jax.generate.unstacked import UnstackedWeights
from kanana_jax.model import decoding, layers

_SIZE = flags.DEFINE_string("size", "kanana_2_30b_a3b", "A function of kanana_jax.model.presets.")
_LAYERS = flags.DEFINE_integer("layers", 4, "Layers kept, the leading dense ones first.")
_BATCH = flags.DEFINE_multi_integer("batch", [1, 64], "Rows decoded at a time.")
_CONTEXT = flags.DEFINE_integer("context", 2048, "Positions of a cache row, all of them in use.")
_CHUNK = flags.DEFINE_integer("chunk", 2048, "Prompt tokens read at a time.")
_TOKENS = flags.DEFINE_integer("tokens_per_step", 8, "Tokens drawn before the host looks at them.")
_TOP_P = flags.DEFINE_float("top_p", 1.0, "Below 1 every row ranks its tokens.")
_SET = flags.DEFINE_multi_string("set", [], "Edits, model.path=value or execution.path=value.")
_REPEATS = flags.DEFINE_integer("repeats", 10, "Timed calls; the median counts.", lower_bound=1)
_PROFILE = flags.DEFINE_bool("profile", False, "Also list the slowest kernels of each figure.")

_ENDS = ("embed", "final_norm", "head")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the flags describe."""

    model: config.ModelConfig
    execution: config.ExecutionConfig


class Setup(NamedTuple):
    """The first arguments of every function of the decoder."""

    cfg: config.ModelConfig
    execution: config.ExecutionConfig
    weights: UnstackedWeights


def settings() -> Settings:
    cfg = slices.of_preset(_SIZE.value, _LAYERS.value)
    return config.edit(Settings(cfg, config.ExecutionConfig()), _SET.value)


def random_weights(cfg: config.ModelConfig, execution: config.ExecutionConfig) -> UnstackedWeights:
    """Normal numbers with cfg.init_std, gammas of 1; each leaf is made on the device."""
    keys = iter(jax.random.split(jax.random.key(0), 1000))

    @functools.partial(jax.jit, static_argnums=(1, 2))
    def normal(key, leaf_shape, dtype):
        return (cfg.init_std * jax.random.normal(key, leaf_shape, jnp.bfloat16)).astype(dtype)

    def one(leaf, spec):
        if spec.role == "norm":
            return jnp.ones(leaf.shape, jnp.float32)
        dtype = jnp.float32 if spec.role == "router" else layers.compute_dtype(execution)
        return normal(next(keys), leaf.shape, dtype)

    made = []
    for index in range(cfg.num_layers):
        is_moe = index >= cfg.num_dense_layers
        specs = decoding.describe_layer(cfg, is_moe=is_moe)
        block = jax.tree.map(one, decoding.shapes(cfg, is_moe=is_moe), specs)
        made.append(unstacked.Layer(block, jnp.zeros(cfg.num_experts if is_moe else 0)))
    top = jax.eval_shape(lambda: model.init_params(cfg, jax.random.key(0)))
    specs = model.describe(cfg)
    ends = {name: one(top[name], specs[name]) for name in top if name in _ENDS}
    return UnstackedWeights(ends["embed"], ends["final_norm"], ends.get("head"), tuple(made))


@functools.partial(jax.jit, static_argnums=(0, 1))
def experts_visited(
    cfg: config.ModelConfig,
    execution: config.ExecutionConfig,
    weights: UnstackedWeights,
    cache,
    tokens_B,
    positions_B,
) -> list[jax.Array]:
    """How many experts of each MoE layer a decoding step reads."""
    _, _, stats = decoder.forward(cfg, execution, weights, cache, tokens_B[:, None], positions_B)
    return [(one.load_E > 0).sum() for one in stats]


def bytes_read(setup: Setup, batch: int, visited: list[int]) -> dict[str, int]:
    """What one decoding step has to read from memory, by kind."""
    cfg, _, weights = setup
    kinds = ("attention", "experts", "other_mlp", "head", "cache")
    found: dict[str, int] = {kind: 0 for kind in kinds}
    visits = iter(visited)
    for layer in weights.layers:
        block = layer.block
        norms = block["attention_norm"].nbytes + block["mlp_norm"].nbytes
        found["attention"] += _bytes(block["attention"]) + norms
        mlp = dict(block["mlp"])
        if "router" in mlp:
            routed = _bytes([mlp.pop("w_gate_up"), mlp.pop("w_down")])
            found["experts"] += routed // cfg.num_experts * next(visits)
        found["other_mlp"] += _bytes(mlp)
    head = weights.embed_VD if weights.head_DV is None else weights.head_DV
    found["head"] = head.nbytes + batch * cfg.hidden_size * head.dtype.itemsize
    per_token = cfg.num_layers * (cfg.kv_lora_rank + cfg.qk_rope_head_dim) * 2
    found["cache"] = batch * _CONTEXT.value * per_token
    return found


def _bytes(tree: Any) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def seconds(call: Callable[[], Any]) -> float:
    """The median time of a call that waits for its result."""
    times = []
    for _ in range(_REPEATS.value + 2):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def measured_bandwidth() -> float:
    """Bytes per second of a sum over an array that no cache holds."""
    num_bytes = 2**30 if jax.default_backend() == "gpu" else 2**26
    x = jnp.ones(num_bytes // 4, jnp.float32)
    total = jax.jit(jnp.sum)
    return num_bytes / seconds(lambda: total(x).block_until_ready())


def decode(setup: Setup, batch: int) -> dict[str, Any]:
    """Times steps of `batch` rows that all end at the last position."""
    cfg = setup.cfg
    rng = np.random.default_rng(0)
    tokens_B = rng.integers(0, cfg.vocab_size, batch, np.int32)
    positions_B = np.full(batch, _CONTEXT.value - _TOKENS.value, np.int32)
    samplings = [generate.Sampling(seed=row, top_p=_TOP_P.value) for row in range(batch)]
    how = sampling.rows(samplings, [0] * batch)
    forced_NB = np.full((_TOKENS.value, batch), -1, np.int32)
    cache = decoder.init_cache(cfg, setup.execution, batch, _CONTEXT.value)
    visited = [int(x) for x in experts_visited(*setup, cache, tokens_B, positions_B)]

    def call():
        nonlocal cache
        drawn, cache, _ = decoder.draw(
            *setup,
            cache,
            tokens_B,
            positions_B,
            how,
            forced_NB,
            is_filtered=sampling.is_filtered(samplings),
        )
        return np.asarray(drawn.tokens_NB)

    step_s = seconds(call) / _TOKENS.value
    read = bytes_read(setup, batch, visited)
    kind = jax.devices()[0].device_kind
    floor_s = sum(read.values()) / slices.BANDWIDTH[kind] if kind in slices.BANDWIDTH else None
    _profile(call)
    return {
        "what": "decode",
        "batch": batch,
        "tokens_per_s": round(batch / step_s, 1),
        "ms_per_step": round(1e3 * step_s, 4),
        "floor_ms": None if floor_s is None else round(1e3 * floor_s, 4),
        "times_floor": None if floor_s is None else round(step_s / floor_s, 2),
        "bytes_read": read,
        "experts_visited": visited,
        "achieved_gb_per_s": round(sum(read.values()) / step_s / 1e9, 1),
    }


def engine(setup: Setup, batch: int) -> dict[str, Any]:
    """Times the whole engine on `batch` equal requests: the host's part shows next to `decode`."""
    made = generate.Engine(
        *setup,
        decode=lambda ids: "x" * len(ids),
        eos_ids=(),
        num_rows=batch,
        length=_CONTEXT.value,
        tokens_per_step=_TOKENS.value,
    )
    num_tokens = _CONTEXT.value // 2
    requests = [
        generate.Request(
            prompt=[1, 2, 3],
            max_tokens=num_tokens,
            sampling=generate.Sampling(seed=row, top_p=_TOP_P.value),
        )
        for row in range(batch)
    ]
    for request in requests:
        made.submit(request)
    for _ in range(3):  # compiles, and starts every request
        made.step()
    start, num_pieces = time.perf_counter(), 0
    while not made.is_idle:
        num_pieces += len(made.step())
    rate = num_pieces / (time.perf_counter() - start)
    return {"what": "engine", "batch": batch, "tokens_per_s": round(rate, 1)}


def prefill(setup: Setup) -> dict[str, Any]:
    """Times a prompt of the whole context, in chunks."""
    cfg = setup.cfg
    cache = decoder.init_cache(cfg, setup.execution, 1, _CONTEXT.value)
    size = min(_CHUNK.value, _CONTEXT.value)
    starts = range(0, _CONTEXT.value - size + 1, size)
    tokens_1S = np.random.default_rng(0).integers(0, cfg.vocab_size, (1, size), np.int32)
    zero = np.zeros(1, np.int32)

    def call():
        nonlocal cache
        out = None
        for start in starts:
            out, cache, *_ = decoder.prefill(
                *setup, cache, zero, tokens_1S, zero + start, zero + size - 1
            )
        return np.asarray(out)

    rate = size * len(starts) / seconds(call)
    peak = slices.PEAK_FLOPS.get(jax.devices()[0].device_kind)
    _, active = model.num_params(cfg)
    # The embedding is a look-up, and the head's product is made for one token only.
    flops = 2 * (active - (1 if cfg.tie_embeddings else 2) * cfg.vocab_size * cfg.hidden_size)
    # Scores and sums over latents, which the absorbed form attends to.
    width = 2 * cfg.kv_lora_rank + cfg.qk_rope_head_dim
    flops += 2 * cfg.num_layers * cfg.num_heads * width * size * len(starts) / 2
    _profile(call)
    return {
        "what": "prefill",
        "chunk": size,
        "tokens_per_s": round(rate, 1),
        "mfu": round(rate * flops / peak, 4) if peak else None,
    }


def _profile(call: Callable[[], Any]) -> None:
    if _PROFILE.value:
        kernel_times.print_slowest(kernel_times.measure(call, "", calls=2))


def main(_) -> None:
    if _CONTEXT.value < 2 * _TOKENS.value + 8:
        raise app.UsageError(f"--context must be at least {2 * _TOKENS.value + 8}")
    asked = settings()
    cfg, execution = asked.model, asked.execution
    setup = Setup(cfg, execution, random_weights(cfg, execution))
    about = {
        "size": _SIZE.value,
        "layers": cfg.num_layers,
        "context": _CONTEXT.value,
        "tokens_per_step": _TOKENS.value,
        "top_p": _TOP_P.value,
        "edits": _SET.value,
        "weights_gib": round(_bytes(setup.weights) / 2**30, 3),
        "measured_bandwidth_gb_per_s": round(measured_bandwidth() / 1e9, 1),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }
    for batch in _BATCH.value:
        print(json.dumps(decode(setup, batch) | about), flush=True)
        print(json.dumps(engine(setup, batch) | about), flush=True)
    print(json.dumps(prefill(setup) | about), flush=True)


if __name__ == "__main__":
    app.run(main)
