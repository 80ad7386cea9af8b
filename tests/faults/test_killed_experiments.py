"""The experiments that `make kill-...` kills are short, and can be made."""

import importlib

import pytest

from kanana_jax.jobs import pipeline


@pytest.mark.parametrize("name", ("rewarded", "post_training", "three_stages"))
def test_it_can_be_made_and_saves_often(name):
    made = importlib.import_module(name).experiment()
    is_pipeline = isinstance(made, pipeline.Pipeline)
    trains = [one.base.train for one in made.stages] if is_pipeline else [made.train]
    assert sum(one.num_steps for one in trains) <= 400
    for one in trains:
        assert one.checkpoint_interval_steps < one.num_steps
