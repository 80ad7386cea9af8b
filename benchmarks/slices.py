"""Published shapes with fewer layers, and the rates that decoding is timed against."""

import dataclasses

from kanana_jax import config
from kanana_jax.model import presets

# By JAX's name of a device: bytes per second of its memory, and products in bfloat16.
BANDWIDTH = {"NVIDIA H100 80GB HBM3": 3.35e12, "NVIDIA H200": 4.8e12}
PEAK_FLOPS = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12}


def of_preset(name: str, num_layers: int) -> config.ModelConfig:
    """The preset `name` with its first layers only, the leading dense ones among them."""
    shape = getattr(presets, name)()
    return dataclasses.replace(
        shape,
        num_layers=num_layers,
        num_dense_layers=min(shape.num_dense_layers, num_layers),
        vocab_size=shape.vocab_size or 512,
    )
