"""Writes Hugging Face folders for tests."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import parity_cases
from parity_shapes import shapes
from safetensors.numpy import save_file


def tensors(fields: dict, dtype=np.float32) -> dict[str, np.ndarray]:
    """Weights by the formula of the parity cases; the router's bias is always float32."""
    return {
        name: parity_cases.weight(name, shape).astype(np.float32 if "bias" in name else dtype)
        for name, shape in shapes(fields).items()
    }


def write(folder: Path, fields: dict, weights: dict[str, np.ndarray], num_shards: int = 3) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(fields))
    (folder / "tokenizer_config.json").write_text("{}")
    places = {}
    for shard in range(num_shards):
        file = f"model-{shard + 1:05d}-of-{num_shards:05d}.safetensors"
        names = list(weights)[shard::num_shards]
        save_file({name: weights[name] for name in names}, folder / file)
        places |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def read(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return {
        name: x
        for file in sorted(folder.glob("*.safetensors"))
        for name, x in load_file(file).items()
    }


def block_quantized(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(float8, scale_inv) of a matrix, one scale per 128 x 128 block, by a loop over blocks."""
    rows, cols = (-(-size // 128) for size in x.shape)
    q, scale_inv = np.zeros(x.shape, ml_dtypes.float8_e4m3fn), np.zeros((rows, cols), np.float32)
    for i in range(rows):
        for j in range(cols):
            block = np.s_[i * 128 : (i + 1) * 128, j * 128 : (j + 1) * 128]
            scale_inv[i, j] = np.abs(x[block]).max() / 448.0
            q[block] = (x[block] / scale_inv[i, j]).astype(ml_dtypes.float8_e4m3fn)
    return q, scale_inv


def of_blocks(q: np.ndarray, scale_inv: np.ndarray) -> np.ndarray:
    """What `block_quantized` gave, as bfloat16."""
    x = q.astype(np.float32)
    for i, row in enumerate(scale_inv):
        for j, scale in enumerate(row):
            x[i * 128 : (i + 1) * 128, j * 128 : (j + 1) * 128] *= scale
    return x.astype(ml_dtypes.bfloat16)


def packed(x: np.ndarray, group_size: int = 32) -> dict[str, np.ndarray]:
    """The parts of a matrix of 4-bit integers, by a loop over its words."""
    rows, cols = x.shape
    scale = np.abs(x.astype(np.float32)).reshape(rows, -1, group_size).max(-1) / 7.0
    scale = scale.astype(ml_dtypes.bfloat16)
    wide = np.repeat(scale.astype(np.float32), group_size, 1)
    q = np.clip(np.rint(x.astype(np.float32) / wide), -8, 7).astype(np.int64) + 8
    words = np.zeros((rows, cols // 8), np.uint32)
    for place in range(8):
        words |= (q[:, place::8] << (4 * place)).astype(np.uint32)
    shape = np.array([rows, cols], np.int32)
    return {"packed": words.view(np.int32), "scale": scale, "shape": shape}


def unpacked(words: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """What `packed` gave, as bfloat16, number by number."""
    rows, cols = words.shape[0], words.shape[1] * 8
    size = cols // scale.shape[1]
    x = np.empty((rows, cols), np.float32)
    for i in range(rows):
        for j in range(cols):
            q = (int(words[i, j // 8]) >> (4 * (j % 8))) & 15
            x[i, j] = (q - 8) * np.float32(scale[i, j // size])
    return x.astype(ml_dtypes.bfloat16)
