"""Tiny models of kimi_k25 with random weights, and a prompt with images for each.

Needs only numpy and safetensors: the process that runs transformers and the tests both read it.
Names and shapes are those of the published files, spelled out here and not the package's.
"""

import json
from pathlib import Path

import numpy as np
import parity_cases
from safetensors.numpy import save_file

IMAGE = 45  # the id that stands for images, beyond the vocabulary
_TEXT = {key: x for key, x in parity_cases.BASE.items() if key != "torch_dtype"}
_VISION = {
    "patch_size": 2,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "pos_emb_height": 4,
    "pos_emb_width": 4,
    "pos_emb_time": 2,
    "merge_kernel_size": [2, 2],
}
_YARN = {"rope_scaling": parity_cases.YARN, "rope_theta": 100.0}
_GRIDS = ((4, 6),)  # patches of the sides of each image
# Of the text, of the images, and the images of the prompt.
_SWITCHES: dict[str, tuple[dict, dict, tuple]] = {
    "plain": ({}, {}, _GRIDS),
    "grid_of_the_table": ({}, {}, ((4, 4),)),
    "two_grids": ({}, {}, ((2, 4), (6, 2))),
    "large_image": ({}, {}, ((10, 8),)),
    "one_head": ({}, {"num_attention_heads": 1, "hidden_size": 8}, _GRIDS),
    "four_heads": ({}, {"num_attention_heads": 4}, _GRIDS),
    "deep": ({}, {"num_hidden_layers": 4, "intermediate_size": 40}, _GRIDS),
    "large_patches": ({}, {"patch_size": 5, "pos_emb_height": 7, "pos_emb_width": 7}, _GRIDS),
    "no_merge": ({}, {"merge_kernel_size": [1, 1]}, ((2, 3),)),
    "merge_of_three": ({}, {"merge_kernel_size": [3, 3]}, ((3, 6),)),
    "tied": ({"tie_word_embeddings": True}, {}, _GRIDS),
    "q_lora_yarn": ({"q_lora_rank": 12, "n_group": 4, "topk_group": 2, **_YARN}, {}, _GRIDS),
    "all_dense": ({"first_k_dense_replace": 3}, {}, ((2, 2), (2, 2))),
}
CASES = tuple(_SWITCHES)


def fields(name: str) -> dict:
    """The config.json."""
    text, vision, _ = _SWITCHES[name]
    text, vision = _TEXT | text, _VISION | vision
    return {
        "architectures": ["KimiK25ForConditionalGeneration"],
        "model_type": "kimi_k25",
        "tie_word_embeddings": text["tie_word_embeddings"],
        "projection_hidden_size": vision["hidden_size"],
        "projection_layer_norm_eps": 1e-5,
        "image_token_id": IMAGE,
        "text_config": text,
        "vision_config": vision,
    }


def shapes_of_images(name: str) -> dict[str, tuple[int, ...]]:
    """Every tensor of the encoder and the projector."""
    made = fields(name)
    vision, hidden = made["vision_config"], made["text_config"]["hidden_size"]
    width, inner = vision["hidden_size"], vision["intermediate_size"]
    size, grid, merge = vision["patch_size"], vision["pos_emb_height"], vision["merge_kernel_size"]
    square = merge[0] * merge[1] * width
    found = {
        "vision_tower.patch_embed.proj.weight": (width, 3, size, size),
        "vision_tower.patch_embed.proj.bias": (width,),
        "vision_tower.patch_embed.pos_emb.weight": (grid, grid, width),
    }
    for layer in range(vision["num_hidden_layers"]):
        inside = {
            **{f"norm{n}.{kind}": (width,) for n in (0, 1) for kind in ("weight", "bias")},
            "wqkv.weight": (3 * width, width),
            "wqkv.bias": (3 * width,),
            "wo.weight": (width, width),
            "wo.bias": (width,),
            "mlp.fc0.weight": (inner, width),
            "mlp.fc0.bias": (inner,),
            "mlp.fc1.weight": (width, inner),
            "mlp.fc1.bias": (width,),
        }
        found |= {f"vision_tower.encoder.blocks.{layer}.{key}": x for key, x in inside.items()}
    return found | {
        "vision_tower.encoder.final_layernorm.weight": (width,),
        "vision_tower.encoder.final_layernorm.bias": (width,),
        "mm_projector.pre_norm.weight": (width,),
        "mm_projector.pre_norm.bias": (width,),
        "mm_projector.proj.0.weight": (square, square),
        "mm_projector.proj.0.bias": (square,),
        "mm_projector.proj.2.weight": (hidden, square),
        "mm_projector.proj.2.bias": (hidden,),
    }


def tensors(name: str, of_text: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """All weights, by the formula of the parity cases; `of_text` are shapes by name."""
    named = {f"language_model.{key}": (key, shape) for key, shape in of_text.items()}
    named |= {key: (key, shape) for key, shape in shapes_of_images(name).items()}
    return {key: parity_cases.weight(*of_formula) for key, of_formula in named.items()}


def write(folder: Path, name: str, weights: dict[str, np.ndarray]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(fields(name)))
    (folder / "tokenizer_config.json").write_text("{}")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def pictures(name: str) -> list[np.ndarray]:
    """Pixels (Y, X, 3) of the prompt's images."""
    rng, size = np.random.default_rng(5), fields(name)["vision_config"]["patch_size"]
    return [
        rng.integers(0, 256, (size * rows, size * columns, 3), dtype=np.uint8)
        for rows, columns in _SWITCHES[name][2]
    ]


def ids(name: str) -> list[int]:
    """The prompt: text, and behind it each image with text, one id for each of its squares."""
    rng, merge = np.random.default_rng(6), fields(name)["vision_config"]["merge_kernel_size"]
    found = rng.integers(0, 40, 5).tolist()
    for rows, columns in _SWITCHES[name][2]:
        found += [IMAGE] * (rows * columns // (merge[0] * merge[1]))
        found += rng.integers(0, 40, 3).tolist()
    return found
