"""The one table from logical axis names to mesh axes: parameters, activations, optimizer state.

    fsdp      shards every weight; a layer gathers its own before it runs
    expert    holds different experts; tokens travel to them
    tensor    holds different heads and columns of the MLPs; activations are summed
    context   holds different parts of the sequence; attention gathers latents, or keys and values
    data      replicates; only gradients are summed

Experts are whole on their devices, so that Muon needs no communication for them: fsdp shards them
by expert, and everything else along the model's width.
"""

from jax.sharding import PartitionSpec as P

from kanana_jax import config

RULES: dict[str, tuple[str, ...]] = {
    # activations
    "batch": config.BATCH_AXES,
    "sequence": ("context",),
    "token_parts": (*config.BATCH_AXES, "context"),  # one entry for each device's own tokens
    "head_sequence": ("context", "tensor"),  # the head has no heads: tensor splits its tokens
    # parameters and what the optimizer keeps for them
    "layers": (),
    "experts": ("expert", "fsdp"),
    "expert_embed": (),
    "scores": (),
    "vocab": (),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "head_dim": (),
    "latent": (),
    "q_lora": ("fsdp",),
    "kv_lora": ("fsdp",),
    "mlp": ("tensor",),
    "gate_up": (),
    "norm": (),
    "rank": (),
    "whole": (),  # any dimension that every device needs all of
}


def mesh_axes(name: str) -> tuple[str, ...]:
    """The mesh axes over which dimensions of this name are spread."""
    if name not in RULES:
        raise ValueError(f"no sharding rule for axes {[name]}; rules exist for {sorted(RULES)}")
    return RULES[name]


def partition_spec(logical_axes: tuple[str, ...]) -> P:
    """Looks every axis up; raises ValueError on an unknown name or a mesh axis used twice."""
    per_dim = [mesh_axes(name) for name in logical_axes]
    used = [axis for axes in per_dim for axis in axes]
    if len(set(used)) < len(used):
        raise ValueError(f"axes {logical_axes} map twice to a mesh axis: {used}")
    return P(*(axes or None for axes in per_dim))
