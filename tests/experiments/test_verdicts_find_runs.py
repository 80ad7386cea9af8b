"""Every verdict finds the runs that its experiment makes, under the names that these get."""

import json
from pathlib import Path

import numpy as np
import pytest

from kanana_jax import config, main
from kanana_jax.jobs import pipeline
from kanana_jax.report import results, stages
from kanana_jax.report.metrics import Series

pytestmark = pytest.mark.slow


class _All(dict):
    """A result in which every number was measured."""

    def get(self, key, default=None):
        return 0.5


class _Series(dict):
    def get(self, key, default=None):
        sequences = (4,) if key.startswith(("heldout_nats", "heldout_bytes")) else ()
        return Series(np.arange(2), np.full((2, *sequences), 0.5))


def _made(stage, run):
    """What a stage's run leaves, with every metric recorded twice."""
    done = results.Run(
        directory=Path("none"),
        status="ok",
        steps=2,
        axes=run.axes,
        values=_All(),
        config=json.loads(config.to_json(run.config)),
    )
    named = stages.named(done, stage.name)
    named.__dict__["metrics"] = _Series()
    return named


def _claims(name):
    """Those of a pipeline whose module judges the runs of all stages; of others none."""
    module = main.load_experiment(name)
    made = module.experiment()
    if not isinstance(made, pipeline.Pipeline) or not hasattr(module, "judge"):
        return []
    made = made.edited(["seeds=3"])
    runs = [_made(stage, run) for stage in made.stages for run in stage.runs(Path("none"))]
    found = module.judge(runs)
    return found[1] if isinstance(found, tuple) else found


def test_every_claim_has_runs():
    claims = {name: _claims(name) for name in main.experiment_names()}
    assert sum(map(bool, claims.values())) >= 9
    lacking = {
        name: [claim.question for claim in found if claim.answer == "Not measured."]
        for name, found in claims.items()
    }
    assert {name: questions for name, questions in lacking.items() if questions} == {}
