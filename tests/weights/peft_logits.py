"""Logits of Hugging Face models with adapters, by transformers and PEFT, for test_lora_folders.

    python tests/weights/peft_logits.py OUT BASE ADAPTERS [BASE ADAPTERS ...]

Writes OUT.npz: the logits of parity_cases.TOKENS, of each pair in turn.
"""

import sys
from pathlib import Path

import numpy as np
import parity_cases
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


def main() -> None:
    out, *folders = map(Path, sys.argv[1:])
    found = {}
    for base, adapters in zip(folders[::2], folders[1::2], strict=True):
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        adapted = PeftModel.from_pretrained(model, str(adapters)).eval()
        with torch.no_grad():
            found[base.name] = adapted(torch.tensor(parity_cases.TOKENS)).logits.numpy()
    np.savez(out, **found)


if __name__ == "__main__":
    main()
