"""What a model computes on the way, layer by layer: for measurements, not for training.

Letters: B batch, S sequence, D hidden, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kanana_jax.batch import Inputs
from kanana_jax.config import ExecutionConfig, ModelConfig
from kanana_jax.model import layers, rope, transformer
from kanana_jax.model.transformer import Weights


class Layer(NamedTuple):
    """What one layer did, (B, S, D) each."""

    normed: Any  # what attention reads
    attended: Any  # what attention adds to the stream
    mlp: Any  # what the MLP adds
    stream: Any  # behind the layer


def activations(
    cfg: ModelConfig, weights: Weights, inputs: Inputs, execution: ExecutionConfig
) -> dict[str, Any]:
    """What every layer adds to the residual stream, the stream, the head's input and the logits.

    Each is (B, S, D), the logits (B, S, V).
    """
    found = {}
    *of_layers, hidden_BSD = _walk(cfg, weights, inputs, execution)
    for number, layer in enumerate(of_layers, start=1):
        found[f"layer {number} attention"] = layer.attended
        found[f"layer {number} mlp"] = layer.mlp
        found[f"layer {number} stream"] = layer.stream
    found["normed stream"] = hidden_BSD
    found["logits"] = transformer.logits(cfg, weights.params, hidden_BSD)
    return found


def norm_outputs(
    cfg: ModelConfig, weights: Weights, inputs: Inputs, execution: ExecutionConfig
) -> dict[str, list[Any]]:
    """Outputs (B, S, D) of the norm in front of every layer's attention, and of the last norm."""
    *of_layers, hidden_BSD = _walk(cfg, weights, inputs, execution)
    return {"input": [layer.normed for layer in of_layers], "final": [hidden_BSD]}


def _walk(
    cfg: ModelConfig, weights: Weights, inputs: Inputs, execution: ExecutionConfig
) -> Iterator[Any]:
    """Every layer, and then what the head reads."""
    inputs = jax.tree.map(jnp.asarray, inputs)
    bound = transformer.bind(cfg, weights.params, execution)
    x_BSD = weights.params["embed"][inputs.tokens]
    counts = (cfg.num_dense_layers, cfg.num_moe_layers)
    for name, count in zip(("dense_layers", "moe_layers"), counts, strict=True):
        for at in range(count):
            block = jax.tree.map(lambda x, at=at: x[at], getattr(bound, name))
            is_moe = name == "moe_layers"
            bias_E = weights.buffers["router_bias"][at] if is_moe else jnp.zeros(0)
            layer = _layer(cfg, block, bias_E, x_BSD, inputs)
            x_BSD = layer.stream
            yield layer
    yield layers.norm(cfg, x_BSD, weights.params.get("final_norm"))


def _layer(cfg: ModelConfig, block: Any, bias_E: Any, x_BSD: Any, inputs: Inputs) -> Layer:
    rotation = rope.rotation(cfg, inputs.positions)
    seen = []

    def attend(normed_BSD):
        out_BSD, maximum = block.attention(normed_BSD, rotation, inputs.segment_ids)
        seen.append((normed_BSD, out_BSD))
        return out_BSD, maximum

    after_BSD, _ = block.with_attention(attend, x_BSD, bias_E, inputs.segment_ids != 0)
    ((normed_BSD, attended_BSD),) = seen
    return Layer(normed_BSD, attended_BSD, after_BSD - x_BSD - attended_BSD, after_BSD)
