"""Runs a random tiny WhisperEncoder of transformers; weights, frames and states go to .npz.

python -m pip install -e '.[parity]'        in an environment of its own
python tests/model/make_audio_golden.py
"""

from pathlib import Path

import numpy as np
import torch
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

NUM_FRAMES = 40

if __name__ == "__main__":
    torch.manual_seed(0)
    cfg = WhisperConfig(
        num_mel_bins=80,
        d_model=16,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=24,
        max_source_positions=NUM_FRAMES // 2,
        attn_implementation="eager",
    )
    encoder = WhisperEncoder(cfg).eval()
    with torch.no_grad():
        for name, one in encoder.named_parameters():
            if "embed_positions" not in name:
                one.copy_(0.3 * torch.randn_like(one) + float(name.endswith("norm.weight")))
        frames = torch.randn(2, 80, NUM_FRAMES)
        states = encoder(frames).last_hidden_state
    stored = {name: one.detach().numpy() for name, one in encoder.named_parameters()}
    stored |= {"frames": frames.transpose(1, 2).numpy(), "states": states.numpy()}
    np.savez_compressed(Path(__file__).with_name("audio_golden.npz"), **stored)
