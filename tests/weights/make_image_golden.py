"""Runs every case with images through Hugging Face transformers; logits go to image_golden.npz.

python -m pip install -e '.[parity]'        in an environment of its own
python tests/weights/make_image_golden.py [FOLDER...]

FOLDERS, exports of cases under their names, are compared with the cases instead.
"""

import sys
import tempfile
from pathlib import Path

import image_cases as cases
import numpy as np
import parity_shapes
import torch
import transformers

GOLDEN = Path(__file__).with_name("image_golden.npz")


def logits(folder: Path, name: str) -> np.ndarray:
    """Of the prompt, by transformers' own reading of the folder."""
    made = transformers.Kimi_K25ForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    size = cases.fields(name)["vision_config"]["patch_size"]
    patches, grids = [], []
    for picture in cases.pictures(name):
        rows, columns = (side // size for side in picture.shape[:2])
        cut = picture.reshape(rows, size, columns, size, 3).transpose(0, 2, 4, 1, 3)
        patches.append(cut.reshape(rows * columns, 3, size, size))
        grids.append((1, rows, columns))
    pixels = torch.from_numpy(np.concatenate(patches).astype(np.float32) / 127.5 - 1.0)
    with torch.no_grad():
        found = made.eval()(
            input_ids=torch.tensor([cases.ids(name)]),
            pixel_values=pixels,
            image_grid_thw=torch.tensor(grids),
        )
    return found.logits[0].numpy()


def _golden() -> dict[str, np.ndarray]:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in cases.CASES:
            weights = cases.tensors(name, parity_shapes.shapes(cases.fields(name)["text_config"]))
            made = cases.write(Path(folder) / name, name, weights)
            found[name] = np.float32(logits(made, name))
    return found


if __name__ == "__main__":
    if sys.argv[1:]:
        golden = np.load(GOLDEN)
        for folder in map(Path, sys.argv[1:]):
            off = np.abs(logits(folder, folder.name) - golden[folder.name]).max()
            print(f"{folder.name}: logits differ by at most {off:.1e}")
            assert off < 1e-4
    else:
        np.savez_compressed(GOLDEN, **_golden())
        print(f"{GOLDEN}: {len(cases.CASES)} cases, transformers {transformers.__version__}")
