"""Settings that do nothing here: which values are accepted, and that all others are named."""

import json

import pytest

from kanana_jax.config import ConfigError
from kanana_jax.generate import neutral
from kanana_jax.generate.sampling import Sampling

VALUES = [0, 1, -1, 2.5, 10**20, True, False, "", "x", "none", [], [1], {}, {"x": 1}, ["text"]]
TABLES = {
    "generation": neutral.GENERATION,
    "completion": neutral.COMPLETION,
    "chat": neutral.CHAT,
    "message": neutral.MESSAGE,
}
EXAMPLES = {str: ["", "x"], dict: [{}, {"a": "b"}], bool: [True, False]}
ENTRIES = [(table, name) for table in TABLES for name in TABLES[table]]


def accepted_values(table, name):
    accepted = table[name]
    return EXAMPLES[accepted] if isinstance(accepted, type) else list(accepted)


@pytest.mark.parametrize(("table", "name"), ENTRIES)
def test_only_values_that_ask_for_nothing_are_accepted(table, name):
    accepted = accepted_values(TABLES[table], name)
    for value in [None, *accepted]:
        assert neutral.find_other({name: value}, TABLES[table]) is None, value
    same = {json.dumps(value) for value in accepted}
    kinds = tuple(EXAMPLES)
    for value in VALUES:
        is_of_kind = TABLES[table][name] in kinds and type(value) is TABLES[table][name]
        if json.dumps(value) not in same and not is_of_kind:
            assert neutral.find_other({name: value}, TABLES[table])[0] == name, value


def test_a_float_may_stand_for_a_whole_number_and_a_bool_may_not():
    for value, other in ((0.0, None), (-0.0, None), (False, ("priority", "0"))):
        assert neutral.find_other({"priority": value}, neutral.CHAT) == other


def test_an_unknown_field_is_told_apart_and_the_first_by_name_is_taken():
    assert neutral.find_other({"x": 1, "b": 1, "echo": True}, neutral.CHAT) == ("b", None)


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({}, Sampling()),
        ({"do_sample": False}, Sampling(temperature=0.0)),
        ({"do_sample": False, "temperature": 0.7, "num_beams": 1}, Sampling(temperature=0.0)),
        ({"do_sample": True, "top_k": -1}, Sampling(top_k=-1)),
        ({"do_sample": True, "top_k": None, "repetition_penalty": 1.0}, Sampling()),
        (
            {"temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1, "seed": 5},
            Sampling(temperature=0.5, top_k=3, top_p=0.9, min_p=0.1, seed=5),
        ),
    ],
)
def test_transformers_settings_become_a_sampling_for_each_place(options, want):
    assert neutral.to_sampling(options, place=0) == want
    assert neutral.to_sampling(options, place=3).seed == want.seed + 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 4}, "num_beams = 4 is not supported: expected 1"),
        ({"repetition_penalty": 1.2}, "repetition_penalty = 1.2 is not supported"),
        ({"temprature": 1.0}, "temprature = 1.0 is not supported: expected nothing"),
        ({"top_k": -2}, "top_k must be an integer >= -1, got -2"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        neutral.to_sampling(options, place=0)
