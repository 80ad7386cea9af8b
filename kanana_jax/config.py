"""Experiment configuration: frozen dataclasses.

An experiment is a Python function that builds one `Experiment`; a variant is a function that edits
another. Nothing here needs anything but the standard library.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from kanana_jax.edits import ConfigError as ConfigError
from kanana_jax.edits import diff as diff
from kanana_jax.edits import edit as edit
from kanana_jax.edits import to_json as to_json

# Of a kernel; "auto" always works, the others raise where they cannot run.
Implementation = Literal["auto", "reference", "xla", "mosaic_gpu", "mosaic_tpu"]


def _positive(config, *names: str):
    for name in names:
        if not 0 < getattr(config, name) < float("inf"):
            raise ConfigError(
                f"{type(config).__name__}.{name} must be positive, got {getattr(config, name)}"
            )


@dataclass(frozen=True, kw_only=True)
class YarnConfig:
    """YaRN context extension (arXiv:2309.00071), with DeepSeek's two attention factors."""

    factor: float
    original_max_positions: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of a DeepSeek-V3-family decoder: multi-head latent attention and mixture of experts."""

    vocab_size: int  # 0: the tokenizer's
    hidden_size: int
    num_layers: int
    num_dense_layers: int  # leading layers whose MLP is dense
    num_heads: int
    q_lora_rank: int | None  # None: queries are projected from the hidden state directly
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    intermediate_size: int  # width of the dense layers' MLP
    moe_intermediate_size: int = 0  # width of one expert
    num_experts: int = 0
    num_experts_per_token: int = 0
    num_shared_experts: int = 0
    num_expert_groups: int = 1
    num_groups_per_token: int = 1
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    rope_theta: float = 50_000.0
    yarn: YarnConfig | None = None
    rms_norm_eps: float = 1e-5
    zero_centered_gamma: bool = False  # RMSNorm multiplies by 1 + gamma instead of gamma
    tie_embeddings: bool = False
    init_std: float = 0.02
    compute_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    remat: Literal["none", "dots", "full"] = "none"
    # One compiled block for all layers. False, for few layers: none is copied out of a stack, and
    # backward needs less memory, but the time to compile grows with their number.
    scan_layers: bool = True
    attention_implementation: Implementation = "auto"
    grouped_matmul_implementation: Implementation = "auto"
    # How tokens reach the experts of other devices: all-gathered, or each to its experts' devices
    # only, as "auto" does on TPUs where model/exchange.py finds that it saves half the bytes.
    expert_exchange: Literal["auto", "gather", "ragged"] = "auto"
    deterministic: bool = False  # on a GPU too, runs repeat bit for bit; costs some speed there

    def __post_init__(self):
        if self.vocab_size < 0:
            raise ConfigError(f"vocab_size must not be negative, got {self.vocab_size}")
        _positive(
            self,
            "hidden_size",
            "num_layers",
            "num_heads",
            "kv_lora_rank",
            "qk_nope_head_dim",
            "qk_rope_head_dim",
            "v_head_dim",
            "intermediate_size",
        )
        if self.q_lora_rank is not None:
            _positive(self, "q_lora_rank")
        if self.qk_rope_head_dim % 2:
            raise ConfigError(f"qk_rope_head_dim must be even, got {self.qk_rope_head_dim}")
        if not 0 <= self.num_dense_layers <= self.num_layers:
            raise ConfigError(
                f"num_dense_layers must lie in [0, num_layers = {self.num_layers}], "
                f"got {self.num_dense_layers}"
            )
        if self.num_moe_layers:
            self._check_experts()

    def _check_experts(self):
        _positive(self, "moe_intermediate_size", "num_experts", "num_experts_per_token")
        groups, kept = self.num_expert_groups, self.num_groups_per_token
        if self.num_experts % groups or not 1 <= kept <= groups:
            raise ConfigError(
                f"num_expert_groups must divide num_experts = {self.num_experts} and "
                f"num_groups_per_token must lie in [1, num_expert_groups]; got {groups}, {kept}"
            )
        reachable = kept * (self.num_experts // groups)
        if self.num_experts_per_token > reachable:
            raise ConfigError(
                f"num_experts_per_token must be at most {reachable}, the experts in the groups "
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

    paths: tuple[str, ...] = ()  # files or globs; each entry is one source of the mixture
    weights: tuple[float, ...] = ()  # one per path; empty: in proportion to tokens
    text_field: str = "text"  # the key or column of records; a dot leads into one: "message.text"
    skip_bad_lines: bool = False  # leave out records that cannot be used, and count them
    tokenizer: str = "bytes"  # "bytes", "bpe" (trained on the corpus), or a tokenizer.json
    bpe_vocab_size: int = 8192
    seq_len: int = 256
    batch_size: int = 8  # sequences per optimizer step, over all devices and micro-batches
    heldout_fraction: float = 0.02  # share of documents kept for evaluation
    max_bytes: int = 0  # stop reading a source after this many bytes of text; 0: read all
    seed: int = 0
    cache_dir: str = ""  # token stores and tokenizers; empty: <workdir>/cache

    def __post_init__(self):
        _positive(self, "seq_len", "batch_size", "bpe_vocab_size")
        if not 0.0 < self.heldout_fraction < 1.0:
            raise ConfigError(f"heldout_fraction must lie in (0, 1), got {self.heldout_fraction}")
        if self.weights and len(self.weights) != len(self.paths):
            raise ConfigError(
                f"data.weights needs one weight per path: got {len(self.weights)} weights "
                f"for {len(self.paths)} paths"
            )
        if any(weight <= 0 for weight in self.weights):
            raise ConfigError(f"data.weights must be positive, got {self.weights}")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Learning rate against step, as a multiple of the peak."""

    name: Literal["constant", "cosine", "wsd"] = "wsd"
    warmup_steps: int = 0
    decay_steps: int = 0  # wsd only: length of the final decay
    final_ratio: float = 0.0  # wsd and cosine: where the decay ends

    def __post_init__(self):
        if self.warmup_steps < 0 or self.decay_steps < 0 or not 0.0 <= self.final_ratio <= 1.0:
            raise ConfigError(
                f"schedule lengths must not be negative, final_ratio in [0, 1]: {self}"
            )
        if self.decay_steps and self.name != "wsd":
            raise ConfigError(
                f"only wsd has decay_steps; set optimizer.schedule.decay_steps=0 for {self.name}"
            )


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """One of AdamW, Muon and MuonClip. Embeddings, head, norms and biases always use AdamW."""

    name: Literal["adamw", "muon", "muonclip"] = "muonclip"
    lr: float = 1e-3  # peak; Muon's updates are scaled to AdamW's RMS, so both share it
    weight_decay: float = 0.1
    momentum: float = 0.95
    nesterov: bool = True
    polar: Literal["newton_schulz", "polar_express"] = "polar_express"
    polar_steps: int = 5
    # "auto": float16 on GPUs, more exact there and with fewer passes over memory, else bfloat16.
    polar_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    polar_implementation: Implementation = "auto"  # of its products with a symmetric result
    shape_scale: Literal["moonlight", "keller_jordan", "spectral", "none"] = "moonlight"
    split: Literal["none", "parts", "heads"] = "parts"  # what counts as one matrix in attention
    router: Literal["adamw", "muon"] = "adamw"
    tau: float = 100.0  # QK-Clip: largest max attention logit that is left alone
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    schedule: ScheduleConfig = ScheduleConfig()

    def __post_init__(self):
        _positive(self, "lr", "polar_steps", "tau", "eps")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length, losses, and how often to look and save."""

    num_steps: int = 1000
    init_from: str = ""  # folder of a converted model to start from, which then gives the shape
    accumulation_steps: int = 1  # micro-batches per optimizer step
    seed: int = 0
    z_loss_weight: float = 5e-6
    balance_loss_weight: float = 1e-4  # sequence-level, arXiv:2412.19437 eq. 17
    router_bias_rate: float = 1e-3  # step of the auxiliary-loss-free balancing bias
    eval_interval_steps: int = 100
    eval_batches: int = 8
    diagnostics_interval_steps: int = 20  # spectral norms and orthogonality error
    checkpoint_interval_steps: int = 100
    keep_checkpoints: int = 2
    checkpoint_dir: str = ""  # a folder, gs://bucket/prefix or s3://...; empty: the run's folder
    loss_chunk_tokens: int = 4096  # a device forms the head's logits of this many tokens at a time

    def __post_init__(self):
        _positive(
            self,
            "num_steps",
            "accumulation_steps",
            "eval_interval_steps",
            "eval_batches",
            "diagnostics_interval_steps",
            "checkpoint_interval_steps",
            "keep_checkpoints",
            "loss_chunk_tokens",
        )
        scheme, separator, rest = self.checkpoint_dir.partition("://")
        if separator and (scheme not in ("gs", "s3") or not rest.partition("/")[0]):
            raise ConfigError(
                "train.checkpoint_dir must be a folder, gs://bucket/prefix or s3://bucket/prefix, "
                f"got {self.checkpoint_dir!r}"
            )


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """What becomes of steps whose loss, gradient or update cannot be trusted.

    They change no weight. After `max_skips` in a row the run goes back to its last checkpoint and
    leaves the data of the steps in between out; after `max_rewinds` of these it ends as diverged.
    """

    enabled: bool = True  # false: the first loss that is not finite ends the run as diverged
    window_steps: int = 128  # gradient norms of accepted steps by which a spike is judged
    num_sigmas: float = 6.0  # a spike is this far above their mean
    max_skips: int = 3
    max_rewinds: int = 3
    max_logit_alarm: float = 1000.0  # an event when a max attention logit passes it

    def __post_init__(self):
        _positive(self, "window_steps", "num_sigmas", "max_skips", "max_logit_alarm")
        if self.max_rewinds < 0:
            raise ConfigError(f"guard.max_rewinds must not be negative, got {self.max_rewinds}")


@dataclass(frozen=True, kw_only=True)
class ResumeConfig:
    """Continuing a run with other settings than it was begun with."""

    allow: tuple[str, ...] = ()  # settings or groups that may differ, e.g. train.num_steps,mesh


BATCH_AXES = ("data", "fsdp", "expert")  # the mesh axes over which a batch's sequences are spread


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each mesh axis. -1 (one axis at most) takes the devices that are left."""

    data: int = -1
    fsdp: int = 1
    expert: int = 1
    context: int = 1
    tensor: int = 1
    num_slices: int = 1  # parts of the machine joined by a slower network; divides data


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One contestant of a comparison: a name and the `path=value` edits that make it."""

    name: str
    edits: tuple[str, ...]
    lrs: tuple[float, ...] = ()  # rates that it alone runs at, besides those of the sweep


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that decides a result. With `arms`, every arm runs at every rate and seed."""

    name: str
    question: str
    model: ModelConfig
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    guard: GuardConfig = GuardConfig()
    mesh: MeshConfig = MeshConfig()
    resume: ResumeConfig = ResumeConfig()
    arms: tuple[Arm, ...] = ()
    lrs: tuple[float, ...] = ()  # the sweep of a comparison, base rate first
    seeds: int = 1

    def __post_init__(self):
        schedule, last = self.optimizer.schedule, self.train.num_steps
        needed = schedule.warmup_steps + schedule.decay_steps
        if schedule.name != "constant" and needed > last:
            raise ConfigError(
                f"optimizer.schedule needs warmup_steps + decay_steps = {schedule.warmup_steps} + "
                f"{schedule.decay_steps} steps, got train.num_steps = {last}; shorten them or "
                "train longer"
            )


def edit_experiment(exp: Experiment, edits: Iterable[str]) -> Experiment:
    """`edit`, refusing settings that the arms or the sweep would silently override.

    `lrs=...` replaces the rates of single arms too.
    """
    edits = list(edits)
    if any(edit.partition("=")[0].strip() == "lrs" for edit in edits):
        arms = tuple(dataclasses.replace(arm, lrs=()) for arm in exp.arms)
        exp = dataclasses.replace(exp, arms=arms)
    swept = {edit.partition("=")[0] for arm in exp.arms for edit in arm.edits}
    if exp.arms:
        swept |= {"optimizer.lr"}
    for path in (text.partition("=")[0].strip() for text in edits):
        if path in swept:
            raise ConfigError(f"{path} is what the arms compare; for rates set lrs=...")
    return edit(exp, edits)


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
