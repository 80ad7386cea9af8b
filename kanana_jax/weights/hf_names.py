"""Which Hugging Face tensor fills which part of which leaf.

Theirs are matrices (outputs, inputs), one per layer and expert. Ours carry layers, experts and
gate/up as leading axes and keep heads as an axis of their own; the model's description says which
axes are inputs. So a tensor becomes one part of a leaf by an optional transpose and a reshape.
An encoder of images has names of its own, see `hf_image_names`.
"""

import functools
import itertools
import math
from typing import NamedTuple

import jax
import numpy as np

from kanana_jax import config, model
from kanana_jax.weights import hf_image_names

_TOP = {
    "embed": "model.embed_tokens",
    "final_norm": "model.norm",
    "head": "lm_head",
    "scalar_head": "score",
}
# Below model.layers.<layer>. Names in braces are the leaf's leading axes, in order.
_ATTENTION = {
    "attention_norm": "input_layernorm",
    "attention/wq": "self_attn.q_proj",
    "attention/wk": "self_attn.k_proj",
    "attention/wv": "self_attn.v_proj",
    "attention/q_head_norm": "self_attn.q_norm",
    "attention/k_head_norm": "self_attn.k_norm",
    "attention/wq_a": "self_attn.q_a_proj",
    "attention/q_norm": "self_attn.q_a_layernorm",
    "attention/wq_b": "self_attn.q_b_proj",
    "attention/wkv_a": "self_attn.kv_a_proj_with_mqa",
    "attention/kv_norm": "self_attn.kv_a_layernorm",
    "attention/wkv_b": "self_attn.kv_b_proj",
    "attention/wo": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
}
_STACKS = {
    "dense_layers": _ATTENTION
    | {"mlp/w_gate_up": "mlp.{half}_proj", "mlp/w_down": "mlp.down_proj"},
    "moe_layers": _ATTENTION
    | {
        "mlp/router": "mlp.gate",
        "mlp/w_gate_up": "mlp.experts.{expert}.{half}_proj",
        "mlp/w_down": "mlp.experts.{expert}.down_proj",
        "mlp/shared/w_gate_up": "mlp.shared_experts.{half}_proj",
        "mlp/shared/w_down": "mlp.shared_experts.down_proj",
    },
}
_ROUTER_BIAS = "mlp.gate.e_score_correction_bias"
_HALVES = ("gate", "up")
# Leaves whose last axis ends in rotary columns.
_ROTARY = ("wq", "wq_b", "wkv_a")

ROUTER_BIAS = "router_bias"


class Tensor(NamedTuple):
    """One Hugging Face tensor: part `index` of a leaf."""

    name: str
    index: tuple[int, ...]
    shape: tuple[int, ...]
    is_transposed: bool
    is_paired: bool = False  # whether neighbours of the last axis are (i, i + half) here


class Leaf(NamedTuple):
    shape: tuple[int, ...]
    tensors: tuple[Tensor, ...]
    num_rotary: int  # rotary columns at the end of the last axis

    @property
    def is_stacked(self) -> bool:
        return not self.tensors or bool(self.tensors[0].index)

    @property
    def part_shape(self) -> tuple[int, ...]:
        return self.shape[len(self.tensors[0].index) :] if self.tensors else self.shape


def leaves(cfg: config.ModelConfig) -> dict[str, Leaf]:
    """Every parameter by its path, such as "moe_layers/mlp/w_down", and the router bias."""
    shapes = jax.eval_shape(functools.partial(model.init_params, cfg), jax.random.key(0))
    specs = _flat(model.describe(cfg, split="none"))
    params = {path: _leaf(cfg, path, x.shape, specs[path]) for path, x in _flat(shapes).items()}
    bias_shape = (cfg.num_moe_layers, cfg.num_experts)
    biases = tuple(
        Tensor(
            f"model.layers.{cfg.num_dense_layers + i}.{_ROUTER_BIAS}", (i,), bias_shape[1:], False
        )
        for i in range(cfg.num_moe_layers)
    )
    return params | {ROUTER_BIAS: Leaf(bias_shape, biases, 0)}


def _flat(tree) -> dict:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: not isinstance(x, dict))
    return {"/".join(key.key for key in path): leaf for path, leaf in flat}


def _leaf(
    cfg: config.ModelConfig, path: str, shape: tuple[int, ...], spec: model.ParamSpec
) -> Leaf:
    stack, _, rest = path.partition("/")
    if stack == "vision":
        return _image_leaf(cfg, rest, shape, spec)
    if stack == "audio":
        # Files have no name for it, and an export refuses it.
        return Leaf(shape, (Tensor(path.replace("/", "."), (), shape, False),), 0)
    if not rest:
        wanted = shape[::-1] if spec.role == "head" else shape
        if spec.role == "scalar_head":
            wanted = (1, *shape)  # a matrix with one output
        return Leaf(shape, (Tensor(f"{_TOP[path]}.weight", (), wanted, spec.role == "head"),), 0)
    template = f"model.layers.{{layer}}.{_STACKS[stack][rest]}.weight"
    axes = [name for name in ("layer", "expert", "half") if f"{{{name}}}" in template]
    wanted, is_transposed = shape[1:], False
    if spec.matrix is not None:
        wanted, is_transposed = _theirs(shape, spec)
    first = 0 if stack == "dense_layers" else cfg.num_dense_layers
    tensors = []
    for index in itertools.product(*map(range, shape[: len(axes)])):
        part = dict(zip(axes, index, strict=True))
        name = template.format(
            layer=first + part["layer"],
            expert=part.get("expert"),
            half=_HALVES[part.get("half", 0)],
        )
        tensors.append(Tensor(name, index, wanted, is_transposed))
    is_rotary = path.rpartition("/")[2] in _ROTARY
    return Leaf(shape, tuple(tensors), cfg.qk_rope_head_dim if is_rotary else 0)


def _theirs(shape: tuple[int, ...], spec: model.ParamSpec) -> tuple[tuple[int, ...], bool]:
    """The shape (outputs, inputs) of a matrix, and whether ours is the transpose."""
    matrix = spec.matrix
    assert matrix is not None
    rows = math.prod(shape[axis] for axis in matrix.rows)
    cols = math.prod(shape[axis] for axis in matrix.cols)
    return (cols, rows), matrix.rows < matrix.cols


def _image_leaf(
    cfg: config.ModelConfig, path: str, shape: tuple[int, ...], spec: model.ParamSpec
) -> Leaf:
    """A leaf of the encoder of images; `path` is relative to "vision"."""
    images = cfg.vision
    assert images is not None
    stack, _, rest = path.partition("/")
    is_stacked, is_transposed = stack == "layers", False
    wanted = shape[is_stacked:]
    if spec.matrix is not None:
        wanted, is_transposed = _theirs(shape, spec)
    elif spec.role != "embedding":
        wanted = (math.prod(wanted),)  # heads lie in one axis there
    if path == "patch/w":
        wanted = (wanted[0], images.num_channels, images.patch_size, images.patch_size)
    if not is_stacked:
        # Files have no names for an abstractor's tensors, and an export refuses them.
        name = hf_image_names.TOP.get(path, f"mm_projector.{path}")
        return Leaf(shape, (Tensor(name, (), wanted, is_transposed),), 0)
    is_paired = rest.rpartition("/")[2] in hf_image_names.PAIRED
    tensors = (
        Tensor(
            hf_image_names.layer_name(layer, hf_image_names.OF_LAYER[rest]),
            (layer,),
            wanted,
            is_transposed,
            is_paired,
        )
        for layer in range(shape[0])
    )
    return Leaf(shape, tuple(tensors), 0)


def to_part(leaf: Leaf, tensor: Tensor, x: np.ndarray) -> np.ndarray:
    """The tensor `x` as a part of the leaf."""
    part = (x.reshape(len(x), -1).T if tensor.is_transposed else x).reshape(leaf.part_shape)
    if not tensor.is_paired:
        return part
    return part.reshape(*part.shape[:-1], -1, 2).swapaxes(-1, -2).reshape(part.shape)


def from_part(tensor: Tensor, part: np.ndarray) -> np.ndarray:
    """The inverse of `to_part`."""
    if tensor.is_paired:
        part = part.reshape(*part.shape[:-1], 2, -1).swapaxes(-1, -2)
    if tensor.is_transposed:
        part = part.reshape(-1, tensor.shape[0]).T
    return np.ascontiguousarray(part.reshape(tensor.shape))


def interleave_rotary(leaf: Leaf, part: np.ndarray) -> np.ndarray:
    """Pairs (i, i + R/2) of the rotary columns become neighbours, as this model has them."""
    if not leaf.num_rotary:
        return part
    half = leaf.num_rotary // 2
    start = part.shape[-1] - leaf.num_rotary
    order = np.arange(part.shape[-1])
    order[start:] = start + np.arange(leaf.num_rotary).reshape(2, half).T.ravel()
    return part[..., order]
