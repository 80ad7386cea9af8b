"""The settings of kanana_post that differ between a laptop and a GPU."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from kanana_jax import config
from kanana_jax.model import presets

CHAT = "small_talk"


class Lesson(NamedTuple):
    """How long a stage trains, and how fast."""

    num_steps: int
    lr: float


class Rounds(NamedTuple):
    """The rounds of a stage that trains on what the model writes."""

    num_prompts: int
    num_samples: int
    steps_per_round: int


@dataclass(frozen=True, kw_only=True)
class Size:
    """A model, its tasks, and how much of everything."""

    model: config.ModelConfig
    execution: config.ExecutionConfig
    polar_dtype: Literal["auto", "float32", "bfloat16"]
    data: config.DataConfig  # the tokenizer, and the one shape of all batches
    english: Literal["prose", "documents"]  # of the running Python
    learned: tuple[str, ...]  # families whose calls mid-training writes out
    practised: tuple[str, ...]  # families that a few conversations show, for rejection sampling
    sums: str
    num_documents: Mapping[str, int]  # by what `texts` makes of them
    lessons: Mapping[str, Lesson]  # by stage; "talk" is for all that train on conversations
    rounds: Mapping[str, Rounds]  # by stage
    tries: config.RolloutConfig  # how answers are drawn, whatever the families
    num_measured: Mapping[str, int]  # held-out tasks of practice, chat and sums
    num_compared: int  # tasks of practice, for stages whose success in it is compared
    asked: tuple[str, ...]  # families on which confidence is learned and measured
    num_asked: int  # held-out tasks of these

    def rollouts(self, stage: str, *families: str) -> config.RolloutConfig:
        """How a round of `stage` draws answers."""
        num_prompts, num_samples, _ = self.rounds[stage]
        return dataclasses.replace(
            self.tries, families=families, num_prompts=num_prompts, num_samples=num_samples
        )

    def measured(self, **num_tasks: int) -> list[tuple[config.RolloutConfig, int]]:
        """Families, and how many held-out tasks of them measure a stage."""
        families = {"practice": self.practised, "chat": (CHAT,), "sums": (self.sums,)}
        return [
            (dataclasses.replace(self.tries, families=families[kind]), count)
            for kind, count in {**self.num_measured, **num_tasks}.items()
        ]


LAPTOP = Size(
    model=dataclasses.replace(presets.tiny(), num_layers=2),
    execution=presets.LAPTOP,
    polar_dtype="float32",
    data=config.DataConfig(seq_len=192, batch_size=12),
    english="prose",
    learned=("products@1",),
    practised=("products@1",),
    sums="chain_sum@3",
    num_documents={
        **{"korean": 1500, "tools": 600, "sums": 200, "talk": 560},
        **{"chats": 240, "practice": 16, "thought": 100},
        **{"style": 560, "chosen": 240},
    },
    lessons={
        "base": Lesson(500, 0.015),
        "mid": Lesson(900, 0.006),
        "talk": Lesson(60, 0.003),
        "reward": Lesson(150, 0.003),
        "dpo": Lesson(60, 0.002),
        "online": Lesson(60, 0.0005),
        "calibration": Lesson(60, 0.001),
    },
    rounds={
        "rejection": Rounds(96, 4, 20),
        "dpo": Rounds(96, 4, 60),
        "online": Rounds(48, 4, 15),
        "calibration": Rounds(96, 2, 60),
    },
    tries=config.RolloutConfig(families=(CHAT,), max_tokens=80),
    num_measured={"practice": 24, "chat": 58, "sums": 24},
    num_compared=120,
    asked=("products@1", "chain_sum@3,4"),
    num_asked=96,
)
