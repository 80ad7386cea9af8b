"""How a run that goes back behaves where stages begin and end."""

from types import SimpleNamespace
from unittest import mock

import jax.numpy as jnp
import optax
import pytest

from kanana_jax import config, optim
from kanana_jax.train import fit, state


class _Stumbles:
    """A folder with a checkpoint after step 3; its run is in trouble once, after `trouble_step`."""

    def __init__(self, start, trouble_step=6):
        self.trouble_step, self.recorded, self.in_trouble = None, [], trouble_step
        self.clock, self.profiler, self.checkpoints = (mock.MagicMock() for _ in range(3))
        notes = {"skipped_batches": 0, "rewinds": 0, "mesh": {}}
        found = SimpleNamespace(state=start, step=3, notes=notes)
        self.checkpoints.restore_latest.side_effect = [None, found]

    def record(self, number, entry):
        self.recorded.append(number)
        is_first = self.recorded == [*range(1, self.in_trouble + 1)]
        self.trouble_step = self.in_trouble if is_first else None

    def is_asked_to_stop(self):
        return False

    def nothing(self, *args, **more):
        pass

    begin = rewind = report = save = nothing


@pytest.fixture
def a_run(monkeypatch):
    monkeypatch.setattr(fit.parallel, "shard_batch", lambda mesh, batch, size: batch)

    def make(start, stages):
        return fit.Run(
            stages=stages,
            mesh=SimpleNamespace(shape={}),
            source=mock.MagicMock(),
            start=lambda: start,
            train=config.TrainConfig(num_steps=6),
            guard=config.GuardConfig(max_rewinds=1),
            lr=1.0,
            frozen={},
        )

    return make


@pytest.mark.long
def test_norms_of_another_stage_are_forgotten_also_on_the_way_back(a_run):
    made = optim.skip_bad_steps(optax.sgd(1.0), window_steps=1)
    norms = []
    params = jnp.ones(2)

    def train(current, batch, lr, frozen):
        (norm,) = current.opt_state.accepted_norms.tolist()
        norms.append(norm)
        _, opt_state = made.update(params, current.opt_state, params)
        return current._replace(opt_state=opt_state), {}

    start = state.TrainState(0, SimpleNamespace(params=params), made.init(params))
    accepted = start._replace(opt_state=made.update(params, start.opt_state, params)[1])
    steps = mock.MagicMock(train=train)
    steps.diagnose.return_value = {}
    run = a_run(start, (fit.Stage(4, 1, steps, ()), fit.Stage(99, 1, steps, ())))
    assert fit.fit(_Stumbles(accepted), run) == ("ok", 6)
    root = pytest.approx(2**0.5)
    # Steps 1 to 6 with a new stage at 5; then 4 to 6 again, with batches 7 to 9, of that stage.
    assert norms == [0.0, root, root, root, -1.0, root, -1.0, root, root]


def test_a_run_that_went_back_is_measured_at_its_end_alone(a_run):
    made = optim.skip_bad_steps(optax.sgd(1.0), window_steps=1)
    params = jnp.ones(2)
    start = state.TrainState(0, SimpleNamespace(params=params), made.init(params))
    steps = mock.MagicMock(train=lambda current, *rest: (current, {}))
    steps.diagnose.return_value = {}
    measured = []
    evaluator = mock.MagicMock(every=100, of_batch=lambda batch: measured.append(batch) or {})
    evaluator.measure.return_value = {}
    run = a_run(start, (fit.Stage(6, 1, steps, (evaluator,)),))
    assert fit.fit(_Stumbles(start, trouble_step=4), run) == ("ok", 6)
    # The second time, steps 4 to 6 have batches 5 to 7.
    assert measured == [7]
