"""Answers of training: weights stay where they lie if they can, and answers are alike."""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_jobs

from kanana_jax import config, parallel
from kanana_jax.data import tokenizer
from kanana_jax.generate import Request, Sampling
from kanana_jax.generate.unstacked import UnstackedWeights
from kanana_jax.jobs import sampling, training
from kanana_jax.train import step_functions

PLACE = sampling.Place(num_rows=6, length=40, with_routes=True)


@functools.lru_cache
def _built(**axes):
    """Steps on a mesh of these axes, and weights there: the same on every mesh."""
    cfg = tiny_jobs.pretraining(Path("unused.txt"))
    cfg = dataclasses.replace(cfg, mesh=config.MeshConfig(**axes))
    mesh = parallel.make_mesh(cfg.mesh, jax.devices()[: int(np.prod(list(axes.values())))])
    step = tiny_jobs.step_config(cfg)
    steps = step_functions.build(step, mesh)
    weights = _built(data=1)[1] if axes != {"data": 1} else steps.weights(0)
    if axes != {"data": 1}:
        shardings = jax.tree.map(lambda x: x.sharding, steps.like.weights)
        weights = jax.device_put(jax.tree.map(np.asarray, weights), shardings)
    return training.Built(mesh, steps, step.objective), weights


def _answers(built, weights, version=0):
    requests = [
        Request(prompt=prompt, max_tokens=9, sampling=Sampling(seed=seed))
        for seed, prompt in enumerate([[1, 2, 3]] * 4 + [[7] * 20] * 3 + [[9]])
    ]
    decode = tokenizer.byte_tokenizer().decode
    return sampling.of(weights, built, decode, None, PLACE, version)(requests)


@pytest.mark.parametrize("axes", [{"data": 1}, {"data": 2, "expert": 2}, {"data": 1, "tensor": 2}])
def test_one_process_hands_its_weights_over_without_a_copy(axes):
    built, weights = _built(**axes)
    handed = sampling.hand_over(weights, built.steps.cfg, built.mesh)
    assert handed.weights is weights
    assert (handed.mesh is None) == (built.mesh.size == 1)
    assert handed.num_parts == axes["data"] * axes.get("expert", 1)


def test_what_every_token_would_have_to_gather_is_copied_to_one_device():
    built, weights = _built(data=1, fsdp=2)
    handed = sampling.hand_over(weights, built.steps.cfg, built.mesh)
    assert isinstance(handed.weights, UnstackedWeights)
    assert (handed.mesh, handed.num_parts) == (None, 1)
    assert {len(x.sharding.device_set) for x in jax.tree.leaves(handed.weights)} == {1}


@pytest.mark.parametrize("axes", [{"data": 2, "expert": 2}, {"data": 1, "fsdp": 2}])
@pytest.mark.long
def test_answers_are_alike_wherever_the_weights_lie(axes):
    want = _answers(*_built(data=1), version=4)
    got = _answers(*_built(**axes), version=4)
    assert [one.ids for one in got] == [one.ids for one in want]
    assert {version for one in got for version in one.versions} == {4}
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one.logps, other.logps, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(one.routes, other.routes)
