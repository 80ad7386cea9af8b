"""kanana_post on one H100: about 45M parameters, BPE tokens, bf16, harder tasks, larger rounds.

Tools are a calculator with up to two calls, a shop and a calendar. There are also texts under
constraints and sums of up to nine digits.
"""

import dataclasses

from experiments import kanana_post
from experiments.kanana_post.size import CHAT, Lesson, Rounds, Size
from kanana_jax import config
from kanana_jax.jobs import pipeline
from kanana_jax.model import presets

SIZE = Size(
    model=dataclasses.replace(
        presets.small(),
        kv_lora_rank=256,
        moe_intermediate_size=64,
        num_experts=32,
        num_experts_per_token=4,
        routed_scaling_factor=1.996,  # Moonlight's gate-scaling formula for 4 of 32
    ),
    execution=config.ExecutionConfig(loss_chunk_tokens=16_384),
    polar_dtype="auto",
    data=config.DataConfig(tokenizer="bpe", bpe_vocab_size=4096, seq_len=512, batch_size=32),
    english="documents",
    learned=("products@1,2", "shop@1", "calendar@1", "constraints@1,2"),
    practised=("products@2,3,4", "shop@2,3", "calendar@2,3", "constraints@2,3"),
    sums="chain_sum@6,7,8,9",
    num_documents={
        **{"korean": 20_000, "tools": 8000, "sums": 8000, "talk": 560},
        **{"chats": 560, "practice": 160, "thought": 1000},
        **{"style": 560, "chosen": 560},
    },
    lessons={
        "base": Lesson(1500, 0.004),
        "mid": Lesson(1500, 0.002),
        "talk": Lesson(80, 0.001),
        "reward": Lesson(80, 0.001),
        "dpo": Lesson(60, 0.0006),
        "online": Lesson(60, 0.0002),
        "calibration": Lesson(80, 0.0004),
    },
    rounds={
        "rejection": Rounds(160, 4, 27),
        "dpo": Rounds(240, 4, 60),
        "online": Rounds(160, 4, 15),
        "calibration": Rounds(160, 2, 80),
    },
    tries=config.RolloutConfig(families=(CHAT,), max_tokens=80, num_rows=64),
    num_measured={"practice": 64, "chat": 58, "sums": 48},
    num_compared=192,
    asked=("products@2,3,4", "shop@2,3", "chain_sum@6,7,8,9"),
    num_asked=96,
)

run = kanana_post.running(SIZE)


def experiment() -> pipeline.Pipeline:
    return kanana_post.made("kanana_post_h100", SIZE)
