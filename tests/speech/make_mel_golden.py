"""Writes mel_golden.npz with the features of transformers' WhisperFeatureExtractor.

python tests/speech/make_mel_golden.py      in an environment with transformers and numpy
"""

from pathlib import Path

import numpy as np
from transformers import WhisperFeatureExtractor

RATE = 16_000


def sounds():
    """A sliding tone with noise and a silence in it, and a short part of it of odd length."""
    rng = np.random.default_rng(0)
    time = np.arange(RATE // 2) / RATE
    slide = 0.4 * np.sin(2 * np.pi * (150 * time + 1800 * time**2))
    slide[3000:4200] = 0
    noisy = slide + 0.01 * rng.standard_normal(len(slide))
    return {"slide": noisy.astype(np.float32), "short": noisy[1000:2111].astype(np.float32)}


if __name__ == "__main__":
    extract = WhisperFeatureExtractor(feature_size=80)
    stored = {}
    for name, samples in sounds().items():
        found = extract(samples, sampling_rate=RATE, padding="do_not_pad", return_tensors="np")
        stored |= {f"{name}_samples": samples, f"{name}_features": found["input_features"][0].T}
    np.savez_compressed(Path(__file__).with_name("mel_golden.npz"), **stored)
