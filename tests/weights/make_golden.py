"""Runs every case through Hugging Face transformers; logits go to parity_golden.npz.

Beside them, as `NAME/greedy`, the greedy continuations of the tokens' beginnings.

python -m pip install -e '.[parity]'        in an environment of its own
python tests/weights/make_golden.py
"""

from pathlib import Path

import numpy as np
import parity_cases as cases
import torch
import transformers


def network(fields: dict) -> transformers.PreTrainedModel:
    (name,) = fields["architectures"]
    made = getattr(transformers, name)
    network = made(made.config_class(**fields)).eval().float()
    with torch.no_grad():
        for name, x in _released_tensors(network):
            x.copy_(torch.from_numpy(cases.weight(name, tuple(x.shape))))
    return network


def logits(network: transformers.PreTrainedModel) -> np.ndarray:
    with torch.no_grad():
        return network(torch.from_numpy(cases.TOKENS)).logits.numpy()


def greedy(network: transformers.PreTrainedModel) -> np.ndarray:
    """Of each row the next NUM_GREEDY tokens after its first PROMPT_LENGTH."""
    tokens = torch.from_numpy(cases.TOKENS[:, : cases.PROMPT_LENGTH])
    with torch.no_grad():
        for _ in range(cases.NUM_GREEDY):
            best = network(tokens).logits[:, -1].topk(2)
            assert (best.values[:, 0] - best.values[:, 1]).min() > 1e-3, "too near to a tie"
            tokens = torch.cat([tokens, best.indices[:, :1]], dim=1)
    return tokens[:, cases.PROMPT_LENGTH :].numpy()


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
    golden: dict[str, np.ndarray] = {}
    for name, fields in cases.CASES.items():
        made = network(fields)
        golden[name] = np.float32(logits(made))
        if name in cases.GREEDY:
            golden[f"{name}/greedy"] = greedy(made).astype(np.int32)
    path = Path(__file__).with_name("parity_golden.npz")
    np.savez_compressed(path, **golden)
    print(f"{path}: {len(cases.CASES)} cases, transformers {transformers.__version__}")
