"""Ids of prompts and greedy tokens of Hugging Face transformers for a GGUF file, as JSON.

    PARITY_PYTHON tests/weights/gguf_by_transformers.py FILE

Runs where torch, transformers, gguf and accelerate are installed; this package is not needed.
"""

import json
import sys
from pathlib import Path

import torch
import transformers

PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "In 1969, 123 people",
    "Seoul is a city in",
    "Write a haiku about the sea: ",
)
NUM_TOKENS = 64


def greedy(model, ids: list[int]) -> list[int]:
    """Tokens after the ids; the end of a text is a token like others."""
    tokens, cache = torch.tensor([ids]), None
    found = []
    with torch.no_grad():
        for _ in range(NUM_TOKENS):
            out = model(tokens, past_key_values=cache, use_cache=True)
            cache, best = out.past_key_values, out.logits[0, -1].topk(2)
            if best.values[0] - best.values[1] < 1e-3:
                sys.exit("two tokens are nearly as likely; take another prompt")
            tokens = best.indices[None, :1]
            found.append(tokens.item())
    return found


if __name__ == "__main__":
    path = Path(sys.argv[1])
    where = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()
    prompts = {one: tokenizer(one, add_special_tokens=False)["input_ids"] for one in PROMPTS}
    found = {one: {"prompt": ids, "greedy": greedy(model, ids)} for one, ids in prompts.items()}
    print(json.dumps(found))
