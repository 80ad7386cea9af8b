"""Runs every case through Hugging Face transformers and keeps the logits in parity_golden.npz.

python -m pip install -e '.[parity]'        in an environment of its own
python tests/weights/make_golden.py
"""

from pathlib import Path

import numpy as np
import parity_cases as cases
import torch
import transformers


def logits(fields: dict) -> np.ndarray:
    wanted = transformers.DeepseekV3Config(**fields)
    network = transformers.DeepseekV3ForCausalLM(wanted).eval().float()
    with torch.no_grad():
        for name, x in _released_tensors(network):
            x.copy_(torch.from_numpy(cases.weight(name, tuple(x.shape))))
        return network(torch.from_numpy(cases.TOKENS)).logits.numpy()


def _released_tensors(network):
    """(name in released files, view): the library keeps all experts of a layer in one tensor."""
    tied = network.config.tie_word_embeddings
    for name, x in network.state_dict(keep_vars=True).items():
        prefix, _, last = name.rpartition(".")
        if tied and name == "lm_head.weight":
            continue
        if last == "gate_up_proj":
            for expert, both in enumerate(x.detach()):
                for half, part in zip(("gate", "up"), both.chunk(2), strict=True):
                    yield f"{prefix}.{expert}.{half}_proj.weight", part
        elif last == "down_proj":
            for expert, part in enumerate(x.detach()):
                yield f"{prefix}.{expert}.down_proj.weight", part
        else:
            yield name, x.detach()


if __name__ == "__main__":
    golden = {name: np.float32(logits(fields)) for name, fields in cases.CASES.items()}
    path = Path(__file__).with_name("parity_golden.npz")
    np.savez_compressed(path, **golden)
    print(f"{path}: {len(golden)} cases, transformers {transformers.__version__}")
