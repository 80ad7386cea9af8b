"""Every number of every configuration has a range, and every value is checked when it is built."""

import dataclasses
import inspect
import math
import types
import typing
from typing import Annotated, Any

import numpy as np
import pytest

from kanana_jax import config
from kanana_jax.config import fields, ranges
from kanana_jax.model import presets

YARN = config.YarnConfig(factor=4.0, original_max_positions=8)
ARM = config.Arm(name="a", edits=())
EXPERIMENT = config.Experiment(
    name="test",
    question="?",
    model=dataclasses.replace(presets.tiny(), yarn=YARN, q_lora_rank=8),
    data=config.DataConfig(paths=("a.txt",), weights=(1.0,)),
    arms=(ARM,),
    lrs=(0.1,),
)


def below(group: Any) -> list[Any]:
    """`group` and the dataclasses in it."""
    inner = [value for value in vars(group).values() if dataclasses.is_dataclass(value)]
    return [group, *(one for value in inner for one in below(value))]


BUILT = {type(one): one for one in (*below(EXPERIMENT), ARM)}
HINTS = {kind: typing.get_type_hints(kind, include_extras=True) for kind in BUILT}


class Number(typing.NamedTuple):
    """A number that a field holds, alone or in a tuple."""

    owner: type
    field: str
    kind: Any
    constraints: tuple[Any, ...]
    in_tuple: bool

    def put(self, value: Any) -> Any:
        value = (value,) if self.in_tuple else value
        return dataclasses.replace(BUILT[self.owner], **{self.field: value})


def numbers() -> list[Number]:
    found = []

    def look(owner, field, kind, constraints=(), in_tuple=False):
        origin, args = typing.get_origin(kind), typing.get_args(kind)
        if origin is Annotated:
            look(owner, field, args[0], args[1:], in_tuple)
        elif origin in (types.UnionType, typing.Union, tuple):
            for inner in args:
                look(owner, field, inner, (), in_tuple or origin is tuple)
        elif kind in (int, float):
            found.append(Number(owner, field, kind, constraints, in_tuple))

    for owner, hints in HINTS.items():
        for field, kind in hints.items():
            look(owner, field, kind)
    return found


each_number = pytest.mark.parametrize(
    "number", [pytest.param(one, id=f"{one.owner.__name__}.{one.field}") for one in numbers()]
)


def test_every_configuration_is_tried():
    declared = inspect.getmembers(config, dataclasses.is_dataclass)
    own = {kind for _, kind in declared if kind.__module__ == config.__name__}
    assert own == set(BUILT) and len(numbers()) > 60


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
    may_be_none = type(None) in typing.get_args(HINTS[owner][field])
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
        (config.Experiment, {"arms": [ARM]}, "arms must be of type tuple"),
        (config.Experiment, {"arms": ("a",)}, r"arms\[0\] must be of type Arm"),
        (config.YarnConfig, {"beta_fast": 0.5}, "beta_fast must be at least beta_slow"),
    ],
)
def test_values_of_another_kind_are_refused_by_name(owner, changes, message):
    with pytest.raises(config.ConfigError, match=message):
        dataclasses.replace(BUILT[owner], **changes)


def test_an_int_may_stand_for_a_float():
    assert config.OptimizerConfig(lr=1).lr == 1


def test_names_are_those_of_settings_and_their_groups():
    names = fields.names(config.Experiment)
    assert {"seeds", "mesh", "optimizer.schedule.name", "model.yarn", "model.yarn.factor"} <= names
    assert not {"arms.name", "", "train.", "optimizer.schedule.name.x"} & names


@pytest.mark.parametrize("make", [lambda: "x" * 9999, lambda: ["a.txt"] * 999, lambda: 10**5000])
def test_a_value_is_shown_on_one_short_line(make):
    shown = fields.shown(make())
    assert len(shown) < 80 and len(shown.splitlines()) == 1


def test_a_long_list_is_shown_by_its_first_names():
    assert fields.some(["a", "b", "c"], 2) == "a, b and 1 more"
    assert len(fields.some(["x" * 999] * 500)) < 400


def test_the_known_part_of_a_path_is_a_setting_or_a_group():
    paths = ("train.num_steps", "train.gone", "model.yarn.gone.deeper", "gone.too")
    assert [config.known_part(path) for path in paths] == [
        "train.num_steps",
        "train",
        "model.yarn",
        "",
    ]
