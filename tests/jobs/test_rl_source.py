import dataclasses
import types

import numpy as np
import pytest

from kanana_jax import config, data
from kanana_jax.batch import Batch
from kanana_jax.data.chat import Origin
from kanana_jax.jobs import rl_losses, rl_source
from kanana_jax.jobs.job import Built
from kanana_jax.model import presets
from kanana_jax.rollouts import store
from kanana_jax.rollouts.store import Collected, Round, Segment

SEQ_LEN, NUM_ROWS, NUM_STORED = 12, 4, 2
CFG = config.DataConfig(paths=("any",), seq_len=SEQ_LEN, batch_size=NUM_ROWS + NUM_STORED)
ROLLOUTS = config.RolloutConfig(families=("chain_sum",), num_prompts=4, num_samples=2)
RL = config.RLConfig(rollouts=ROLLOUTS, epochs=2, stored_share=NUM_STORED / (NUM_ROWS + NUM_STORED))
SHAPE = presets.tiny(256)
STORED = 99  # an id of stored rows


def _try(number):
    """A try of 6 ids, of which the model drew the last 4; every number tells where it stands."""
    ids = tuple(10 * number + place for place in range(6))
    drawn = (0, 0, 1, 1, 1, 1)
    columns = {
        name: tuple(float(base + one) * is_drawn for one, is_drawn in zip(ids, drawn, strict=True))
        for name, base in (("advantage", 1000), ("sampler", 2000), ("old", 3000))
    }
    origins = tuple(int(Origin.MODEL if one else Origin.USER) for one in drawn)
    routes = np.broadcast_to(np.array(ids[:-1])[:, None, None], (5, SHAPE.num_moe_layers, 2))
    return Collected(segments=(Segment(ids, origins, columns, routes),))


class Rounds:
    """Round r has the tries 100 r + 0, 1, ...; `asked` has the weights that it was asked with."""

    def __init__(self, num_tries=8):
        self.asked, self.num_tries = [], num_tries

    def collect(self, weights, index, before):
        self.asked.append((weights, index, before and before.rest))
        made = tuple(_try(100 * index + k) for k in range(self.num_tries))
        return Round(made, {"success": 0.5}, {"next_prompt": index + 1, "waiting": []})


class Stored:
    fingerprint = "stored"

    def __init__(self, stages):
        (self.stage,) = stages

    def batch(self, number, weights):
        rows = len(self.stage.rows)
        return Batch.of_tokens(np.full((rows, SEQ_LEN + 1), STORED))


def _source(directory, made, cfg=RL, rows=None, num_batches=12):
    objective = rl_losses.objective(cfg)
    steps = types.SimpleNamespace(cfg=types.SimpleNamespace(model=SHAPE))
    built = Built(None, steps, objective, directory=directory)
    stages = [data.Stage(num_batches, CFG, rows)]
    return rl_source.RolloutSource(cfg, CFG, stages, built, made, Stored)


def _tries(batch):
    return sorted(int(row[0]) // 10 for row in batch.tokens if row[0] != STORED)


def test_every_try_of_a_round_is_in_one_batch_of_every_epoch(tmp_path):
    source = _source(tmp_path, Rounds())
    assert rl_source.steps_per_round(RL, CFG.batch_size) == 4
    for index in range(3):
        for epoch in range(2):
            numbers = [4 * index + 2 * epoch + part for part in range(2)]
            seen = [one for n in numbers for one in _tries(source.batch(n, "w"))]
            assert sorted(seen) == [100 * index + k for k in range(8)]


def test_epochs_of_a_round_have_other_batches(tmp_path):
    source = _source(tmp_path, Rounds())
    assert _tries(source.batch(0, "w")) != _tries(source.batch(2, "w"))


def test_a_round_is_played_once_by_the_weights_before_its_first_step(tmp_path):
    made = Rounds()
    source = _source(tmp_path, made)
    for number in range(12):
        source.batch(number, f"weights {number}")
    rests = [None, {"next_prompt": 1, "waiting": []}, {"next_prompt": 2, "waiting": []}]
    assert made.asked == [(f"weights {4 * k}", k, rests[k]) for k in range(3)]


def test_a_run_that_goes_on_reads_what_it_played(tmp_path):
    first = _source(tmp_path, Rounds())
    wanted = [first.batch(number, "w") for number in range(6)]
    made = Rounds()
    again = _source(tmp_path, made)
    for number in (5, 4):
        found = again.batch(number, "other weights")
        for one, other in zip(found[:6], wanted[number][:6], strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(found.routes, wanted[number].routes)
        for name, column in found.extra.items():
            np.testing.assert_array_equal(column, wanted[number].extra[name])
    assert made.asked == []
    assert store.read(tmp_path, 0).figures == {"success": 0.5}


def test_numbers_stand_at_their_targets_and_the_loss_counts_what_was_drawn(tmp_path):
    batch = _source(tmp_path, Rounds()).batch(0, "w")
    for row in range(NUM_ROWS):
        drawn = batch.loss_mask[row] > 0
        assert drawn.sum() == 4
        targets = batch.targets[row][drawn]
        np.testing.assert_array_equal(targets % 10, [2, 3, 4, 5])
        for name, base in (("advantage", 1000), ("sampler", 2000), ("old", 3000)):
            np.testing.assert_array_equal(batch.extra[name][row][drawn], base + targets)
            assert not batch.extra[name][row][~drawn].any()
        np.testing.assert_array_equal(batch.routes[row, :5, 0, 0], batch.tokens[row, :5])
        assert (batch.routes[row, 5:] == -1).all()


def test_stored_rows_are_marked_and_go_where_the_router_sends_them(tmp_path):
    batch = _source(tmp_path, Rounds()).batch(0, "w")
    is_stored = batch.tokens[:, 0] == STORED
    assert is_stored.sum() == NUM_STORED
    np.testing.assert_array_equal(batch.extra["stored"].all(axis=1), is_stored)
    assert (batch.routes[is_stored] == -1).all()
    assert not batch.extra["advantage"][is_stored].any()


def test_rows_of_a_process_are_those_of_the_whole_batch(tmp_path):
    whole = _source(tmp_path, Rounds()).batch(1, "w")
    part = _source(tmp_path, Rounds(), rows=[1, 4]).batch(1, "w")
    np.testing.assert_array_equal(part.tokens, whole.tokens[[1, 4]])
    np.testing.assert_array_equal(part.extra["old"], whole.extra["old"][[1, 4]])
    np.testing.assert_array_equal(part.routes, whole.routes[[1, 4]])


@pytest.mark.parametrize("num_tries", [0, 3])
def test_a_round_with_fewer_tries_fills_its_batches_with_padding(tmp_path, num_tries):
    source = _source(tmp_path, Rounds(num_tries))
    batches = [source.batch(number, "w") for number in range(2)]
    counts = sum(float(batch.loss_mask[:NUM_ROWS].any(axis=1).sum()) for batch in batches)
    assert counts == num_tries
    full = _source(tmp_path / "full", Rounds()).batch(0, "w")
    for batch in batches:
        assert batch.extra.keys() == full.extra.keys()
        assert batch.routes.shape == full.routes.shape


def test_batches_beyond_the_last_round_are_of_the_last_round(tmp_path):
    source = _source(tmp_path, Rounds(), num_batches=4)
    assert _tries(source.batch(5, "w")) == _tries(source.batch(1, "w"))


def test_tries_that_do_not_fill_batches_are_refused():
    uneven = dataclasses.replace(RL, rollouts=dataclasses.replace(ROLLOUTS, num_prompts=3))
    with pytest.raises(config.ConfigError, match=r"3 prompts x 2 samples.*batches of 4 rows"):
        rl_source.steps_per_round(uneven, CFG.batch_size)


def test_a_mismatch_of_sampler_and_trainer_is_told(tmp_path):
    class Far(Rounds):
        def collect(self, *given):
            return super().collect(*given)._replace(figures={"mismatch_k3": 0.5})

    _source(tmp_path, Far()).batch(0, "w")
    assert "differ by a k3 of 0.5" in (tmp_path / "events.jsonl").read_text()
