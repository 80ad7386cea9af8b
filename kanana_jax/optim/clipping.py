"""QK-Clip: bound attention logits by rescaling query and key weights (arXiv:2507.20534, Alg. 1).

    gamma[l, h] = min(1, tau / S[l, h])        u' = gamma^e (p + u) - p

S is the largest attention logit each layer and head saw in this step's forward pass, p the weights
and u the finished update, so `qk_clip` is the last transform of a chain: p + u' is the clipped new
weight. Columns whose exponent e is 0, and heads with S <= tau, keep u bit for bit.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kanana_jax.optim import dtypes, trees
from kanana_jax.optim.specs import QKClipSpec, viewed_shape


class QKClipState(NamedTuple):
    """What happened so far, per (layer, head)."""

    count: jax.Array  # steps taken
    num_clips: jax.Array  # int32
    last_clipped_step: jax.Array  # int32, -1 where never
    min_gamma: jax.Array  # float32, 1 where never
    gamma: jax.Array  # float32, of the last step
    num_nonfinite: jax.Array  # int32, steps whose maximum was NaN or +inf


def qk_clip(
    tau: float,
    specs: Any,
    *,
    shape: tuple[int, int] | None = None,
    monitor_only: bool = False,
    per_layer: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Clip query and key weights of heads whose largest logit passed `tau`. Goes last in a chain.

    `specs` is a tree of `QKClipSpec` or None. `update` needs `params` and the keyword `max_logits`,
    (num_layers, num_heads), maxima over the whole batch and all micro-batches. The shape follows
    from the specs; give `shape` when the model has layers beyond the last one with a spec. Maxima
    at or below tau do nothing, including negative ones and -inf (a head that saw nothing). NaN and
    +inf carry no scale: they do nothing either, but are counted. `monitor_only` records what would
    be clipped and changes no update. `per_layer` gives all heads of a layer the smallest gamma
    among them, like a clip that knows only the largest logit of a layer.
    """
    if not isinstance(tau, jax.Array) and not tau > 0.0:
        raise ValueError(f"qk_clip needs tau > 0, got {tau}.")

    def init_fn(params):
        num_layers, num_heads = shape or _covered(params, specs).shape
        return QKClipState(
            count=jnp.zeros((), jnp.int32),
            num_clips=jnp.zeros((num_layers, num_heads), jnp.int32),
            last_clipped_step=jnp.full((num_layers, num_heads), -1, jnp.int32),
            min_gamma=jnp.ones((num_layers, num_heads), jnp.float32),
            gamma=jnp.ones((num_layers, num_heads), jnp.float32),
            num_nonfinite=jnp.zeros((num_layers, num_heads), jnp.int32),
        )

    def update_fn(updates, state, params=None, *, max_logits=None, **extra_args):
        del extra_args
        if params is None:
            raise ValueError("qk_clip needs params; call optimizer.update(grads, state, params).")
        max_logits = checked_max_logits(max_logits, state.gamma.shape)
        covered = _pad_to(_covered(params, specs), state.gamma.shape)
        gamma, is_bad = _gamma(max_logits, tau, covered)
        if per_layer:
            gamma = jnp.where(covered, gamma.min(axis=1, keepdims=True), 1.0)
        if not monitor_only:
            leaves, leaf_specs, _, rebuild = trees.describe(params, specs, "specs")
            flat = jax.tree.structure(rebuild(leaves)).flatten_up_to(updates)
            updates = rebuild(
                [
                    u if spec is None else _clipped(p, u, gamma, spec)
                    for p, u, spec in zip(leaves, flat, leaf_specs, strict=True)
                ]
            )
        return updates, _record(state, gamma, is_bad)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def clip_report(opt_state: Any) -> dict[str, jax.Array]:
    """Return QK-Clip's records, found anywhere in an optimizer state, as named arrays."""
    found = find_clip_states(opt_state)
    if len(found) != 1:
        raise ValueError(f"clip_report needs one QKClipState in the state, found {len(found)}.")
    return found[0]._asdict()


def find_clip_states(opt_state: Any) -> list[QKClipState]:
    """Return every QKClipState in an optimizer state."""

    def is_clip(node):
        return isinstance(node, QKClipState)

    return [node for node in jax.tree.leaves(opt_state, is_leaf=is_clip) if is_clip(node)]


def _gamma(max_logits, tau, covered) -> tuple[jax.Array, jax.Array]:
    is_bad = (jnp.isnan(max_logits) | (max_logits == jnp.inf)) & covered
    fires = (max_logits > tau) & ~is_bad & covered
    return jnp.where(fires, tau / jnp.where(fires, max_logits, 1.0), 1.0), is_bad


def _clipped(p: jax.Array, u: jax.Array, gamma: jax.Array, spec: QKClipSpec) -> jax.Array:
    shape = viewed_shape(p.shape, spec)
    wide = dtypes.wide_dtype(p)
    old, step = p.reshape(shape).astype(wide), u.reshape(shape)
    gamma = _gamma_of_leaf(gamma, shape, spec)
    exponent = _exponents(shape, spec)
    clipped = gamma**exponent * (old + step.astype(wide)) - old
    changes = (gamma < 1.0) & (exponent != 0.0)
    return jnp.where(changes, clipped.astype(u.dtype), step).reshape(u.shape)


def _gamma_of_leaf(gamma: jax.Array, shape: tuple[int, ...], spec: QKClipSpec) -> jax.Array:
    """Pick the leaf's layers and heads and align them with its axes."""
    num_layers = 1 if spec.layer_axis is None else shape[spec.layer_axis]
    gamma = gamma[spec.first_layer : spec.first_layer + num_layers]
    if spec.heads is not None:
        # Entries with fewer readers than the longest list are padded with a gamma of 1.
        longest = max(1, *(len(readers) for readers in spec.heads))
        nobody = gamma.shape[1]
        index = [(*readers, *(nobody,) * (longest - len(readers))) for readers in spec.heads]
        padded = jnp.pad(gamma, ((0, 0), (0, 1)), constant_values=1.0)
        gamma = padded[:, np.array(index)].min(axis=-1)
    head_axis = spec.head_axis % len(shape)
    gamma = gamma[:, : shape[head_axis]]  # other layers may have more heads
    aligned = [1] * len(shape)
    aligned[head_axis] = shape[head_axis]
    if spec.layer_axis is not None:
        layer_axis = spec.layer_axis % len(shape)
        aligned[layer_axis] = num_layers
        if layer_axis > head_axis:
            gamma = gamma.T
    return gamma.reshape(aligned)


def _exponents(shape: tuple[int, ...], spec: QKClipSpec) -> np.ndarray:
    sizes, exponents = zip(*spec.segments, strict=True)
    axis = spec.segment_axis % len(shape)
    aligned = [1] * len(shape)
    aligned[axis] = shape[axis]
    return np.repeat(np.array(exponents, np.float32), sizes).reshape(aligned)


def _covered(params, specs) -> np.ndarray:
    """Return a mask of the (layer, head) that some spec acts on, in the smallest shape possible."""
    leaves, leaf_specs, paths, _ = trees.describe(params, specs, "specs")
    if not leaves:
        return np.zeros((0, 0), bool)
    found = [
        (_layers(leaf, spec, path), _heads(leaf, spec, path))
        for leaf, spec, path in zip(leaves, leaf_specs, paths, strict=True)
        if spec is not None
    ]
    if not found:
        raise ValueError(
            "qk_clip found no QKClipSpec among its specs, so it would clip nothing; describe the "
            "query and key projections, or leave qk_clip out of the chain."
        )
    num_layers = 1 + max(max(layers) for layers, _ in found)
    num_heads = 1 + max(max(heads) for _, heads in found)
    covered = np.zeros((num_layers, num_heads), bool)
    for layers, heads in found:
        covered[np.ix_(layers, heads)] = True
    return covered


def _layers(leaf, spec: QKClipSpec, path: str) -> list[int]:
    shape = _checked_shape(leaf, spec, path)
    count = 1 if spec.layer_axis is None else shape[spec.layer_axis]
    return list(range(spec.first_layer, spec.first_layer + count))


def _heads(leaf, spec: QKClipSpec, path: str) -> list[int]:
    entries = _checked_shape(leaf, spec, path)[spec.head_axis]
    if spec.heads is None:
        return list(range(entries))
    if len(spec.heads) != entries or not any(spec.heads):
        raise ValueError(
            f"at {path!r}: heads must list the readers of each of the {entries} entries of axis "
            f"{spec.head_axis}, at least one of them read; got {spec.heads}."
        )
    return sorted({head for readers in spec.heads for head in readers})


def _checked_shape(leaf, spec: QKClipSpec, path: str) -> tuple[int, ...]:
    shape = viewed_shape(leaf.shape, spec)
    axes = [spec.head_axis, spec.segment_axis]
    axes += [] if spec.layer_axis is None else [spec.layer_axis]
    if len({axis % max(1, len(shape)) for axis in axes}) < len(axes) or not all(
        -len(shape) <= axis < len(shape) for axis in axes
    ):
        raise ValueError(
            f"at {path!r}: layer_axis={spec.layer_axis}, head_axis={spec.head_axis} and "
            f"segment_axis={spec.segment_axis} must be different axes of {shape}."
        )
    total = sum(size for size, _ in spec.segments)
    if total != shape[spec.segment_axis]:
        raise ValueError(
            f"at {path!r}: segments {spec.segments} must add up to {shape[spec.segment_axis]}, "
            f"axis {spec.segment_axis} of {shape}; they add up to {total}."
        )
    return shape


def checked_max_logits(max_logits: Any, expected: tuple[int, int]) -> jax.Array:
    """Return max_logits in float32; raise unless given, with one number per (layer, head)."""
    got = None if max_logits is None else np.shape(max_logits)
    if got != expected:
        raise ValueError(
            f"qk_clip needs max_logits with shape {expected}, got {got}; "
            "pass optimizer.update(grads, state, params, max_logits=...)."
        )
    return jnp.asarray(max_logits).astype(jnp.float32)


def _pad_to(covered: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    if any(have > want for have, want in zip(covered.shape, shape, strict=True)):
        raise ValueError(f"specs reach {covered.shape} (layers, heads), beyond shape={shape}.")
    return np.pad(covered, [(0, want - n) for n, want in zip(covered.shape, shape, strict=True)])


def _record(state: QKClipState, gamma: jax.Array, is_bad: jax.Array) -> QKClipState:
    fired = gamma < 1.0
    return QKClipState(
        count=jnp.asarray(optax.safe_increment(state.count)),
        num_clips=state.num_clips + fired,
        last_clipped_step=jnp.where(fired, state.count, state.last_clipped_step),
        min_gamma=jnp.minimum(state.min_gamma, gamma),
        gamma=gamma,
        num_nonfinite=state.num_nonfinite + is_bad,
    )
