"""Every number of every configuration has a range, and every value is checked when it is built."""

import dataclasses
import importlib
import math
import pkgutil
import types
import typing
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from kanana_jax import config, jobs
from kanana_jax.config import fields, paths, ranges
from kanana_jax.jobs import (
    calibration,
    distillation,
    drawn_images,
    image_chats,
    on_policy_distillation,
    online_preference,
    pipeline,
    preference,
    pretrain,
    rejection,
    reward,
    rl,
    sft,
    sound_chats,
    spoken_load,
    sweep,
)
from kanana_jax.model import presets

# What annotations are made of: constraints, which are no settings.
CONSTRAINTS = {ranges.Range, paths.Location}


def declared() -> set[Any]:
    """Every dataclass of settings, and of what jobs are made of."""
    found = set()
    for package in (config, jobs):
        for one in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            members = vars(importlib.import_module(one.name)).values()
            found |= {kind for kind in members if isinstance(kind, type)}
    own = (config.__name__, jobs.__name__)
    found = {kind for kind in found if kind.__module__.rpartition(".")[0] in own}
    return set(filter(dataclasses.is_dataclass, found)) - CONSTRAINTS


def _training(kind: type, **blocks: Any) -> Any:
    model = dataclasses.replace(presets.tiny(), yarn=YARN, q_lora_rank=8)
    data = config.DataConfig(paths=("a.txt",), weights=(1.0,))
    return kind(name="test", question="?", model=model, data=data, **blocks)


GROUPED = {
    "q_lora_rank": None,
    "kv_lora_rank": None,
    "num_kv_heads": 2,
    "qk_nope_head_dim": 0,
    "v_head_dim": 16,
}
YARN = config.YarnConfig(factor=4.0, original_max_positions=8)
PART = config.StageConfig(name="part", tokens=2048, yarn=YARN)
PRETRAIN = _training(pretrain.Config)
ARM, AXIS = sweep.Arm(name="a"), sweep.Axis("optimizer.lr", (0.1,))
SWEEP = sweep.Sweep(base=PRETRAIN, arms=(ARM,), axes=(AXIS,))
STAGE = pipeline.Stage("first", PRETRAIN)
PIPELINE = pipeline.Pipeline(name="test", question="?", stages=(STAGE,))
KINDS = (config.TrainingConfig, config.StagedConfig, sft.Config, preference.Config)
ROLLOUTS = config.RolloutConfig(families=("products",))
TRAININGS = [
    *(_training(kind) for kind in KINDS),
    _training(rejection.Config, rejection=rejection.RejectionConfig(rollouts=ROLLOUTS)),
    _training(online_preference.Config, online=online_preference.OnlineConfig(rollouts=ROLLOUTS)),
    _training(calibration.Config, calibration=calibration.CalibrationConfig(rollouts=ROLLOUTS)),
    rl.Config(
        name="test",
        question="?",
        model=presets.tiny(),
        data=config.DataConfig(batch_size=256),
        rl=config.RLConfig(rollouts=ROLLOUTS),
    ),
    reward.Config(
        name="test", question="?", model=dataclasses.replace(presets.tiny(), scalar_head=True)
    ),
]


def below(group: Any) -> list[Any]:
    """`group` and the dataclasses in it."""
    inner = [value for value in vars(group).values() if dataclasses.is_dataclass(value)]
    return [group, *(one for value in inner for one in below(value))]


TAUGHT = (
    _training(distillation.Config),
    _training(
        on_policy_distillation.Config,
        on_policy=on_policy_distillation.OnPolicyConfig(rollouts=ROLLOUTS),
    ),
)
SURGERY = config.SurgeryConfig(grow=("stack=1",))
LLAMA3_ROPE = config.Llama3RopeConfig(factor=8.0, original_max_positions=8)
LORA = config.LoraConfig(rank=8)
LOAD = spoken_load.Config(name="test", question="?")
AUDIO = config.AudioConfig(hidden_size=8, num_layers=1, num_heads=2, intermediate_size=8)
VISION = config.VisionConfig(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16)
READER = drawn_images.Config(
    name="test",
    question="?",
    model=dataclasses.replace(presets.tiny(), vision=VISION),
    data=config.DataConfig(image_patches=8),
)
LOOKER = image_chats.Config(
    name="test", question="?", model=READER.model, data=config.DataConfig(image_patches=8)
)
HEARER = sound_chats.Config(
    name="test",
    question="?",
    model=dataclasses.replace(presets.tiny(), audio=AUDIO),
    data=config.DataConfig(sounds=2),
)
ALONE = (LLAMA3_ROPE, SURGERY, LORA, SWEEP, ARM, AXIS, PIPELINE, STAGE, PART, LOAD)
EXAMPLES = (READER, LOOKER, HEARER, *TRAININGS, *TAUGHT, *ALONE)
BUILT = {type(inner): inner for one in EXAMPLES for inner in below(one)}
HINTS = {kind: typing.get_type_hints(kind, include_extras=True) for kind in BUILT}


class Number(typing.NamedTuple):
    """A number that a field holds, alone or in a tuple."""

    owner: type
    field: str
    kind: Any
    constraints: tuple[Any, ...]
    in_tuple: bool
    may_be_a_word: bool

    def put(self, value: Any) -> Any:
        value = (value,) if self.in_tuple else value
        return dataclasses.replace(BUILT[self.owner], **{self.field: value})


def numbers() -> list[Number]:
    found = []

    def look(owner, field, kind, constraints=(), in_tuple=False, word=False):
        origin, args = typing.get_origin(kind), typing.get_args(kind)
        if origin is Annotated:
            look(owner, field, args[0], args[1:], in_tuple, word)
        elif origin in (types.UnionType, typing.Union, tuple):
            word = any(typing.get_origin(inner) is Literal for inner in args)
            for inner in args:
                look(owner, field, inner, (), in_tuple or origin is tuple, word)
        elif kind in (int, float):
            found.append(Number(owner, field, kind, constraints, in_tuple, word))

    for owner, hints in HINTS.items():
        for field, kind in hints.items():
            look(owner, field, kind)
    return found


each_number = pytest.mark.parametrize(
    "number", [pytest.param(one, id=f"{one.owner.__name__}.{one.field}") for one in numbers()]
)


def test_every_configuration_is_tried():
    assert declared() == set(BUILT)
    assert len(numbers()) > 60
    words = {(one.owner, one.field) for one in numbers() if one.may_be_a_word}
    assert words == {
        (config.ExecutionConfig, "loss_chunk_tokens"),
        (config.ExecutionConfig, "accumulation_steps"),
        *((config.LoraConfig, f"{role}_rank") for role in ("attention", "dense", "experts")),
        (config.LoraConfig, "shared_rank"),
    }


@each_number
def test_it_has_a_finite_range_with_a_reason(number):
    (found,) = number.constraints
    assert isinstance(found, ranges.Range)
    assert -math.inf < found.lower < found.upper < math.inf and found.why


@each_number
def test_what_lies_outside_is_refused_in_one_line(number):
    (found,) = number.constraints
    is_open = "(" in found.ends, ")" in found.ends
    if number.kind is int:
        outside = [found.lower - 1, found.upper + 1, 10**5000, -(10**5000)]
    else:
        outside = [
            found.lower if is_open[0] else math.nextafter(found.lower, -math.inf),
            found.upper if is_open[1] else math.nextafter(found.upper, math.inf),
            *(10**400, math.nan, math.inf, -math.inf),
        ]
    for value in (value for value in outside if value not in found.also):
        with pytest.raises(config.ConfigError, match=rf"{number.field}.* must lie in") as caught:
            number.put(value)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@each_number
def test_the_bounds_and_the_values_beside_belong_to_the_range(number):
    (found,) = number.constraints
    inside = [*found.also]
    inside += [found.lower] if found.ends[0] == "[" else [math.nextafter(found.lower, math.inf)]
    inside += [found.upper] if found.ends[1] == "]" else [math.nextafter(found.upper, -math.inf)]
    for value in inside:
        assert found(value, "name") == value
        try:
            number.put(value)
        except config.ConfigError as error:  # other settings may leave less
            assert f"must lie in {found}" not in str(error)


@each_number
def test_another_type_is_refused_in_one_line(number):
    wrong = ["1", "x" * 9999, True, [1], (1,), {}, 1j, np.zeros((9, 9)), np.int64(1)]
    wrong += [1.0] if number.kind is int else []
    for value in wrong:
        with pytest.raises(
            config.ConfigError, match=rf"{number.field}.* must be of type"
        ) as caught:
            number.put(value)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("owner", "field"), [(owner, field) for owner, hints in HINTS.items() for field in hints]
)
def test_no_field_takes_none_or_an_object_unless_it_may_be_none(owner, field):
    kinds = typing.get_args(HINTS[owner][field])
    if Any in kinds:
        assert (owner, field) == (sweep.Axis, "values")  # their setting judges them
    may_be_none = type(None) in kinds
    for value in (object(), *(() if may_be_none else (None,))):
        with pytest.raises(config.ConfigError, match=rf"{field} must be "):
            dataclasses.replace(BUILT[owner], **{field: value})


@pytest.mark.parametrize(
    ("owner", "changes", "message"),
    [
        (config.DataConfig, {"paths": ["a.txt"]}, "data.paths must be of type tuple, got"),
        (config.DataConfig, {"paths": "a.txt"}, "data.paths must be of type tuple, got 'a.txt'"),
        (config.DataConfig, {"paths": (1,)}, r"data.paths\[0\] must be of type str, got 1"),
        (config.OptimizerConfig, {"name": "sgd"}, "optimizer.name must be one of adamw, muon"),
        (config.OptimizerConfig, {"nesterov": 1}, "optimizer.nesterov must be of type bool"),
        (config.OptimizerConfig, {"schedule": {}}, "optimizer.schedule must be of type Schedule"),
        (config.ModelConfig, {"yarn": {}}, "model.yarn must be of type YarnConfig"),
        (sweep.Sweep, {"arms": [ARM]}, "arms must be of type tuple"),
        (sweep.Sweep, {"arms": ("a",)}, r"arms\[0\] must be of type Arm"),
        (sweep.Sweep, {"base": 3}, "base must be of type TrainingConfig"),
        (sweep.Arm, {"edits": "optimizer.tau=3"}, "arms.edits must be of type tuple"),
        (sweep.Axis, {"values": [0.1]}, "axes.values must be of type tuple"),
        (pipeline.Pipeline, {"stages": (PRETRAIN,)}, r"stages\[0\] must be of type Stage"),
        (config.ExecutionConfig, {"scan_layers": 1}, "type bool, got 1 of type int; or give auto"),
        (config.ExecutionConfig, {"scan_layers": "no"}, "scan_layers must be of type bool"),
        (config.ExecutionConfig, {"accumulation_steps": "all"}, "type int.*; or give auto"),
        (config.YarnConfig, {"beta_fast": 0.5}, "beta_fast must be at least beta_slow"),
        (config.Llama3RopeConfig, {"low_freq_factor": 4.0}, "low_freq_factor must be below high"),
        (
            config.ModelConfig,
            {"llama3_rope": LLAMA3_ROPE, "yarn": YARN},
            "yarn and .* exclude each other",
        ),
        (
            config.ModelConfig,
            {"norm_gain": "none", "zero_centered_gamma": True},
            "zero_centered_gamma is for norms that have a gain",
        ),
        (config.ModelConfig, {"num_kv_heads": 2}, "num_kv_heads must be None with kv_lora_rank"),
        (config.ModelConfig, {"qk_norm": True}, "qk_norm must be False with kv_lora_rank"),
        (config.ModelConfig, {"qk_nope_head_dim": 0}, "must be positive with kv_lora_rank, got 0"),
        (
            config.ModelConfig,
            GROUPED | {"q_lora_rank": 8},
            "q_lora_rank must be None without kv_lora",
        ),
        (config.ModelConfig, GROUPED | {"num_kv_heads": 3}, "must divide num_heads = 4 .*got 3"),
        (config.ModelConfig, GROUPED | {"num_kv_heads": None}, "num_heads = 4 .*got None"),
        (config.ModelConfig, GROUPED | {"qk_nope_head_dim": 8}, "qk_nope_head_dim must be 0 with"),
        (config.ModelConfig, GROUPED | {"v_head_dim": 8}, "v_head_dim must be 16 without kv_lora"),
    ],
)
def test_values_of_another_kind_are_refused_by_name(owner, changes, message):
    with pytest.raises(config.ConfigError, match=message):
        dataclasses.replace(BUILT[owner], **changes)


def test_an_int_may_stand_for_a_float():
    assert config.OptimizerConfig(lr=1).lr == 1


def test_names_are_those_of_settings_and_their_groups():
    names = config.setting_names(preference.Config)
    groups = {"mesh", "preference", "optimizer.schedule", "model.yarn", "resume"}
    settings = {"optimizer.schedule.name", "model.yarn.factor", "execution.scan_layers"}
    assert groups | settings | {"preference.beta", "profile.steps"} <= names
    assert not {"", "train.", "optimizer.schedule.name.x", "execution.scan_layers.x"} & names
    assert {"arms", "axes", "seeds", "base.mesh"} <= config.setting_names(sweep.Sweep)
    assert "arms.name" not in config.setting_names(sweep.Sweep)


@pytest.mark.parametrize("make", [lambda: "x" * 9999, lambda: ["a.txt"] * 999, lambda: 10**5000])
def test_a_value_is_shown_on_one_short_line(make):
    shown = fields.shown(make())
    assert len(shown) < 80 and len(shown.splitlines()) == 1


def test_a_long_list_is_shown_by_its_first_names():
    assert fields.some(["a", "b", "c"], 2) == "a, b and 1 more"
    assert len(fields.some(["x" * 999] * 500)) < 400
