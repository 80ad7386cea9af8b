"""What a step costs by arithmetic: bytes that travel, and memory besides weights and optimizer.

Per micro-batch, with t tokens per device, c bytes per activation, n devices on the axis, every
layer recomputed in the backward pass:

    fsdp      all-gather of a layer's weights (n - 1)/n, twice; reduce-scatter of their gradients
    expert    all-gather t (n - 1) tokens of D, thrice; reduce-scatter them, twice; or a ragged
              all-to-all of t (n - 1) p, five times (p: `model.exchange.share_sent`)
    context   all-gather t (n - 1) latents of C + R, or keys and values of the device's heads,
              twice; reduce-scatter them, once
    tensor    all-reduce t activations of D: attention's output twice, an MLP's once; backward
              once per product that reads them, of Q and C + R where it reads latents
    all       all-reduce of each gradient over the batch axes that do not split its weight

and once per step an all-to-all of sharded matrices to whole ones for Muon, and back. Statistics and
single numbers are left out. `tests/plan/test_cost_model.py` checks this against compiled programs.

Letters: D hidden, V vocabulary, C kv_lora_rank, R qk_rope_head_dim, Q q_lora_rank, K experts per
token, E experts.
"""

import collections
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax

from kanana_jax import config, model
from kanana_jax.model import exchange
from kanana_jax.optim import chunks, matrices
from kanana_jax.parallel import rules
from kanana_jax.plan import collectives, flops
from kanana_jax.train import choices, optimizers, state
from kanana_jax.train.step_config import StepConfig

_BATCH_LIKE = (*config.BATCH_AXES, "context")  # devices along these see different tokens


class Leaf(NamedTuple):
    """A parameter: its shape, what it is, and the mesh axes of several devices that split it."""

    shape: tuple[int, ...]
    spec: model.ParamSpec
    axes: tuple[str, ...]
    matrix: Any  # the MatrixSpec if Muon updates it, else None


def traffic(
    cfg: StepConfig, sizes: Mapping[str, int], platform: str = "tpu"
) -> dict[tuple[str, str], collectives.Traffic]:
    """(kind, mesh axes joined by "+") -> count and bytes received by one device in one step.

    The platform decides what execution.expert_exchange=auto stands for.
    """
    totals: dict[tuple[str, str], list[float]] = collections.defaultdict(lambda: [0, 0.0])

    def add(kind: str, axes: tuple[str, ...], size: float, times: float):
        """`size`: bytes of the larger of operand and result."""
        n = math.prod(sizes[axis] for axis in axes)
        if n > 1 and times:
            total = totals[kind, "+".join(axis for axis in sizes if axis in axes)]
            total[0] += times
            total[1] += times * size * (n - 1) / n * (2 if kind == "all-reduce" else 1)

    for leaf in leaves(cfg, sizes):
        _add_weight(add, cfg, sizes, leaf)
    _add_activations(add, cfg, sizes, platform)
    for over, size in exchanged_groups(cfg, sizes):
        add("all-to-all", over, size, 2)
    return {key: collectives.Traffic(int(count), size) for key, (count, size) in totals.items()}


def _add_weight(add, cfg: StepConfig, sizes: Mapping[str, int], leaf: Leaf) -> None:
    """Gathers of a weight before its use, sums of its gradient after."""
    is_stack = leaf.spec.logical_axes[0] == "layers"
    num_layers, micro_batches = leaf.shape[0] if is_stack else 1, choices.num_micro(cfg.execution)
    is_wide = leaf.spec.role in ("embedding", "head", "scalar_head", "router", "norm")
    item = 4 if is_wide else _itemsize(cfg)
    numbers = math.prod(leaf.shape) / num_layers
    kept = math.prod(sizes[axis] for axis in leaf.axes if axis != "fsdp")
    if "fsdp" in leaf.axes:
        uses = 2 if is_stack else 1
        gathered = numbers / kept * item
        add("all-gather", ("fsdp",), gathered, uses * num_layers * micro_batches)
        add("reduce-scatter", ("fsdp",), gathered, num_layers * micro_batches)
    missing = tuple(axis for axis in _BATCH_LIKE if sizes[axis] > 1 and axis not in leaf.axes)
    split = math.prod(sizes[axis] for axis in leaf.axes)
    add("all-reduce", missing, numbers / split * item, num_layers * micro_batches)


def exchanged_groups(
    cfg: StepConfig, sizes: Mapping[str, int]
) -> list[tuple[tuple[str, ...], float]]:
    """For each group of matrices that Muon brings together: over which mesh axes, and its bytes.

    Matrices of one shape and sharding travel together, padded to a multiple of the devices.
    """
    counts: dict[tuple, float] = collections.defaultdict(float)
    for leaf in leaves(cfg, sizes):
        if leaf.matrix is None:
            continue
        names = leaf.spec.logical_axes

        def split_by(dims: tuple[int, ...], names=names) -> tuple[str, ...]:
            axes = (axis for dim in dims for axis in rules.mesh_axes(names[dim]))
            return tuple(axis for axis in axes if sizes[axis] > 1)

        here = math.prod(leaf.shape[dim] for dim in leaf.matrix.batch)
        here /= math.prod(sizes[axis] for axis in split_by(leaf.matrix.batch))
        sides = split_by(leaf.matrix.rows), split_by(leaf.matrix.cols)
        order = -1 if matrices.is_transposed(leaf.matrix) else 1
        for fans in matrices.fans(leaf.shape, leaf.matrix):
            counts[(fans[::order], sides[::order])] += here
    groups = []
    for (fans, sides), count in counts.items():
        over = (*sides[0], *sides[1])
        n = math.prod(sizes[axis] for axis in over)
        if over:
            groups.append((over, math.ceil(count / n) * 4 * math.prod(fans)))
    return groups


def _add_activations(add, cfg: StepConfig, sizes: Mapping[str, int], platform: str) -> None:
    shape, item = cfg.model, _itemsize(cfg)
    tokens, micro_batches = tokens_per_device(cfg, sizes), choices.num_micro(cfg.execution)
    hidden, moe_times = shape.hidden_size, shape.num_moe_layers * micro_batches
    times = shape.num_layers * micro_batches
    on_axis, choice_bytes = tokens * sizes["expert"], shape.num_experts_per_token * 4
    if exchange.form(shape, cfg.execution, sizes["expert"], platform) == "ragged":
        sent = on_axis * exchange.share_sent(
            shape.num_experts, shape.num_experts_per_token, sizes["expert"]
        )
        add("ragged-all-to-all", ("expert",), sent * hidden * item, 5 * moe_times)
        add("ragged-all-to-all", ("expert",), sent * 2 * choice_bytes, 3 * moe_times)
        add("all-gather", ("expert",), 4 * sizes["expert"] ** 2, 2 * moe_times)
    else:
        add("all-gather", ("expert",), on_axis * hidden * item, 3 * moe_times)
        add("all-gather", ("expert",), on_axis * 2 * choice_bytes, 2 * moe_times)
        add("reduce-scatter", ("expert",), on_axis * hidden * item, 2 * moe_times)
        add("reduce-scatter", ("expert",), on_axis * choice_bytes, moe_times)
    moved = model.attention.of(shape).moved(shape)
    keys = tokens * moved.over_context * item
    keys /= sizes["tensor"] if moved.is_split_over_tensor else 1
    add("all-gather", ("context",), keys * sizes["context"], 2 * times)
    add("reduce-scatter", ("context",), keys * sizes["context"], times)
    stream = tokens * hidden * item
    num_plain = shape.num_dense_layers + shape.num_moe_layers * (shape.num_shared_experts > 0)
    num_streams = 2 * (shape.num_layers + num_plain + shape.num_moe_layers)
    add("all-reduce", ("tensor",), stream, num_streams * micro_batches)
    add("all-reduce", ("tensor",), tokens * moved.summed_over_tensor * item, times)
    add("all-reduce", ("tensor",), tokens * shape.num_experts_per_token * 4, moe_times)
    add("all-gather", ("tensor",), stream, micro_batches)


def temporary_bytes(cfg: StepConfig, sizes: Mapping[str, int]) -> float:
    """Memory of a device besides parameters and optimizer state, with every layer recomputed.

    It is the gradients and their sum over micro-batches, plus the larger of what the backward pass
    and the optimizer need besides them.
    """

    def numbers(leaf):
        return math.prod(leaf.shape) / math.prod(sizes[axis] for axis in leaf.axes)

    gradients = 4 * sum(numbers(leaf) for leaf in leaves(cfg, sizes))
    copies = 1 + (choices.num_micro(cfg.execution) > 1)
    shape, item = cfg.model, _itemsize(cfg)
    stream = tokens_per_device(cfg, sizes) * shape.hidden_size * item
    backward = shape.num_layers * stream + max(_block_bytes(cfg, sizes), _head_bytes(cfg, sizes))
    if not any(leaf.matrix for leaf in leaves(cfg, sizes)):
        optimizer = gradients if cfg.guard.enabled else 0.0  # updates, until the guard saw them
    else:
        # The momentum that is ahead and the update; pieces of matrices, as they are exchanged for
        # whole ones; four arrays of a chunk within an iteration.
        exchanged = max((size for _, size in exchanged_groups(cfg, sizes)), default=0.0)
        stacks = (numbers(leaf) for leaf in leaves(cfg, sizes) if leaf.matrix is not None)
        chunk = max(stacks) * optimizers.polar_dtype(cfg.optimizer).itemsize
        optimizer = 2 * gradients + exchanged + 4 * min(chunks.CHUNK_BYTES, chunk)
    return copies * gradients + max(backward + _expert_matrices_bytes(cfg, sizes), optimizer)


def _expert_matrices_bytes(cfg: StepConfig, sizes: Mapping[str, int]) -> float:
    """The experts of a device as FP8, both orientations, where a step keeps them."""
    shape = cfg.model
    if cfg.lora.rank or not model.expert_matrices.are_made(cfg.execution):
        return 0.0
    numbers = 3 * shape.hidden_size * shape.moe_intermediate_size
    numbers *= shape.num_moe_layers * shape.num_experts
    return 2 * numbers / (sizes["expert"] * sizes["fsdp"] * sizes["tensor"])


def _block_bytes(cfg: StepConfig, sizes: Mapping[str, int]) -> float:
    """The larger kind of block, backward: gathered weights and gradients, rows of experts."""
    shape, item, tokens = cfg.model, _itemsize(cfg), tokens_per_device(cfg, sizes)
    tensor, kv_heads = sizes["tensor"], shape.num_kv_heads or shape.num_heads
    of_heads = shape.num_heads * shape.qk_head_dim
    of_heads += kv_heads * (shape.qk_head_dim + shape.v_head_dim)
    attention = 4 * tokens * of_heads / tensor * item
    dense = 3 * shape.hidden_size * shape.intermediate_size / tensor * item * 2
    dense += 6 * tokens * shape.intermediate_size / tensor * item
    if not shape.num_moe_layers:
        return max(attention, dense)
    here = shape.num_experts / sizes["expert"]
    width = shape.moe_intermediate_size / tensor
    rows = tokens * sizes["expert"] * min(shape.num_experts_per_token, here)
    weights = 2 * here * 3 * shape.hidden_size * width * item
    experts = weights + rows * (2 * shape.hidden_size + 6 * width) * item
    return max(attention, experts, dense if shape.num_dense_layers else 0.0)


def _head_bytes(cfg: StepConfig, sizes: Mapping[str, int]) -> float:
    """The whole head and the logits of a chunk, both in float32 with their gradients."""
    shape = cfg.model
    chunk = min(
        choices.chunk_tokens(cfg.execution), tokens_per_device(cfg, sizes) / sizes["tensor"]
    )
    return 2 * 4 * shape.vocab_size * (shape.hidden_size + chunk)


def tokens_per_device(cfg: StepConfig, sizes: Mapping[str, int]) -> float:
    """Tokens of a micro-batch on one device."""
    devices = math.prod(sizes[axis] for axis in _BATCH_LIKE)
    return cfg.batch_size * cfg.seq_len / devices / choices.num_micro(cfg.execution)


def leaves(cfg: StepConfig, sizes: Mapping[str, int]) -> Iterator[Leaf]:
    """Every parameter with the mesh axes that split it."""
    described = jax.tree.leaves(
        model.describe(cfg.model, split=cfg.optimizer.split),
        is_leaf=lambda x: isinstance(x, model.ParamSpec),
    )
    shapes = jax.tree.leaves(state.weight_shapes(cfg.model).params)
    for leaf, spec, matrix in zip(shapes, described, flops.polar_specs(cfg), strict=True):
        used = (axis for name in spec.logical_axes for axis in rules.mesh_axes(name))
        axes = tuple(axis for axis in used if sizes[axis] > 1)
        yield Leaf(leaf.shape, spec, axes, matrix)


def _itemsize(cfg: StepConfig) -> int:
    return 4 if cfg.execution.compute_dtype == "float32" else 2
