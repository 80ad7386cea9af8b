"""A guard judges no gradient by the norms of another stage."""

from types import SimpleNamespace
from unittest import mock

import jax.numpy as jnp
import optax
import pytest

from kanana_jax import config, optim
from kanana_jax.train import fit, state


class _Stumbles:
    """A folder with a checkpoint after step 3, whose run is in trouble once, after step 6."""

    def __init__(self, start):
        self.trouble_step, self.recorded = None, []
        self.clock, self.profiler, self.checkpoints = (mock.MagicMock() for _ in range(3))
        notes = {"skipped_batches": 0, "rewinds": 0, "mesh": {}}
        found = SimpleNamespace(state=start, step=3, notes=notes)
        self.checkpoints.restore_latest.side_effect = [None, found]

    def record(self, number, entry):
        self.recorded.append(number)
        self.trouble_step = 6 if self.recorded == [1, 2, 3, 4, 5, 6] else None

    def is_asked_to_stop(self):
        return False

    def nothing(self, *args, **more):
        pass

    begin = rewind = report = save = nothing


def test_norms_of_another_stage_are_forgotten_also_on_the_way_back(monkeypatch):
    monkeypatch.setattr(fit.parallel, "shard_batch", lambda mesh, batch, size: batch)
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
    run = fit.Run(
        stages=(fit.Stage(4, 1, steps, ()), fit.Stage(99, 1, steps, ())),
        mesh=SimpleNamespace(shape={}),
        source=mock.MagicMock(),
        start=lambda: start,
        train=config.TrainConfig(num_steps=6),
        guard=config.GuardConfig(max_rewinds=1),
        lr=1.0,
        frozen={},
    )
    assert fit.fit(_Stumbles(accepted), run) == ("ok", 6)
    root = pytest.approx(2**0.5)
    # Steps 1 to 6 with a new stage at 5; then 4 to 6 again, of batches 7 to 9 of that stage.
    assert norms == [0.0, root, root, root, -1.0, root, -1.0, root, root]
