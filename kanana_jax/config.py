"""Experiment configuration: frozen dataclasses.

An experiment is a Python function that builds one `Experiment`; a variant is a function that edits
another. What a field may hold stands in its annotation and is checked when the dataclass is built.
Nothing here needs anything but the standard library.
"""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Literal

from kanana_jax import fields
from kanana_jax.edits import diff as diff
from kanana_jax.edits import edit as edit
from kanana_jax.edits import to_json as to_json
from kanana_jax.fields import ConfigError as ConfigError
from kanana_jax.fields import shown as shown
from kanana_jax.fields import some as some
from kanana_jax.paths import Location, folder_name
from kanana_jax.ranges import (
    INT32_MAX,
    SEED_MAX,
    Count,
    CountOrZero,
    Decay,
    Devices,
    Epsilon,
    Factor,
    LossWeight,
    Range,
    Rate,
    Seed,
    Width,
    WidthOrZero,
)

# Of a kernel; "auto" always works, the others raise where they cannot run.
Implementation = Literal["auto", "reference", "xla", "mosaic_gpu", "mosaic_tpu"]


def _expect_int32(what: str, *numbers: int) -> None:
    if math.prod(numbers) > INT32_MAX:
        raise ConfigError(
            f"{what} must be at most {INT32_MAX}, for it is counted in int32; got "
            f"{' x '.join(map(str, numbers))}"
        )


# Of a model's fields that say how it is computed, and nothing of what it is.
COMPUTING = {"of": "computing"}


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
class ModelConfig:
    """Shape of a DeepSeek-V3-family decoder: multi-head latent attention and mixture of experts."""

    vocab_size: CountOrZero  # 0: the tokenizer's
    hidden_size: Width
    num_layers: Annotated[int, Range(1, 2**16, "no stack is deeper")]
    num_dense_layers: CountOrZero  # leading layers whose MLP is dense
    num_heads: Width
    q_lora_rank: Width | None  # None: queries are projected from the hidden state directly
    kv_lora_rank: Width
    qk_nope_head_dim: Width
    qk_rope_head_dim: Width
    v_head_dim: Width
    intermediate_size: Width  # width of the dense layers' MLP
    moe_intermediate_size: WidthOrZero = 0  # width of one expert
    num_experts: WidthOrZero = 0
    num_experts_per_token: WidthOrZero = 0
    num_shared_experts: WidthOrZero = 0
    num_expert_groups: Width = 1
    num_groups_per_token: Width = 1
    norm_topk_prob: bool = True
    routed_scaling_factor: Factor = 1.0
    rope_theta: Annotated[float, Range(1.0, 1e12, "angles shrink from pair to pair", "(]")] = (
        50_000.0
    )
    yarn: YarnConfig | None = None
    rms_norm_eps: Epsilon = 1e-5
    zero_centered_gamma: bool = False  # RMSNorm multiplies by 1 + gamma instead of gamma
    tie_embeddings: bool = False
    init_std: Rate = 0.02
    compute_dtype: Literal["float32", "bfloat16"] = field(default="bfloat16", metadata=COMPUTING)
    remat: Literal["none", "dots", "full"] = field(default="none", metadata=COMPUTING)
    # One compiled block for all layers. False, for few layers: none is copied out of a stack, and
    # backward needs less memory, but the time to compile grows with their number.
    scan_layers: bool = field(default=True, metadata=COMPUTING)
    attention_implementation: Implementation = field(default="auto", metadata=COMPUTING)
    grouped_matmul_implementation: Implementation = field(default="auto", metadata=COMPUTING)
    # How tokens reach the experts of other devices: all-gathered, or each to its experts' devices
    # only, as "auto" does on TPUs where model/exchange.py finds that it saves half the bytes.
    expert_exchange: Literal["auto", "gather", "ragged"] = field(default="auto", metadata=COMPUTING)
    # On a GPU too, runs repeat bit for bit; costs some speed there.
    deterministic: bool = field(default=False, metadata=COMPUTING)

    def __post_init__(self):
        fields.check(self, "model")
        if self.qk_rope_head_dim % 2:
            raise ConfigError(f"model.qk_rope_head_dim must be even, got {self.qk_rope_head_dim}")
        if not 0 <= self.num_dense_layers <= self.num_layers:
            raise ConfigError(
                f"model.num_dense_layers must lie in [0, num_layers = {self.num_layers}], "
                f"got {self.num_dense_layers}"
            )
        head_dim = max(self.qk_head_dim, self.qk_nope_head_dim + self.v_head_dim)
        _expect_int32("model.num_heads x size of a head", self.num_heads, head_dim)
        if self.num_moe_layers:
            self._check_experts()

    def _check_experts(self):
        for name in ("moe_intermediate_size", "num_experts", "num_experts_per_token"):
            if not getattr(self, name):
                raise ConfigError(f"model.{name} must be positive where layers have experts, got 0")
        _expect_int32(
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


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to train on. With no paths: the sources and documentation of the running Python."""

    # Files, globs or URLs; each entry is one source of the mixture.
    paths: tuple[Annotated[str, Location(schemes=None)], ...] = ()
    # One per path; empty: in proportion to tokens.
    weights: tuple[Annotated[float, Range(1e-9, 1e9, "sources are drawn by ratio")], ...] = ()
    text_field: str = "text"  # the key or column of records; a dot leads into one: "message.text"
    skip_bad_lines: bool = False  # leave out records that cannot be used, and count them
    # "bytes", "bpe" (trained on the corpus), or a tokenizer.json
    tokenizer: Annotated[str, Location(schemes=None)] = "bytes"
    bpe_vocab_size: Annotated[int, Range(258, 2**24, "256 bytes and two special tokens")] = 8192
    seq_len: Count = 256
    batch_size: Count = 8  # sequences per optimizer step, over all devices and micro-batches
    # Share of documents kept for evaluation.
    heldout_fraction: Annotated[float, Range(1e-9, 1.0, "some on both sides", "[)")] = 0.02
    # Stop reading a source after this many bytes of text; 0: read all.
    max_bytes: Annotated[int, Range(0, 2**63 - 1, "bytes of a file")] = 0
    seed: Seed = 0
    # Token stores and tokenizers; empty: <workdir>/cache.
    cache_dir: Annotated[str, Location(may_be_empty=True)] = ""

    def __post_init__(self):
        fields.check(self, "data")
        _expect_int32("data.batch_size x seq_len", self.batch_size, self.seq_len)
        if self.weights and len(self.weights) != len(self.paths):
            raise ConfigError(
                f"data.weights needs one weight per path: got {len(self.weights)} weights "
                f"for {len(self.paths)} paths"
            )


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


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """One of AdamW, Muon and MuonClip. Embeddings, head, norms and biases always use AdamW."""

    name: Literal["adamw", "muon", "muonclip"] = "muonclip"
    lr: Rate = 1e-3  # peak; Muon's updates are scaled to AdamW's RMS, so both share it
    weight_decay: Annotated[float, Range(0.0, 1e3, "a share per step, times lr")] = 0.1
    momentum: Decay = 0.95
    nesterov: bool = True
    polar: Literal["newton_schulz", "polar_express"] = "polar_express"
    polar_steps: Annotated[int, Range(1, 100, "each is compiled")] = 5
    # "auto": float16 on GPUs, more exact there and with fewer passes over memory, else bfloat16.
    polar_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    polar_implementation: Implementation = "auto"  # of its products with a symmetric result
    shape_scale: Literal["moonlight", "keller_jordan", "spectral", "none"] = "moonlight"
    split: Literal["none", "parts", "heads"] = "parts"  # what counts as one matrix in attention
    router: Literal["adamw", "muon"] = "adamw"
    tau: Factor = 100.0  # QK-Clip: largest max attention logit that is left alone
    b1: Decay = 0.9
    b2: Decay = 0.95
    eps: Epsilon = 1e-8
    schedule: ScheduleConfig = ScheduleConfig()

    def __post_init__(self):
        fields.check(self, "optimizer")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length, losses, and how often to look and save."""

    num_steps: Count = 1000
    # Folder of a converted model to start from, which then gives the shape.
    init_from: Annotated[str, Location(may_be_empty=True)] = ""
    accumulation_steps: Count = 1  # micro-batches per optimizer step
    seed: Seed = 0
    z_loss_weight: LossWeight = 5e-6
    balance_loss_weight: LossWeight = 1e-4  # sequence-level, arXiv:2412.19437 eq. 17
    # Step of the auxiliary-loss-free balancing bias.
    router_bias_rate: Annotated[float, Range(0.0, 1.0, "scores lie in [0, 1]")] = 1e-3
    eval_interval_steps: Count = 100
    eval_batches: Count = 8
    diagnostics_interval_steps: Count = 20  # spectral norms and orthogonality error
    checkpoint_interval_steps: Count = 100
    keep_checkpoints: Count = 2
    # A folder, gs://bucket/prefix or s3://...; empty: the run's folder.
    checkpoint_dir: Annotated[str, Location(schemes=("gs", "s3"), may_be_empty=True)] = ""
    loss_chunk_tokens: Count = 4096  # a device forms the logits of this many tokens at a time

    def __post_init__(self):
        fields.check(self, "train")


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """What becomes of steps whose loss, gradient or update cannot be trusted.

    They change no weight. After `max_skips` in a row the run goes back to its last checkpoint and
    leaves the data of the steps in between out; after `max_rewinds` of these it ends as diverged.
    """

    enabled: bool = True  # false: the first loss that is not finite ends the run as diverged
    # Gradient norms of accepted steps by which a spike is judged.
    window_steps: Annotated[int, Range(1, 10**6, "they are kept on the device")] = 128
    num_sigmas: Factor = 6.0  # a spike is this far above their mean
    max_skips: Count = 3
    max_rewinds: CountOrZero = 3
    # An event when a max attention logit passes it.
    max_logit_alarm: Annotated[float, Range(1e-30, 1e30, "float32 holds it")] = 1000.0

    def __post_init__(self):
        fields.check(self, "guard")


@dataclass(frozen=True, kw_only=True)
class ResumeConfig:
    """Continuing a run with other settings than it was begun with."""

    allow: tuple[str, ...] = ()  # settings or groups that may differ, e.g. train.num_steps,mesh
    restart: bool = False  # from the first step, where the checkpoints that were made are gone

    def __post_init__(self):
        fields.check(self, "resume")


BATCH_AXES = ("data", "fsdp", "expert")  # the mesh axes over which a batch's sequences are spread


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each mesh axis. -1 (one axis at most) takes the devices that are left."""

    data: Devices = -1
    fsdp: Devices = 1
    expert: Devices = 1
    context: Devices = 1
    tensor: Devices = 1
    # Parts of the machine joined by a slower network; divides data.
    num_slices: Annotated[int, Range(1, 2**20, "no machine has more devices")] = 1

    def __post_init__(self):
        fields.check(self, "mesh")
        open_axes = [name for name, size in vars(self).items() if size == -1]
        if len(open_axes) > 1:
            raise ConfigError(f"at most one mesh axis may be -1, got {', '.join(open_axes)}")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One contestant of a comparison: a name and the `path=value` edits that make it."""

    name: str
    edits: tuple[str, ...]
    lrs: tuple[Rate, ...] = ()  # rates that it alone runs at, besides those of the sweep

    def __post_init__(self):
        fields.check(self, "arms")
        if not self.name.strip() or not self.name.isprintable():
            raise ConfigError(
                f"an arm's name must have characters that can be seen, and no others; "
                f"got {shown(self.name)}"
            )


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that decides a result. With `arms`, every arm runs at every rate and seed."""

    name: Annotated[str, folder_name]
    question: str
    model: ModelConfig
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    guard: GuardConfig = GuardConfig()
    mesh: MeshConfig = MeshConfig()
    resume: ResumeConfig = ResumeConfig()
    arms: tuple[Arm, ...] = ()
    lrs: tuple[Rate, ...] = ()  # the sweep of a comparison, base rate first
    seeds: Annotated[int, Range(1, 10_000, "each is a run")] = 1

    def __post_init__(self):
        fields.check(self, "")
        self._check_seeds()
        self._check_batch()
        self._check_schedule()
        known = fields.names(Experiment)
        for name in self.resume.allow:
            if name not in known:
                raise ConfigError(
                    f"resume.allow names no setting or group {shown(name)}; nearest are "
                    f"{fields.nearest(name, known, 3)}"
                )

    def _check_seeds(self):
        for name, first in (("train.seed", self.train.seed), ("data.seed", self.data.seed)):
            last = first + self.seeds - 1
            if last > SEED_MAX:
                raise ConfigError(
                    f"{name} + seeds - 1 must be at most {SEED_MAX}, the last seed of JAX; got "
                    f"{last}"
                )

    def _check_batch(self):
        batch_size, parts = self.data.batch_size, self.train.accumulation_steps
        if batch_size % parts:
            raise ConfigError(
                f"train.accumulation_steps must divide data.batch_size = {batch_size}, got {parts}"
            )
        _expect_int32(
            "data.batch_size / train.accumulation_steps x data.seq_len x num_experts_per_token",
            *(batch_size // parts, self.data.seq_len, max(self.model.num_experts_per_token, 1)),
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


def known_part(path: str) -> str:
    """The setting at `path`, or the innermost group around it that experiments have; else ""."""
    while path and path not in fields.names(Experiment):
        path = path.rpartition(".")[0]
    return path


def edit_experiment(exp: Experiment, edits: Iterable[str]) -> Experiment:
    """`edit`, refusing settings that the arms or the sweep would silently override.

    `lrs=...` replaces the rates of single arms too.
    """
    edits = list(edits)
    if "lrs" in edited_paths(edits):
        arms = tuple(dataclasses.replace(arm, lrs=()) for arm in exp.arms)
        exp = dataclasses.replace(exp, arms=arms)
    edited = edit(exp, edits)
    of_arms = [(arm, edit_arm(edited, arm)) for arm in edited.arms]
    for path in edited_paths(edits):
        if path == "optimizer.lr" and set(edited.lrs) - {edited.optimizer.lr}:
            raise ConfigError(f"{path} is what lrs sweeps; set lrs=...")
        wanted = setting(edited, path)
        for arm, its in of_arms:
            if setting(its, path) != wanted:
                raise ConfigError(
                    f"{path} is what the arms compare: got {wanted}, and arm {arm.name!r} has "
                    f"{setting(its, path)}; change the arms in the experiment's function"
                )
    return edited


def edit_arm(exp: Experiment, arm: Arm) -> Experiment:
    """`exp` with the edits of `arm`; a ConfigError names the arm."""
    try:
        return edit(exp, arm.edits)
    except ConfigError as error:
        raise ConfigError(f"arm {arm.name!r}: {error}") from error


def edited_paths(edits: Iterable[str]) -> list[str]:
    """The settings that `path=value` edits name."""
    return [text.partition("=")[0].strip() for text in edits]


def setting(config: object, path: str) -> object:
    """The value at `path`; None below a group that is None."""
    for name in path.split("."):
        config = None if config is None else getattr(config, name)
    return config


def single_run(exp: Experiment, *, lr: float, seed: int) -> Experiment:
    """One training run of a comparison, before the edits of its arm.

    The seed moves initialisation and the order of the data.
    """
    return dataclasses.replace(
        exp,
        arms=(),
        lrs=(),
        seeds=1,
        optimizer=dataclasses.replace(exp.optimizer, lr=lr),
        train=dataclasses.replace(exp.train, seed=seed),
        data=dataclasses.replace(exp.data, seed=exp.data.seed + seed - exp.train.seed),
    )
