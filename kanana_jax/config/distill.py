"""Distillation: who teaches, and by which divergence."""

from dataclasses import dataclass
from typing import Annotated, Literal

from kanana_jax.config import fields
from kanana_jax.config.paths import Location
from kanana_jax.config.ranges import Count, Factor, LossWeight


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """`kanana_jax.objectives.soft_targets` has the formulas."""

    # A model folder, of any shape with the student's vocabulary; {seed} in it is the seed of the
    # run. Empty: the weights that train.init_from gives.
    teacher: Annotated[str, Location(may_be_empty=True)] = ""
    divergence: Literal["forward_kl", "reverse_kl", "top_k", "sampled"] = "forward_kl"
    weight: LossWeight = 1.0  # of the divergence; 0: nobody teaches
    ce_weight: LossWeight = 0.0  # of the text's cross-entropy, added to it
    num_tokens: Count = 64  # that top_k and sampled read of the teacher at a position
    temperature: Factor = 1.0  # at which `sampled` draws them
    # A forward pass in each step, or one pass before the first and no teacher in memory after it.
    outputs: Literal["live", "cached"] = "live"

    def __post_init__(self):
        fields.check(self, "distill")
        if not self.weight and not self.ce_weight:
            raise fields.ConfigError(
                "distill.weight or distill.ce_weight must be over 0, or there is no loss; got 0 "
                "for both"
            )
        is_cached, reads_all = self.outputs == "cached", self.divergence.endswith("_kl")
        if is_cached and reads_all:
            raise fields.ConfigError(
                f"distill.outputs=cached keeps a few numbers of a position, and {self.divergence} "
                "reads the whole vocabulary; set distill.divergence to top_k or sampled"
            )
        if self.divergence == "sampled" and not is_cached:
            raise fields.ConfigError(
                "distill.divergence=sampled needs distill.outputs=cached, got live: a teacher that "
                "is there gives its whole distribution; set distill.divergence=forward_kl for that"
            )
