"""Optimizers and learning-rate schedules."""

from dataclasses import dataclass
from typing import Annotated, Literal

from kanana_jax.config import fields
from kanana_jax.config.execution import Implementation
from kanana_jax.config.fields import ConfigError
from kanana_jax.config.ranges import CountOrZero, Decay, Epsilon, Factor, Range, Rate, WidthOrZero


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Learning rate against step, as a multiple of the peak."""

    name: Literal["constant", "cosine", "wsd"] = "wsd"
    warmup_steps: CountOrZero = 0
    decay_steps: CountOrZero = 0  # wsd only: length of the final decay
    # wsd and cosine: where the decay ends
    final_ratio: Annotated[float, Range(0.0, 1.0, "a share of the peak")] = 0.0

    def __post_init__(self):
        fields.check(self, "optimizer.schedule")
        if self.decay_steps and self.name != "wsd":
            raise ConfigError(
                f"only wsd has decay_steps; set optimizer.schedule.decay_steps=0 for {self.name}"
            )


# The others keep norms or scale updates by earlier ones, so no rule for widths applies to them.
_TRANSFERRED = ("adamw", "muon", "muonclip")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW, Muon or one of its relatives. Embedding, head, norms and biases always use AdamW."""

    name: Literal["adamw", "muon", "muonclip", "normuon", "adamuon", "muon_hyperball"] = "muonclip"
    lr: Rate = 1e-3  # peak; Muon's updates are scaled to AdamW's RMS, so both share it
    weight_decay: Annotated[float, Range(0.0, 1e3, "a share per step, times lr")] = 0.1
    norm_decay: Literal["none", "all", "input"] = "all"  # of RMSNorm gains; input: of block inputs
    embedding_decay: bool = True
    momentum: Decay = 0.95
    nesterov: bool = True  # but normuon never has it, and adamuon always does
    polar: Literal["newton_schulz", "polar_express"] = "polar_express"
    polar_steps: Annotated[int, Range(1, 100, "each is compiled")] = 5
    # "auto": float16 on GPUs, more exact there and with fewer passes over memory, else bfloat16.
    polar_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    polar_implementation: Implementation = "auto"  # of its products with a symmetric result
    # Of muon and muonclip; the others scale updates in their own way.
    shape_scale: Literal["moonlight", "keller_jordan", "spectral", "none"] = "moonlight"
    # muon_hyperball turns matrices by an angle per step: AdamW's rate, as a multiple of that.
    adamw_lr_ratio: Factor = 1.0
    split: Literal["none", "parts", "heads"] = "parts"  # what counts as one matrix in attention
    router: Literal["adamw", "muon"] = "adamw"
    # Rates and initial scales of a model wider than transfer_base_width, the width that these
    # settings are for. Of adamw, muon and muonclip; see kanana_jax/train/transfer.py.
    transfer: Literal["none", "kakao", "spectral", "half"] = "none"
    transfer_base_width: WidthOrZero = 0
    # Parts that stay as they are, in a model with an encoder of images or sounds. The projector
    # makes positions of the decoder; for sounds it is the abstractor.
    frozen: tuple[Literal["encoder", "projector", "decoder"], ...] = ()
    tau: Factor = 100.0  # QK-Clip: largest max attention logit that is left alone
    clip_by: Literal["head", "layer"] = "head"  # what QK-Clip gives one factor
    b1: Decay = 0.9
    b2: Decay = 0.95
    eps: Epsilon = 1e-8
    schedule: ScheduleConfig = ScheduleConfig()

    def __post_init__(self):
        fields.check(self, "optimizer")
        if (self.transfer != "none") != (self.transfer_base_width > 0):
            raise ConfigError(
                "optimizer.transfer and transfer_base_width, the hidden_size at which these "
                f"settings were found, go together; got {self.transfer} and "
                f"{self.transfer_base_width}"
            )
        if self.transfer != "none" and self.name not in _TRANSFERRED:
            raise ConfigError(
                f"optimizer.transfer is for {', '.join(_TRANSFERRED)}; set transfer=none for "
                f"{self.name}"
            )
