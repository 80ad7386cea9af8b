"""Trains the tiny model of bytes in tests/generate/trained on this repository's own prose.

    python tests/generate/make_trained.py WORKDIR
    PARITY_PYTHON tests/generate/greedy_by_transformers.py tests/generate/trained \
        > tests/generate/trained/greedy.json

The second line needs torch and transformers (extra `parity`). The model differs with the machine
and the text; what is tested is that transformers and this package read the same from it.
"""

import dataclasses
import sys
from pathlib import Path

from kanana_jax import config, convert
from kanana_jax.jobs import pretrain
from kanana_jax.model import presets


def configuration() -> pretrain.Config:
    shape = dataclasses.replace(
        presets.tiny(),
        hidden_size=48,
        num_layers=3,
        num_heads=2,
        q_lora_rank=24,
        kv_lora_rank=32,
        qk_nope_head_dim=16,
        qk_rope_head_dim=8,
        v_head_dim=16,
        intermediate_size=128,
        moe_intermediate_size=32,
        num_experts=4,
    )
    return pretrain.Config(
        name="trained",
        question="Does transformers read what was trained here?",
        model=shape,
        execution=config.ExecutionConfig(compute_dtype="float32"),
        data=config.DataConfig(
            paths=("README.md", "BUILD.md", "experiments/README.md"), seq_len=128, batch_size=16
        ),
        optimizer=config.OptimizerConfig(lr=0.02),
        train=config.TrainConfig(num_steps=400),
    )


if __name__ == "__main__":
    workdir = Path(sys.argv[1])
    pretrain.run(configuration(), workdir)
    convert.main([f"--from-run={workdir / 'run'}", f"--to={workdir / 'native'}"])
    target = Path(__file__).with_name("trained")
    convert.main(
        [
            f"--from={workdir / 'native'}",
            f"--to-hf={target}",
            "--dtype=bfloat16",
            "--max-position-embeddings=256",
        ]
    )
