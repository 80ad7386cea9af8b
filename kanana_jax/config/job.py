"""The settings that every training job has. A job adds blocks of its own."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, Self

from kanana_jax.config import fields, listing
from kanana_jax.config.data import DataConfig
from kanana_jax.config.edits import edit
from kanana_jax.config.execution import ExecutionConfig
from kanana_jax.config.fields import ConfigError, shown
from kanana_jax.config.lora import LoraConfig
from kanana_jax.config.mesh import MeshConfig
from kanana_jax.config.model import ModelConfig
from kanana_jax.config.optimizer import OptimizerConfig
from kanana_jax.config.paths import folder_name
from kanana_jax.config.ranges import SEED_MAX, expect_int32
from kanana_jax.config.train import GuardConfig, ProfileConfig, ResumeConfig, TrainConfig


class Stage(NamedTuple):
    """Steps of a run that share a batch size, a sequence length, a mixture and a rope."""

    name: str  # "" for a run without stages
    num_steps: int
    config: "TrainingConfig"  # as if the run had no other stage


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Everything that decides the result of one training run."""

    name: Annotated[str, folder_name]
    question: str
    model: ModelConfig
    execution: ExecutionConfig = ExecutionConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    lora: LoraConfig = LoraConfig()
    guard: GuardConfig = GuardConfig()
    mesh: MeshConfig = MeshConfig()
    profile: ProfileConfig = ProfileConfig()
    resume: ResumeConfig = ResumeConfig()

    def __post_init__(self):
        fields.check(self, "")
        self._check_batch()
        self._check_images()
        self._check_sounds()
        self._check_schedule()
        self._check_average()
        self._check_balance()
        self._check_lora()
        self._check_frozen()

    def edited(self, edits: Iterable[str]) -> Self:
        """With `path=value` edits applied; raises ConfigError."""
        return edit(self, edits)

    def in_stages(self) -> tuple[Stage, ...]:
        """The stages of the run in their order: one, unless a job has more."""
        return (Stage("", self.train.num_steps, self),)

    def rate_segments(self) -> tuple[Any, ...]:
        """The learning rate of each stage; empty where optimizer.schedule decides."""
        return ()

    def listing(self) -> str:
        """Every setting, what it may hold and its value, one a line."""
        return listing.table(self)

    def with_vocab(self, vocab_size: int) -> Self:
        """The tokenizer's vocabulary size filled in, or checked against the model's."""
        if self.model.vocab_size == 0:
            model = dataclasses.replace(self.model, vocab_size=vocab_size)
            return dataclasses.replace(self, model=model)
        if self.model.vocab_size < vocab_size:
            raise ConfigError(
                f"model.vocab_size = {self.model.vocab_size} is smaller than the tokenizer's "
                f"{vocab_size}; raise it, or set it to 0 to take the tokenizer's"
            )
        return self

    def with_seed(self, seed: int) -> Self:
        """Another seed of initialisation; that of the data's order moves by the same distance."""
        order = self.data.seed + seed - self.train.seed
        for name, number in (("train.seed", seed), ("data.seed", order)):
            if number > SEED_MAX:
                raise ConfigError(
                    f"{name} must be at most {SEED_MAX} in every run, the last seed of JAX; got "
                    f"{number}"
                )
        return dataclasses.replace(
            self,
            train=dataclasses.replace(self.train, seed=seed),
            data=dataclasses.replace(self.data, seed=order),
        )

    def _check_batch(self):
        batch_size, num_micro = self.data.batch_size, self.execution.accumulation_steps
        num_micro = 1 if num_micro == "auto" else num_micro
        if batch_size % num_micro:
            raise ConfigError(
                f"execution.accumulation_steps must divide data.batch_size = {batch_size}, got "
                f"{num_micro}"
            )
        expect_int32(
            "data.batch_size / execution.accumulation_steps x data.seq_len x num_experts_per_token",
            *(batch_size // num_micro, self.data.seq_len, max(self.model.num_experts_per_token, 1)),
        )

    def _check_images(self):
        patches, vision = self.data.image_patches, self.model.vision
        if not patches:
            return
        if vision is None:
            raise ConfigError(
                f"data.image_patches must be 0 without model.vision, got {patches}; give the model "
                "an encoder, or read text only"
            )
        if patches % vision.merge_size**2:
            raise ConfigError(
                f"data.image_patches must be a multiple of {vision.merge_size**2}, the patches "
                f"that model.vision.merge_size joins, got {patches}"
            )
        if self.mesh.context != 1:
            raise ConfigError(
                f"mesh.context must be 1 with data.image_patches, got {self.mesh.context}: an "
                "image is not cut"
            )

    def _check_sounds(self):
        sounds, frames, audio = self.data.sounds, self.data.sound_frames, self.model.audio
        if not sounds:
            return
        if audio is None:
            raise ConfigError(
                f"data.sounds must be 0 without model.audio, got {sounds}; give the model an "
                "encoder, or read text only"
            )
        if frames % audio.frames_per_position:
            raise ConfigError(
                f"data.sound_frames must be a multiple of {audio.frames_per_position}, the frames "
                f"of a position, 2 x model.audio.merge_size; got {frames}"
            )
        if self.mesh.context != 1:
            raise ConfigError(
                f"mesh.context must be 1 with data.sounds, got {self.mesh.context}: a sound is not "
                "cut"
            )

    def _check_average(self):
        every_tokens = self.train.average.every_tokens
        of_a_step = self.data.batch_size * self.data.seq_len
        if 0 < every_tokens < of_a_step:
            raise ConfigError(
                "train.average.every_tokens must be 0, for no average, or at least the tokens of a "
                f"step, data.batch_size x data.seq_len = {of_a_step}; got {every_tokens}"
            )

    def _check_schedule(self):
        schedule, last = self.optimizer.schedule, self.train.num_steps
        needed = schedule.warmup_steps + schedule.decay_steps
        if schedule.name != "constant" and needed > last:
            raise ConfigError(
                f"optimizer.schedule needs warmup_steps + decay_steps = {schedule.warmup_steps} + "
                f"{schedule.decay_steps} steps, got train.num_steps = {last}; shorten them or "
                "train longer"
            )

    def _check_balance(self):
        shape = self.model
        if self.train.router_balance != "quantile" or not shape.num_moe_layers:
            return
        if shape.num_groups_per_token < shape.num_expert_groups:
            raise ConfigError(
                "train.router_balance = quantile needs tokens that may choose any expert, got "
                f"model.num_groups_per_token = {shape.num_groups_per_token} of "
                f"{shape.num_expert_groups} groups, outside which no bias lets a token choose; set "
                "train.router_balance to sign, or model.num_expert_groups to 1"
            )
        if shape.num_experts_per_token == shape.num_experts:
            raise ConfigError(
                "train.router_balance = quantile needs experts that a token does not choose, got "
                f"model.num_experts_per_token = num_experts = {shape.num_experts}; loads are even "
                "then, so set train.router_balance to sign"
            )

    def _check_lora(self):
        if not self.lora.rank:
            return
        is_moving = self.train.router_balance == "quantile" or self.train.router_bias_rate
        if self.model.num_moe_layers and is_moving:
            raise ConfigError(
                "train.router_bias_rate must be 0 with lora.rank, for the router's bias belongs to "
                f"the frozen model; got {self.train.router_bias_rate:g} and train.router_balance = "
                f"{self.train.router_balance}; set them to 0 and sign"
            )

    def _check_frozen(self):
        frozen = self.optimizer.frozen
        if not frozen:
            return
        has_encoder = self.model.vision is not None or self.model.audio is not None
        if not has_encoder or self.lora.rank or len({*frozen}) == 3:
            raise ConfigError(
                "optimizer.frozen is for a model with model.vision or model.audio and without "
                f"lora.rank, of which some part is trained; got {', '.join(frozen)}"
            )
        is_moving = self.train.router_balance == "quantile" or self.train.router_bias_rate
        if "decoder" in frozen and self.model.num_moe_layers and is_moving:
            raise ConfigError(
                "train.router_bias_rate must be 0 where optimizer.frozen has the decoder, whose "
                f"bias it moves; got {self.train.router_bias_rate:g} and train.router_balance = "
                f"{self.train.router_balance}; set them to 0 and sign"
            )


def check_allowed(resume: ResumeConfig, known: Iterable[str]) -> None:
    """Raises ConfigError when resume.allow names a setting or group that is not `known`."""
    known = frozenset(known)
    for name in resume.allow:
        if name not in known:
            raise ConfigError(
                f"resume.allow names no setting or group {shown(name)}; nearest are "
                f"{fields.nearest(name, known, 3)}"
            )


def edited_paths(edits: Iterable[str]) -> list[str]:
    """The settings that `path=value` edits name."""
    return [text.partition("=")[0].strip() for text in edits]


def setting(config: Any, path: str) -> Any:
    """The value at `path`; None below a group that is None, or that a list does not have."""
    for name in path.split("."):
        if isinstance(config, tuple):
            config = next((one for one in config if one.name == name), None)
        else:
            config = None if config is None else getattr(config, name)
    return config
