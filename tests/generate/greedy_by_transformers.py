"""Greedy tokens of Hugging Face transformers for a folder of a byte model, as JSON.

    PARITY_PYTHON tests/generate/greedy_by_transformers.py FOLDER

Runs where torch and transformers are installed; this package is not needed.
"""

import json
import sys

import torch
import transformers

PROMPTS = ("The ", "python -m kanana", "Muon's ")
NUM_TOKENS = 64
BOS = 256


def greedy(model, prompt: str) -> list[int]:
    ids = torch.tensor([[BOS, *prompt.encode()]])
    with torch.no_grad():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            min_new_tokens=NUM_TOKENS,
            max_new_tokens=NUM_TOKENS,
            do_sample=False,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    best, second = torch.stack(out.logits)[:, 0].topk(2, dim=-1).values.unbind(dim=-1)
    if (best - second).min() < 1e-2:
        sys.exit(f"{prompt!r}: two tokens are nearly as likely; take another prompt")
    return out.sequences[0, ids.shape[1] :].tolist()


if __name__ == "__main__":
    loaded = transformers.DeepseekV3ForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
    print(json.dumps({prompt: greedy(loaded.eval(), prompt) for prompt in PROMPTS}))
