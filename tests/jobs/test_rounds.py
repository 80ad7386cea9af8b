import dataclasses

import numpy as np
import pytest

from kanana_jax import config, data
from kanana_jax.data import conversations
from kanana_jax.data.chat import Origin
from kanana_jax.jobs import rounds
from kanana_jax.rollouts import store
from kanana_jax.rollouts.store import Collected, Round, Segment

CFG = config.DataConfig(paths=("said",), seq_len=64, batch_size=4, heldout_fraction=0.2)
MARK = 7  # an id that no stored text has


def _said():
    for k in range(40):
        yield {
            "messages": [
                {"role": "user", "content": f"say {k}"},
                {"role": "assistant", "content": f"{k}"},
            ]
        }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return conversations.read(CFG, cache, streams={"said": _said}).open()


def _collected(*ids):
    origins = (int(Origin.TEMPLATE), *[int(Origin.MODEL)] * (len(ids) - 1))
    return Collected(segments=(Segment(ids, origins),))


class Model:
    """Collects examples that show the weights and the round."""

    def __init__(self, num_examples=1):
        self.asked, self._num = [], num_examples

    def __call__(self, weights, index):
        self.asked.append((weights, index))
        found = tuple(_collected(MARK, weights, index, k) for k in range(self._num))
        return Round(found, {"success": 0.5})


def _source(corpus, directory, model, *, keeps=True, share=0.5, num_steps=6):
    plan = rounds.Plan(num_steps=2, share=share, keeps=keeps, collect=model)
    stages = [data.Stage(num_steps, CFG)]
    return rounds.RoundsSource(corpus, CFG, stages, directory, plan)


def _examples(batch):
    """The ids of every collected segment of a batch."""
    found = []
    for tokens_S, targets_S, segment_S in zip(
        batch.tokens, batch.targets, batch.segment_ids, strict=True
    ):
        for segment in range(1, segment_S.max() + 1):
            here = segment_S == segment
            if tokens_S[here][0] == MARK:
                found.append((MARK, *targets_S[here].tolist()))
    return found


def test_rounds_are_collected_by_the_weights_before_their_first_step(corpus, tmp_path):
    model = Model()
    source = _source(corpus, tmp_path, model)
    for number in range(6):
        source.batch(number, 10 + number)
    assert model.asked == [(10, 0), (12, 1), (14, 2)]


def test_a_share_of_the_rows_is_what_was_collected(corpus, tmp_path):
    source = _source(corpus, tmp_path, Model(), share=0.25)
    counts = [len(_examples(source.batch(number, 10))) for number in range(2)]
    assert counts == [1, 1]


@pytest.mark.parametrize(("keeps", "seen"), [(True, {10, 12, 14}), (False, {14})])
def test_earlier_rounds_stay_or_go(corpus, tmp_path, keeps, seen):
    source = _source(corpus, tmp_path, Model(), keeps=keeps, share=1.0)
    batches = [source.batch(number, 10 + number) for number in range(6)]
    assert {one[1] for one in _examples(batches[5])} == seen


def test_what_the_model_did_not_say_is_not_trained(corpus, tmp_path):
    batch = _source(corpus, tmp_path, Model(), share=1.0).batch(0, 10)
    is_token = batch.segment_ids > 0
    np.testing.assert_array_equal(batch.loss_mask > 0, is_token)
    prompt = Collected(segments=(Segment((MARK, 1, 2, 3), (0, 1, 1, 2)),))
    joint, cfg = rounds.mixed(corpus, CFG, [prompt], 1.0)
    masks = joint.train_batch(cfg, 0).loss_mask
    np.testing.assert_array_equal(masks.sum(axis=1), 1.0)


def test_a_run_that_goes_on_trains_on_what_was_collected_before(corpus, tmp_path):
    first = _source(corpus, tmp_path, Model())
    wanted = [first.batch(number, 10 + number) for number in range(6)]
    model = Model()
    again = _source(corpus, tmp_path, model)
    found = [again.batch(number, 99) for number in (3, 4, 5)]
    assert model.asked == []
    for one, other in zip(wanted[3:], found, strict=True):
        for x, y in zip(one[:-1], other[:-1], strict=True):
            np.testing.assert_array_equal(x, y)


def test_a_round_in_which_nothing_was_kept_trains_on_the_stored_text(corpus, tmp_path):
    source = _source(corpus, tmp_path, Model(num_examples=0))
    batch = source.batch(0, 10)
    assert _examples(batch) == []
    np.testing.assert_array_equal(batch.tokens, corpus.train_batch(CFG, 0).tokens)


def test_batches_behind_the_last_step_belong_to_the_last_round(corpus, tmp_path):
    model = Model()
    source = _source(corpus, tmp_path, model, num_steps=2)
    source.batch(0, 10)
    source.batch(7, 17)  # as after steps that were skipped
    assert model.asked == [(10, 0)]


def test_figures_are_those_of_the_round_of_a_batch(tmp_path):
    """A process that was killed may have left a later round on the disk."""
    of_batch = rounds.figures(tmp_path, every=2).of_batch
    assert of_batch(1) == {}
    for index, success in enumerate((0.5, 0.75)):
        store.write(tmp_path, index, Round((), {"success": success}))
    found = [of_batch(number) for number in (1, 2, 3, 4, 9)]
    assert found == [{"round_success": x} for x in (0.5, 0.5, 0.75, 0.75, 0.75)]


def test_sources_keep_their_ratio(corpus):
    cfg = dataclasses.replace(CFG, weights=(2.0,))
    _, mixed = rounds.mixed(corpus, cfg, [_collected(MARK, 1, 2)], 0.25)
    assert mixed.weights == pytest.approx((0.75, 0.25))
    assert mixed.paths == ("said", rounds.SOURCE)
