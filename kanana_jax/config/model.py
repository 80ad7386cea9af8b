"""The shape of a decoder. How it is computed is `execution`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from kanana_jax.config import fields
from kanana_jax.config.audio import AudioConfig
from kanana_jax.config.fields import ConfigError
from kanana_jax.config.ranges import (
    Count,
    CountOrZero,
    Epsilon,
    Factor,
    Range,
    Rate,
    Width,
    WidthOrZero,
    expect_int32,
)
from kanana_jax.config.vision import VisionConfig

RopeTheta = Annotated[float, Range(1.0, 1e12, "angles shrink from pair to pair", "(]")]


@dataclass(frozen=True, kw_only=True)
class YarnConfig:
    """YaRN context extension (arXiv:2309.00071), with DeepSeek's two attention factors."""

    factor: Annotated[float, Range(1.0, 1e6, "the context is extended, not shortened")]
    original_max_positions: Count
    beta_fast: Factor = 32.0
    beta_slow: Factor = 1.0
    mscale: Annotated[float, Range(0.0, 1e3, "it scales logits")] = 1.0
    mscale_all_dim: Annotated[float, Range(0.0, 1e3, "it scales logits")] = 1.0

    def __post_init__(self):
        fields.check(self, "model.yarn")
        if self.beta_fast < self.beta_slow:
            raise ConfigError(
                "model.yarn.beta_fast must be at least beta_slow, got "
                f"{self.beta_fast} and {self.beta_slow}"
            )


@dataclass(frozen=True, kw_only=True)
class Llama3RopeConfig:
    """Context extension of Llama 3.1: slow rotary pairs turn `factor` times slower, fast ones as
    before, those between by a mix (see `model.rope`)."""

    factor: Annotated[float, Range(1.0, 1e6, "the context is extended, not shortened")]
    original_max_positions: Count
    low_freq_factor: Factor = 1.0  # turns over the original context, below which a pair is slow
    high_freq_factor: Factor = 4.0  # and above which it is fast

    def __post_init__(self):
        fields.check(self, "model.llama3_rope")
        if self.low_freq_factor >= self.high_freq_factor:
            raise ConfigError(
                "model.llama3_rope.low_freq_factor must be below high_freq_factor, got "
                f"{self.low_freq_factor} and {self.high_freq_factor}"
            )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of a decoder: latent or grouped-query attention, and dense or expert MLPs.

    With `kv_lora_rank` attention is multi-head latent attention (DeepSeek-V3). Without it, keys and
    values of `num_kv_heads` heads are projected from the hidden state, several query heads read one
    of them (Llama 3, Qwen 3), and all of a head is rotary.
    """

    vocab_size: CountOrZero  # 0: the tokenizer's
    hidden_size: Width
    num_layers: Annotated[int, Range(1, 2**16, "no stack is deeper")]
    num_dense_layers: CountOrZero  # leading layers whose MLP is dense
    num_heads: Width
    q_lora_rank: Width | None  # None: queries are projected from the hidden state directly
    kv_lora_rank: Width | None  # None: so are keys and values, for num_kv_heads heads
    qk_nope_head_dim: WidthOrZero
    qk_rope_head_dim: Width
    v_head_dim: Width
    num_kv_heads: Width | None = None  # a divisor of num_heads; None with kv_lora_rank
    qk_norm: bool = False  # RMSNorm of each query and key head, one gamma each for all heads
    intermediate_size: Width  # width of the dense layers' MLP
    moe_intermediate_size: WidthOrZero = 0  # width of one expert
    num_experts: WidthOrZero = 0
    num_experts_per_token: WidthOrZero = 0
    num_shared_experts: WidthOrZero = 0
    num_expert_groups: Width = 1
    num_groups_per_token: Width = 1
    norm_topk_prob: bool = True
    routed_scaling_factor: Factor = 1.0
    rope_theta: RopeTheta = 50_000.0
    yarn: YarnConfig | None = None
    llama3_rope: Llama3RopeConfig | None = None
    rms_norm_eps: Epsilon = 1e-5
    swiglu_clamp: Factor | None = None  # clips SwiGLU's inputs, DeepSeek-V4's is 10; None: no
    # What an RMSNorm multiplies by: a number for each entry, one for all, or nothing. Norms of
    # `qk_norm` always have a number for each.
    norm_gain: Literal["vector", "scalar", "none"] = "vector"
    zero_centered_gamma: bool = False  # norms multiply by 1 + gamma instead of gamma
    tie_embeddings: bool = False
    scalar_head: bool = False  # a vector next to the vocabulary's head: a reward model's
    init_std: Rate = 0.02
    vision: VisionConfig | None = None  # an encoder of images; None: the model reads none
    audio: AudioConfig | None = None  # an encoder of sounds; None: the model hears none

    def __post_init__(self):
        fields.check(self, "model")
        if self.qk_rope_head_dim % 2:
            raise ConfigError(f"model.qk_rope_head_dim must be even, got {self.qk_rope_head_dim}")
        if not 0 <= self.num_dense_layers <= self.num_layers:
            raise ConfigError(
                f"model.num_dense_layers must lie in [0, num_layers = {self.num_layers}], "
                f"got {self.num_dense_layers}"
            )
        if self.yarn is not None and self.llama3_rope is not None:
            raise ConfigError("model.yarn and model.llama3_rope exclude each other; give one")
        if self.norm_gain == "none" and self.zero_centered_gamma:
            raise ConfigError(
                "model.zero_centered_gamma is for norms that have a gain, got norm_gain none; give "
                "one of the two"
            )
        self._check_attention()
        head_dim = max(self.qk_head_dim, self.qk_nope_head_dim + self.v_head_dim)
        expect_int32("model.num_heads x size of a head", self.num_heads, head_dim)
        if self.num_moe_layers:
            self._check_experts()

    def _check_attention(self):
        kind, wanted = "with", {"num_kv_heads": None, "qk_norm": False}
        if self.kv_lora_rank is None:
            kind = "without"
            wanted = {"q_lora_rank": None, "qk_nope_head_dim": 0}
            wanted["v_head_dim"] = self.qk_rope_head_dim
        for name, value in wanted.items():
            if getattr(self, name) != value:
                raise ConfigError(
                    f"model.{name} must be {value} {kind} kv_lora_rank, got {getattr(self, name)}"
                )
        if self.kv_lora_rank is not None and not self.qk_nope_head_dim:
            raise ConfigError("model.qk_nope_head_dim must be positive with kv_lora_rank, got 0")
        if self.kv_lora_rank is None and self.num_heads % (self.num_kv_heads or self.num_heads + 1):
            raise ConfigError(
                f"model.num_kv_heads must divide num_heads = {self.num_heads} without "
                f"kv_lora_rank, got {self.num_kv_heads}"
            )

    def _check_experts(self):
        for name in ("moe_intermediate_size", "num_experts", "num_experts_per_token"):
            if not getattr(self, name):
                raise ConfigError(f"model.{name} must be positive where layers have experts, got 0")
        expect_int32(
            "model.num_shared_experts x moe_intermediate_size",
            self.num_shared_experts,
            self.moe_intermediate_size,
        )
        groups, kept = self.num_expert_groups, self.num_groups_per_token
        if self.num_experts % groups or not 1 <= kept <= groups:
            raise ConfigError(
                f"model.num_expert_groups must divide num_experts = {self.num_experts} and "
                f"num_groups_per_token must lie in [1, num_expert_groups]; got {groups}, {kept}"
            )
        reachable = kept * (self.num_experts // groups)
        if self.num_experts_per_token > reachable:
            raise ConfigError(
                f"model.num_experts_per_token must be at most {reachable}, the experts in groups "
                f"kept for one token; got {self.num_experts_per_token}"
            )

    @property
    def num_moe_layers(self) -> int:
        return self.num_layers - self.num_dense_layers

    @property
    def qk_head_dim(self) -> int:
        return self.qk_nope_head_dim + self.qk_rope_head_dim
